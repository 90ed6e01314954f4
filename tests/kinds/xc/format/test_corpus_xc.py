"""The corpus made of XC datasets: splits, known queries that leak nothing, cutting, and refusals."""

import json
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from stages.core.errors import UserError
from stages.core.files import read_json, read_jsonl, verify_manifest
from stages.kinds.xc.corpus_xc import check_source
from stages.kinds.xc.knobs import CorpusXcKnobs
from stages.kinds.xc.parts.format.texts import line_hashes
from tests.helpers.cli import invoke
from tests.helpers.tiny import tokenizer_folder
from tests.helpers.xc_fixture import EMPTY, TWIN, orcas, orcas_made, put, wiki, write

TOKENIZER = tokenizer_folder()
SOURCE, CORPUS = Path("source"), Path("data/d/corpus")


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(points: str, *options: str):
    fixed = ["d", "--path", str(SOURCE), "--points", points, "--tokenizer", TOKENIZER, "--skip_share", "0.1"]
    return invoke("corpus_xc", [*fixed, *options])


def made_of(points: str, *options: str) -> dict:
    """Run the stage; its metrics."""
    result = run(points, *options)
    assert result.exit_code == 0, result.output
    return read_json(Path("reports/d/figures/corpus.json"))


def rows(name: str) -> list[dict]:
    return read_jsonl(CORPUS / f"{name}.jsonl")


def refused(points: str, *parts: str, options: tuple = ()) -> None:
    """Exit code 2 and one line that holds every part; no output is left behind."""
    result = run(points, *options)
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    errors = [line for line in result.stderr.strip().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    for part in parts:
        assert part in errors[0], errors[0]
    assert not CORPUS.exists() and not Path("reports/d/figures/corpus.json").exists()


# --- the two shapes


def test_orcas_queries_are_points_and_pages_are_labels():
    made = orcas(SOURCE)
    metrics = made_of("queries")
    verify_manifest(CORPUS)
    assert read_json(CORPUS / "shape.json") == {"points": "queries", "lines": True}
    queries, documents, pairs = rows("queries"), rows("documents"), rows("pairs")
    assert [row["text"] for row in queries] == made.tst_x + made.trn_x
    assert [row["split"] for row in queries] == ["test"] * len(made.tst_x) + ["train"] * len(made.trn_x)
    assert [(row["id"], row["title"]) for row in documents] == [
        (f"y{n:07}", page["doc_title"]) for n, page in enumerate(made.metadata)
    ]
    for row, page, line in zip(documents, made.metadata, made.y, strict=True):
        assert row["text"] == page["doc_body"]  # short enough to be whole
        assert row["metadata"]["url"] == page["url"] and row["metadata"]["line"] == line
        assert row["split"] == ("empty" if not page["doc_body"] else row["split"])
    assert documents[EMPTY]["split"] == "empty"
    for name, key in (("queries", "id"), ("documents", "id")):
        assert [row[key] for row in rows(name)] == sorted(row[key] for row in rows(name))
    places = [(pair["query_id"], pair["document_id"]) for pair in pairs]
    assert places == sorted(set(places))
    known = {(f"x{n:07}", f"y{label:07}") for n, own in enumerate(made.trn) for label in own}
    test = {(f"t{n:07}", f"y{label:07}") for n, own in enumerate(made.tst) for label in own}
    assert set(places) == known | test
    assert {place for place, pair in zip(places, pairs, strict=True) if pair["split"] == "test"} == test
    assert metrics["pair_splits"] == {
        split: sum(pair["split"] == split for pair in pairs) for split in ("train", "hidden", "test")
    }
    assert metrics["documents"] == 60 and metrics["queries"] == len(queries)
    assert metrics["warnings"]["duplicate_labels"] == metrics["warnings"]["empty_documents"] == 1
    assert metrics["warnings"]["training_points_without_labels"] == 1
    found = {(row["query_id"], row["document_id"], row["split"]) for row in rows("filters")}
    assert found == {
        (f"{'x' if split == 'train' else 't'}{row:07}", f"y{column:07}", split)
        for split, own in made.filters.items()
        for row, column in own
    }


def test_wiki_articles_are_points_and_categories_are_labels():
    made = wiki(SOURCE)
    metrics = made_of("documents", "--hidden_pairs", "0")
    assert read_json(CORPUS / "shape.json") == {"points": "documents", "lines": True}
    documents, pairs = rows("documents"), rows("pairs")
    assert [row["text"] for row in rows("queries")] == made.y
    assert {row["split"] for row in rows("queries")} == {"train"}
    tests = len(made.tst_x)
    assert [row["split"] for row in documents[:tests]] == ["xc_test"] * tests
    assert [row["text"] for row in documents[:tests]] == made.tst_x
    assert [row["title"] for row in documents[tests:]] == made.trn_x
    assert [row["text"] for row in documents[tests:]] == [page["content"].strip() for page in made.metadata]
    assert not any("queries" in row["metadata"] for row in documents)
    known = {(f"y{label:07}", f"x{n:07}", "train") for n, own in enumerate(made.trn) for label in own}
    test = {(f"y{label:07}", f"t{n:07}", "test") for n, own in enumerate(made.tst) for label in own}
    found = [(pair["query_id"], pair["document_id"], pair["split"]) for pair in pairs]
    assert found == sorted(known | test)
    assert metrics["splits"]["xc_test"] == tests and metrics["test_queries"] == 0
    assert {row["query_id"][0] + row["document_id"][0] for row in rows("filters")} == {"yx", "yt"}


@pytest.mark.parametrize(("make", "points"), [(orcas, "queries"), (wiki, "documents")])
def test_forms_of_the_same_dataset_give_the_same_bytes(make, points):
    def written(form: str, metadata: str) -> dict[str, bytes]:
        shutil.rmtree(SOURCE, ignore_errors=True)
        make(SOURCE, form=form, metadata=metadata)
        made_of(points)
        return {path.name: path.read_bytes() for path in CORPUS.glob("*.json*")}

    first = written("xc", "metadata.jsonl")
    for form, metadata in (
        ("gz", "metadata.jsonl.gz"),
        ("dexml", "metadata.json"),
        ("renee", "metadata.json.gz"),
    ):
        assert written(form, metadata) == first
    json_form = written("json", "metadata.jsonl")
    for name in ("queries.jsonl", "pairs.jsonl", "filters.jsonl", "shape.json"):
        assert json_form[name] == first[name]


def test_json_lines_need_no_metadata_and_keep_their_uid():
    made = orcas_made()
    write(SOURCE, made, "json", None)
    made_of("queries")
    documents = rows("documents")
    assert [row["text"] for row in documents] == [page["doc_body"] for page in made.metadata]
    assert [row["metadata"]["uid"] for row in documents] == [f"lbl{n}" for n in range(60)]
    assert [row["metadata"]["url"] for row in documents] == made.y
    assert not any("line" in row["metadata"] for row in documents)  # title and text tell it


def test_lines_alone_can_be_the_text():
    made = wiki(SOURCE, form="xc", metadata="unused.jsonl")
    made_of("documents", "--metadata", "none")
    documents = rows("documents")[len(made.tst_x) :]
    assert [(row["title"], row["text"]) for row in documents] == [("", line) for line in made.trn_x]
    assert not any("line" in row["metadata"] for row in documents)


# --- metadata


def test_metadata_of_another_order_is_joined_on_a_key():
    made = orcas(SOURCE)
    made_of("queries")
    expected = rows("documents")
    lines = (SOURCE / "metadata.jsonl").read_text().splitlines()
    extra = json.dumps({"url": "https://else.example", "doc_title": "Else", "doc_body": "Nobody asks."})
    put(SOURCE / "metadata.jsonl.gz", "\n".join([extra, *reversed(lines), lines[0], ""]))
    (SOURCE / "metadata.jsonl").unlink()
    metrics = made_of("queries", "--join_on", "url")
    found = rows("documents")
    twins = (TWIN - 1, TWIN)  # one URL: both get the row that comes first
    assert found[TWIN]["text"] == found[TWIN - 1]["text"] == expected[TWIN]["text"]
    assert [row for n, row in enumerate(found) if n not in twins] == [
        row for n, row in enumerate(expected) if n not in twins
    ]
    assert metrics["warnings"]["unused_metadata"] == 1 and metrics["warnings"]["repeated_metadata"] == 2
    assert metrics["duplicate_share"] == round(2 / 59, 4)
    assert not list(CORPUS.glob(".*")) and made.y[0]


def test_joined_tsv_of_ms_marco_leaves_pages_that_it_lacks_empty():
    orcas(SOURCE, metadata="msmarco-docs.tsv")
    lines = (SOURCE / "msmarco-docs.tsv").read_text().splitlines(keepends=True)
    put(SOURCE / "msmarco-docs.tsv", "".join(lines[:-1]))
    metrics = made_of("queries", "--metadata", "msmarco-docs.tsv", "--join_on", "url")
    last = rows("documents")[-1]
    assert last["split"] == "empty" and metrics["splits"]["empty"] == 2
    assert metrics["warnings"]["without_metadata"] == 1
    assert rows("documents")[0]["metadata"]["uid"] == "D0"
    shutil.rmtree(CORPUS)
    Path("reports/d/figures/corpus.json").unlink()
    options = ("--metadata", "msmarco-docs.tsv", "--join_on", "url", "--skip_share", "0.01")
    refused("queries", "Y.txt, row 8", "with this url, or no text in it", "2 of 60", options=options)


@pytest.mark.parametrize(
    ("change", "options", "parts"),
    [
        (lambda lines: lines[:-1], (), ("metadata.jsonl: 59 rows, but", "Y.txt has more", "join_on")),
        (lambda lines: [*lines, lines[0]], (), ("Y.txt: 60 rows, but", "metadata.jsonl has more")),
        (
            lambda lines: ['{"url": "a"}\n', *lines[1:]],
            (),
            ("row 1", "doc_body or body or content", "this row has url"),
        ),
        (lambda lines: [*lines[:5], '{"doc_body": []}\n', *lines[6:]], (), ("row 6", "'doc_body' is a list")),
        (
            lambda lines: [*lines[:5], '{"doc_body": "a", "relevant_queries": "b"}\n', *lines[6:]],
            (),
            ("row 6", "'relevant_queries' is not a list of texts"),
        ),
        (
            lambda lines: lines,
            ("--skip_share", "0"),
            ("metadata.jsonl, row 8: field 'doc_body' holds no text", "1 of 60"),
        ),
        (
            lambda lines: [line.replace("http", "HTTP") for line in lines],
            ("--join_on", "url"),
            ("not one row has a url",),
        ),
        (lambda lines: lines, ("--join_on", "uid"), ("row 1: no uid to join on",)),
    ],
)
def test_metadata_that_does_not_fit_is_refused(change, options, parts):
    orcas(SOURCE)
    lines = (SOURCE / "metadata.jsonl").read_text().splitlines(keepends=True)
    put(SOURCE / "metadata.jsonl", "".join(change(lines)))
    refused("queries", *parts, options=options)


def test_a_corpus_with_nothing_held_out_is_refused_before_anything_is_paid():
    made = orcas_made(12)
    for page in made.metadata:
        page["doc_body"] = "one text for all pages" if page["doc_body"] else ""
    write(SOURCE, made)
    refused(
        "queries", "no document is left for test (11 train, 0 val, 0 test)", "groups are 1, the largest of 11"
    )
    assert made_of("queries", "--test_share", "0")["splits"]["train"] == 11


@pytest.mark.parametrize("other", ["Tra\u0309 ha\u0300ng", "ｔｒả　ｈàｎｇ", "trả hà\u00adng"])
def test_texts_that_people_see_as_one_compare_equal(other):
    assert len(set(line_hashes(["trả hàng", other]).tolist())) == 1


# --- what prompts may show


def test_known_queries_are_of_training_and_never_hidden_or_of_the_test():
    made = orcas(SOURCE)
    metrics = made_of("queries", "--hidden_pairs", "0.3", "--known_queries", "4")
    text_of = {row["id"]: row["text"] for row in rows("queries")}
    of_label = defaultdict(lambda: defaultdict(set))
    for pair in rows("pairs"):
        of_label[pair["document_id"]][pair["split"]].add(text_of[pair["query_id"]])
    told, hidden = 0, 0
    for row, page in zip(rows("documents"), made.metadata, strict=True):
        shown, own = row["metadata"].get("queries", []), of_label[row["id"]]
        assert len(shown) == len(set(shown)) <= 4
        assert set(shown) <= own["train"] and not set(shown) & (own["hidden"] | own["test"])
        relevant = [text for text in page["relevant_queries"] if text in own["train"]]
        assert shown[: len(relevant)] == relevant[:4]  # the metadata's come first
        assert len(shown) == min(4, len(own["train"]))  # then others, as many as there are
        told += len(shown)
        hidden += len(own["hidden"] & set(page["relevant_queries"]))
    assert metrics["known_queries"] == told and hidden > 0
    assert metrics["warnings"]["withheld_known_queries"] == hidden + len(made.metadata)


def test_a_query_that_is_also_in_the_test_is_not_shown_even_in_other_letters():
    made = orcas_made(12)
    for page in made.metadata:
        page["relevant_queries"] = []
    asked = [n for n, own in enumerate(made.trn) if 3 in own]
    made.tst_x[0] = made.trn_x[asked[0]].upper() + " "
    made.trn_x[asked[1]] = made.trn_x[asked[2]].title()  # one text in two rows is shown once
    write(SOURCE, made)
    made_of("queries", "--hidden_pairs", "0", "--known_queries", "99")
    shown = rows("documents")[3]["metadata"]["queries"]
    assert shown == [made.trn_x[asked[1]], *(made.trn_x[n] for n in asked[3:])]


# --- text and splits


def test_text_is_cut_to_characters_then_tokens_and_is_the_start_of_the_original():
    made = orcas_made(12)
    long = "naïve café ☕ 漢字 reading about the maintenance of bicycles, " * 40
    made.metadata[0]["doc_body"] = f"\n {long}"
    made.metadata[1]["doc_body"] = "word " * 3000
    write(SOURCE, made)
    metrics = made_of("queries", "--max_chars", "1000", "--max_tokens", "120", "--test_share", "0")
    tokenizer = Tokenizer.from_file(f"{TOKENIZER}/tokenizer.json")

    def tokens(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    for row, page in zip(rows("documents"), made.metadata, strict=True):
        title, text, body = row["title"], row["text"], page["doc_body"].strip()
        assert body.startswith(text)
        assert len(f"{title} {text}") <= 1000 and tokens(f"{title} {text}") <= 120
        if text != body:
            more = f"{title} {body}"[: len(title) + 1 + len(text) + 25]
            assert tokens(more) > 120  # not cut earlier than needed
    assert metrics["cut"]["by_chars"] == 2 and metrics["cut"]["by_tokens"] >= 2


def test_the_same_text_has_the_same_split_and_splits_have_their_shares():
    made = wiki(SOURCE, points=90)
    for n, page in enumerate(made.metadata):
        page["content"] = f"Article about number {n // 2}" + " !"[n % 2] * (n % 2)
    for n in range(0, 90, 2):
        made.metadata[n + 1]["content"] = made.metadata[n]["content"].upper() + "\n"
    write(SOURCE, made)
    metrics = made_of("documents", "--val_share", "0.2", "--test_share", "0.2")
    documents = rows("documents")[len(made.tst_x) :]
    for first, second in zip(documents[::2], documents[1::2], strict=True):
        assert first["split"] == second["split"]
        assert first["metadata"]["group"] == second["metadata"]["group"]
    assert metrics["groups"] == 45 and metrics["largest_group"] == 2 and metrics["duplicate_share"] == 1
    splits = Counter(row["split"] for row in documents)
    assert splits["test"] and splits["val"] and splits["train"] > 40


# --- refusals


def test_missing_files_are_all_named_with_where_the_data_is():
    for points, place in (("queries", "msmarco/ORCAS"), ("documents", "bicycleman15/skim")):
        refused(points, "source: no such folder", "trn_X.txt", "lbl.json.gz", "tst_X_Y.npz", place)
        knobs = CorpusXcKnobs(path=str(SOURCE), points=points, tokenizer="models/base/none")
        with pytest.raises(UserError, match="metadata.jsonl") as told:
            check_source(knobs)
        assert "XMLRepository.html" in str(told.value) and str(told.value).count("; ") > 5
    orcas(SOURCE)
    (SOURCE / "tst_X.txt").unlink()
    refused("queries", "source: these files are missing: tst_X.txt (or tst_X.txt.gz")
    orcas(SOURCE)
    (SOURCE / "metadata.jsonl").unlink()
    refused("queries", "source: these files are missing: metadata.jsonl (or metadata.jsonl.gz")
    assert check_source(CorpusXcKnobs(path=str(SOURCE), points="queries", tokenizer="x", metadata="none"))


def test_files_that_do_not_fit_together_are_refused():
    made = orcas(SOURCE)
    put(SOURCE / "Y.txt", "".join(f"{line}\n" for line in made.y[:-1]))
    refused("queries", "trn_X_Y.npz", "361 points × 60 labels", "361 points × 59 labels")
    put(SOURCE / "Y.txt", "".join(f"{line}\n" for line in [*made.y[:-9], *[""] * 9]))
    refused("queries", "Y.txt, row 52: holds no text", "9 of 60", "skip_share is 0.1")


def test_a_directory_without_tokenizer_is_refused():
    orcas(SOURCE)
    refused("queries", "nowhere: no tokenizer.json", options=("--tokenizer", "nowhere"))


def test_an_earlier_corpus_stays_when_a_run_fails():
    orcas(SOURCE)
    made_of("queries")
    before = (CORPUS / "documents.jsonl").read_bytes()
    put(SOURCE / "metadata.jsonl", "{}\n")
    assert run("queries").exit_code == 2
    assert (CORPUS / "documents.jsonl").read_bytes() == before
    assert [path.name for path in Path("data/d").iterdir()] == ["corpus"]
