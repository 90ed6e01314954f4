"""What `make new FOLDER=…` guesses of a folder's files and columns."""

import csv
import json
import random
import shutil
from pathlib import Path

import pytest

from stages import params
from stages.commands import new
from stages.core.errors import UserError
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
    """The knobs that name files and columns."""
    guesses = guess(folder).items()
    return {knob: value for knob, (value, _) in guesses if knob != "html" and not knob.endswith("_share")}


PRODUCTS = [[f"P-{n}", f"Zelt {WORD[n]} {n}", text(n)] for n in range(40)]
QUERIES = [[f"zelt {WORD[n]}", f"P-{n}"] for n in range(30)]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "prompts", "prompts")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, name)
    (folder := Path("data/sources/shop")).mkdir(parents=True)
    return folder


def run(stage: str) -> str:
    """Run a stage for the shop with the knobs of its params, as DVC does; returns what it says."""
    knobs = params.check()[stage]["shop"].items()
    shown = invoke(stage, ["shop", *(part for knob, value in knobs for part in (f"--{knob}", str(value)))])
    assert shown.exit_code == 0, shown.output
    return shown.output


SHOP = ["Artikelnummer", "Bezeichnung", "Beschreibung"], ["Suchbegriff", "Artikel"]


@pytest.mark.parametrize(
    ("separator", "names", "shared_id"),
    [
        (",", SHOP, False),
        (";", SHOP, True),
        ("\t", SHOP, False),
        (";", (["Nr", "Titel", "Beschreibung"], ["Anfrage", "Titel"]), False),  # queries name no number
    ],
)
def test_a_shop_of_forty_products_needs_no_edit_to_reach_its_requests(project, separator, names, shared_id):
    """HTML over two lines, umlauts, a product without text that is asked for, two of the same text."""
    rows = [list(row) for row in PRODUCTS]
    rows[17][2], rows[31][2], rows[9][2] = "", rows[30][2], f"{rows[9][2]}\n<ul><li>neu\n</ul>"
    if shared_id:
        rows[3][0] = rows[2][0]
    by_title = "Titel" in names[0]
    asked = [[query, rows[n][by_title]] for n, (query, _) in enumerate(QUERIES)]
    table(project / "products.csv", names[0], rows, separator)
    table(project / "queries.csv", names[1], asked, separator)
    said = "\n".join(new.scaffold("shop", str(project)))
    assert "39 of 40 texts hold tags" in said
    assert "warning" not in run("corpus")
    run("prompt")
    figures = json.loads(Path("reports/shop/figures/corpus.json").read_text())
    assert figures["documents"] == 39 and figures["pairs"] == len(asked) - 1 + 2 * shared_id
    requests = Path("data/shop/requests.jsonl").read_text()
    assert len(requests.splitlines()) == 39 and "Größe & Gewicht" in requests
    assert not any(tag in requests for tag in ("<p>", "<li>", "&amp;"))


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_all_files_that_cannot_be_read_are_named_at_once_and_nothing_is_left(project, encoding):
    graph = Path("dvc.yaml").read_text()
    for file in ("produkte.csv", "suchen.csv"):
        (project / file).write_text("Größe;Maß\n", encoding=encoding)
    with pytest.raises(UserError, match="produkte.csv, line 1: .*UTF-8.*suchen.csv, line 1: .*UTF-8"):
        new.scaffold("shop", str(project))
    assert Path("dvc.yaml").read_text() == graph and not Path("prompts/shop").exists()


@pytest.mark.parametrize(
    ("file", "beside"),
    [
        ("Produkte.xlsx", "queries.csv"),
        ("documents.txt", "queries.csv"),
        ("queries.xlsx", "documents.csv"),
        ("Suchen.ods", "documents.csv"),
    ],
)
def test_a_spreadsheet_is_told_how_to_save_it(tmp_path, file, beside):
    table(tmp_path / beside, ["id", "title", "text"], PRODUCTS)
    (tmp_path / file).write_bytes(b"PK")
    with pytest.raises(UserError, match=f"{file}: cannot read this kind of file; .* as CSV UTF-8"):
        guess(tmp_path)


def test_queries_that_name_no_document_are_refused(tmp_path):
    table(tmp_path / "documents.csv", ["id", "title", "text"], PRODUCTS)
    table(tmp_path / "queries.csv", ["query"], [row[:1] for row in QUERIES])
    with pytest.raises(UserError, match=r"no column of the queries \(query\) says which document"):
        guess(tmp_path)


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


def test_an_id_of_the_queries_own_is_not_the_documents(tmp_path):
    table(
        tmp_path / "documents.csv", ["id", "title", "text"], [[n, *row[1:]] for n, row in enumerate(PRODUCTS)]
    )
    table(tmp_path / "queries.csv", ["id", "query", "item"], [[n, f"q{n}", 39 - n] for n in range(30)])
    assert columns(tmp_path) == {"document_field": "item"}


def test_files_that_are_left_out_are_named(tmp_path):
    table(tmp_path / "tents.csv", ["id", "title", "text"], PRODUCTS)
    table(tmp_path / "shoes.csv", ["id", "title", "text"], PRODUCTS[:5])
    assert guess(tmp_path)["documents"] == ("tents.csv", "the file that looks like it; not read: shoes.csv")


def test_an_empty_folder_has_nothing_to_guess(tmp_path):
    assert guess(tmp_path) == {}
