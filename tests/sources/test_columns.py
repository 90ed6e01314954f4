"""What `make new FOLDER=…` guesses of a folder's files and columns."""

import csv
import json
import random
import shutil
from pathlib import Path

import pytest

from stages import params
from stages.commands import new
from stages.sources.columns import guess
from tests.helpers.cli import invoke
from tests.helpers.tiny import WORDS
from tests.helpers.workspace import ROOT

WORD = WORDS.split()


def text(seed: int) -> str:
    return f"<p>Größe &amp; Gewicht: {' '.join(random.Random(seed).sample(WORD, 14))}</p>"


def table(path: Path, header: list[str], rows: list[list], separator: str = ",") -> None:
    with open(path, "w", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream, delimiter=separator).writerows([header, *rows])


def columns(folder: Path) -> dict:
    return {knob: value for knob, (value, _) in guess(folder).items() if not knob.endswith("_share")}


PRODUCTS = [[f"P-{n}", f"Zelt {WORD[n]} {n}", text(n)] for n in range(40)]
QUERIES = [[f"zelt {WORD[n]}", f"P-{n}"] for n in range(30)]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_shop_of_forty_products_needs_no_edit_to_be_read(tmp_path, monkeypatch, separator):
    """HTML, umlauts, a product without text, two of the same text; names as a spreadsheet has them."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "prompts", "prompts")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, name)
    rows = [list(row) for row in PRODUCTS]
    rows[17][2], rows[31][2] = "", rows[30][2]
    asked = [row for row in QUERIES if row[1] != "P-17"]
    (folder := tmp_path / "data/sources/shop").mkdir(parents=True)
    table(folder / "products.csv", ["Artikelnummer", "Bezeichnung", "Beschreibung"], rows, separator)
    table(folder / "queries.csv", ["Suchbegriff", "Artikel"], asked, separator)
    new.scaffold("shop", "data/sources/shop")
    knobs = params.check()["corpus"]["shop"]
    shown = invoke(
        "corpus", ["shop", *(part for knob, value in knobs.items() for part in (f"--{knob}", str(value)))]
    )
    assert shown.exit_code == 0, shown.output
    figures = json.loads(Path("reports/shop/figures/corpus.json").read_text())
    assert figures["documents"] == 39 and figures["pairs"] == len(asked)
    assert figures["splits"]["train"] and figures["splits"]["test"]


def test_names_as_documented_need_no_knob(tmp_path):
    table(tmp_path / "documents.csv", ["id", "title", "text"], PRODUCTS)
    table(tmp_path / "queries.csv", ["query", "document_id"], QUERIES)
    assert columns(tmp_path) == {}


@pytest.mark.parametrize(
    ("documents", "queries"),
    [
        (["sku", "name", "description"], ["search term", "product"]),
        (["Product ID", "Product Name", "Body"], ["question", "item"]),
        (["a", "b", "c"], ["d", "e"]),
    ],
)
def test_columns_are_known_by_name_or_by_what_they_hold(tmp_path, documents, queries):
    table(tmp_path / "catalogue.csv", documents, PRODUCTS)
    table(tmp_path / "search_log.csv", queries, QUERIES)
    fields = ("id_field", "title_field", "text_field", "query_field", "document_field")
    expected = dict(zip(fields, [*documents, *queries], strict=True))
    assert columns(tmp_path) == expected | {"documents": "catalogue.csv", "queries": "search_log.csv"}


def test_lists_of_queries_and_documents_are_read(tmp_path):
    rows = [{"key": f"k{n}", "content": text(n)} for n in range(9)]
    asked = [{"questions": [f"a {n}", f"b {n}"], "about": [f"k{n}", "k0"]} for n in range(9)]
    for name, lines in (("documents", rows), ("queries", asked)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert columns(tmp_path) == {
        "id_field": "key",
        "text_field": "content",
        "query_field": "questions",
        "document_field": "about",
    }


def test_rows_without_text_raise_the_share_that_may_lack_it_up_to_a_point(tmp_path):
    for empty, share in ((0, None), (3, 0.08), (20, None)):
        rows = [[*row[:2], "" if n < empty else row[2]] for n, row in enumerate(PRODUCTS)]
        table(tmp_path / "documents.csv", ["id", "title", "text"], rows)
        assert guess(tmp_path).get("skip_share", (None,))[0] == share


def test_an_empty_folder_has_nothing_to_guess(tmp_path):
    assert guess(tmp_path) == {}
