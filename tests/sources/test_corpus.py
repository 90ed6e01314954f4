"""The corpus stage: formats, bad input, splits that leak nothing, and the same bytes whatever the order."""

import gzip
import json
import random
import time
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from stages.core.files import read_json, read_jsonl, verify_manifest, write_jsonl
from stages.sources.markup import without_html
from stages.sources.near import near_duplicate_groups
from stages.sources.splits import (
    merge_queries,
    show_known,
    split_groups,
    split_of_group,
    split_pairs,
    split_queries,
)
from tests.helpers.cli import invoke

FAIRE = Path(__file__).parents[2] / ".." / "shared" / "data" / "faire"
CORPUS = Path("data/d/corpus")
WORDS = [f"word{number}" for number in range(3000)]


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("source").mkdir()


def page(number: int, words: int = 40) -> dict:
    text = " ".join(random.Random(number).choices(WORDS, k=words))
    return {"id": f"p{number:04}", "title": f"Page {number}", "text": text, "topic": number % 7}


def corpus(*options: str) -> int:
    return run(*options).exit_code


def run(*options: str):
    return invoke("corpus", ["d", "--source", "folder", "--path", "source", *options])


def rows(name: str) -> list[dict]:
    return read_jsonl(CORPUS / f"{name}.jsonl")


def refused(*parts: str, options: tuple = ()) -> None:
    """The stage refuses with exit code 2 and one line that holds every part, and leaves no output behind."""
    result = run(*options)
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert len(result.stderr.strip().splitlines()) == 1
    for part in parts:
        assert part in result.stderr
    assert not CORPUS.exists() and not Path("reports/d/figures/corpus.json").exists()


# --- formats


def save(kind: str, name: str, records: list[dict]) -> None:
    path = Path("source") / f"{name}.{kind}"
    if kind == "jsonl":
        write_jsonl(path, records)
    elif kind == "json":
        path.write_text(json.dumps(records, indent=1))
    else:
        import pandas

        frame = pandas.DataFrame(records)
        frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path, index=False)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_every_format_gives_the_same_documents(kind):
    pages = [page(number) for number in range(30)]
    pages[3]["text"] = 'Line one, with a comma\nand "quotes"\u2028 é – 漢字'
    save(kind, "documents", pages)
    save(kind, "queries", [{"query": "first  page", "document_id": "p0001"}])
    assert corpus() == 0
    documents = rows("documents")
    assert [(d["id"], d["title"], d["text"]) for d in documents] == [
        (p["id"], p["title"], p["text"]) for p in pages
    ]
    assert {str(d["metadata"]["topic"]) for d in documents} == set("0123456")
    assert [query["text"] for query in rows("queries")] == ["first page"]
    assert rows("pairs")[0]["document_id"] == "p0001"
    manifest = verify_manifest(CORPUS)
    assert manifest["producer"] == "corpus" and manifest["files"]["documents.jsonl"]["rows"] == 30


def test_json_lines_under_the_name_json():
    Path("source/documents.json").write_text('\ufeff{"text": "one two"}\n{"text": "three four"}\n')
    assert corpus() == 0 and len(rows("documents")) == 2


def test_without_id_and_title_a_hash_and_the_first_words_stand_in():
    text = " ".join(f"w{number}" for number in range(30))
    save("csv", "documents", [{"text": text}, {"text": "short one"}, {"text": text}])
    assert corpus() == 0
    by_title = {document["title"]: document for document in rows("documents")}
    assert set(by_title) == {" ".join(text.split()[:12]), "short one"}
    assert all(len(document["id"]) == 16 for document in by_title.values())


def test_dotted_fields_walk_lists():
    save(
        "jsonl",
        "docs",
        [{"meta": {"key": 7}, "body": "a text here"}, {"meta": {"key": 8}, "body": "another"}],
    )
    asked = {"questions": ["what is a", "what is b"], "gold": [{"m": {"s": 7}}, {"m": {"s": 8}}]}
    save("jsonl", "asked_1", [asked])
    save("jsonl", "asked_2", [{"questions": "WHAT is a", "gold": {"m": {"s": 8}}}])
    fields = "--documents docs.jsonl --queries asked_*.jsonl --id_field meta.key --text_field body"
    assert corpus(*fields.split(), "--query_field", "questions", "--document_field", "gold.m.s") == 0
    assert [document["id"] for document in rows("documents")] == ["7", "8"]
    assert rows("documents")[0]["metadata"]["meta"] == {"key": 7}
    assert len(rows("queries")) == 2  # "WHAT is a" is "what is a"
    assert len(rows("pairs")) == 4
    assert read_json(Path("reports/d/figures/corpus.json"))["pairs"] == 4


def test_parquet_dates_become_text():
    import datetime

    save("parquet", "documents", [{"text": "some text", "day": datetime.date(2020, 2, 1)}])
    assert corpus("--test_share", "0") == 0
    assert rows("documents")[0]["metadata"]["day"] == "2020-02-01"


def test_long_csv_fields_are_read():
    save("csv", "documents", [{"text": "word " * 60_000}])
    assert corpus("--test_share", "0") == 0


@pytest.mark.parametrize("repeated", ["join", "parts"])
def test_rows_with_the_same_id(repeated):
    save(
        "jsonl",
        "documents",
        [{"id": "a", "text": "part one"}, {"id": "b", "text": "whole"}, {"id": "a", "text": "two"}],
    )
    save("jsonl", "queries", [{"query": "about a", "document_id": "a"}])
    assert corpus("--repeated_id", repeated) == 0
    documents = rows("documents")
    pairs = {pair["document_id"] for pair in rows("pairs")}
    if repeated == "join":
        assert [(d["id"], d["text"]) for d in documents] == [("a", "part one\n\ntwo"), ("b", "whole")]
        assert pairs == {"a"}
    else:
        parts = [document for document in documents if document["metadata"].get("part_of") == "a"]
        assert {part["text"] for part in parts} == {"part one", "two"} and len(documents) == 3
        assert len({part["metadata"]["group"] for part in parts}) == 1
        assert pairs == {part["id"] for part in parts}


# --- bad input


def test_no_path():
    result = invoke("corpus", ["d"])
    assert result.exit_code == 2 and "set it to the folder" in result.stderr


def test_no_such_folder():
    Path("source").rmdir()
    refused("source: no such folder", "set `path`")


def test_empty_folder():
    refused("source/documents.*: no such file", "`documents`", "holds: no files")


def test_glob_without_match():
    save("jsonl", "docs", [page(1)])
    refused("source/pages*.jsonl: no such file", "holds: docs.jsonl", options=("--documents", "pages*.jsonl"))
    wanted = ("--documents", "docs.jsonl", "--queries", "q.jsonl")
    refused("source/q.jsonl: no such file", "`queries`", options=wanted)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_zero_documents(kind):
    Path(f"source/documents.{kind}").write_text({"jsonl": "\n", "json": "[]", "csv": "id,text\n"}[kind])
    refused("source/documents.*: zero documents in 0 rows")


def test_unknown_kind_of_file():
    Path("source/documents.xlsx").write_text("x")
    refused("source/documents.xlsx: cannot read", ".jsonl, .json, .parquet, .csv")


def test_not_a_parquet_file():
    Path("source/documents.parquet").write_text("id,text")
    refused("source/documents.parquet, after row 0: not a whole Parquet file")


def test_duplicate_ids():
    save("jsonl", "documents", [page(1), page(2), {**page(3), "id": "p0001"}])
    refused(
        "documents.jsonl, row 3", "'p0001' is already used in source/documents.jsonl, row 1", "repeated_id"
    )


def test_a_row_that_repeats_another_in_all_is_none():
    save("jsonl", "documents", [page(1), page(2), page(1)])
    assert corpus("--test_share", "0") == 0 and len(rows("documents")) == 2
    save("jsonl", "documents", [page(1), page(1), {**page(1), "text": "more"}])
    assert corpus("--repeated_id", "join", "--test_share", "0") == 0
    assert rows("documents")[0]["text"].count(page(1)["text"]) == 1
    save("jsonl", "documents", [page(1), page(1), {**page(1), "topic": 9}])
    assert run().exit_code == 2


def test_empty_id():
    save("csv", "documents", [{"id": "", "text": "a text"}])
    refused("documents.csv, row 1", "field 'id' is empty")


def test_empty_text():
    save("jsonl", "documents", [page(1), {**page(2), "text": " \n"}])
    refused("documents.jsonl, row 2", "field 'text' holds no text", "1 of 2", "skip_share is 0.01")
    assert corpus("--skip_share", "0.5", "--test_share", "0") == 0
    assert len(rows("documents")) == 1
    assert read_json(Path("reports/d/figures/corpus.json"))["skipped"] == {"documents": 1, "pairs": 0}


def test_only_empty_texts():
    save("jsonl", "documents", [{"text": " "}])
    refused("zero documents", options=("--skip_share", "1"))


@pytest.mark.parametrize(
    ("row", "options", "parts"),
    [
        ({"body": "x"}, (), ("field 'text' is missing", "this row has body", "set text_field")),
        ({"text": "x"}, ("--id_field", "key"), ("field 'key' is missing", "set id_field")),
        ({"text": "x"}, ("--title_field", "name"), ("field 'name' is missing", "set title_field")),
        ({"text": {"a": "x"}}, ("--text_field", "text.b"), ("field 'text.b' is missing",)),
        ({"text": 1.5}, (), ("field 'text' is a number, expected text",)),
        ({"text": 1e22}, (), ("field 'text' is a number, expected text or a whole number",)),
        ({"text": None}, (), ("field 'text' holds no text", "1 of 1")),
        ({"text": True}, (), ("field 'text' is true or false, expected text",)),
        ({"text": {"a": 1}}, (), ("field 'text' is an object, expected text",)),
        ({"text": ["x", "y"]}, (), ("field 'text' holds 2 values, expected one",)),
        ({"text": "half \ud83d"}, (), ("'\\ud83d'", "half of a character")),
    ],
)
def test_bad_fields(row, options, parts):
    Path("source/documents.jsonl").write_text(json.dumps(row) + "\n")
    refused("source/documents.jsonl, row 1", *parts, options=options)


def test_bad_row_number_counts_blank_lines():
    Path("source/documents.jsonl").write_text('{"text": "x y"}\n\n{"txt": "x"}\n')
    refused("source/documents.jsonl, row 3: field 'text' is missing")


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_not_utf8(kind):
    raw = {
        "jsonl": b'{"text": "a"}\n{"text": "caf\xe9"}\n',
        "json": b'[\n"caf\xe9"]',
        "csv": b"text\ncaf\xe9\n",
    }
    Path(f"source/documents.{kind}").write_bytes(raw[kind])
    place = {"jsonl": "row 2: byte 0xe9", "json": "row 1: holds a byte", "csv": "line 2: byte 0xe9"}[kind]
    refused(f"source/documents.{kind}, {place}", "is not UTF-8", "0xe9", "save the file as UTF-8")


def test_broken_json():
    Path("source/documents.jsonl").write_text('{"text": "a"}\n{"text": \n')
    refused("source/documents.jsonl, row 2: not valid JSON")
    Path("source/documents.jsonl").write_text('{"text": "a"}\n["a"]\n')
    refused("source/documents.jsonl, row 2: expected an object with fields, found a list")


@pytest.mark.parametrize(("line", "fields"), [("a,b,c", "more"), ("a", "fewer")])
def test_csv_rows_of_another_width(line, fields):
    Path("source/documents.csv").write_text(f"id,text\n1,fine\n{line}\n")
    refused(f"source/documents.csv, row 2: {fields} fields than the header")


def test_query_about_an_unknown_document():
    save("jsonl", "documents", [page(1), page(2)])
    asked = [{"query": "known", "document_id": "p0001"}, {"query": "lost", "document_id": "p0009"}]
    save("jsonl", "queries", asked)
    refused(
        "queries.jsonl, row 2", "field 'document_id' names the document 'p0009'", "1 of 2", "document_field"
    )
    assert corpus("--skip_share", "0.5") == 0
    assert len(rows("pairs")) == 1
    assert read_json(Path("reports/d/figures/corpus.json"))["skipped"] == {"documents": 0, "pairs": 1}


def test_queries_lack_a_field():
    save("jsonl", "documents", [page(1)])
    save("jsonl", "queries", [{"question": "x y", "document_id": "p0001"}])
    refused("queries.jsonl, row 1: field 'query' is missing", "set query_field")


def test_an_unknown_knob_value():
    save("jsonl", "documents", [page(1)])
    refused("test_share", "less than 0.5", options=("--test_share", "0.9"))


@pytest.mark.parametrize(
    "break_", ["\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
)
def test_an_id_is_one_line(break_):
    save("jsonl", "documents", [page(1), {**page(2), "id": f"p2{break_}appendix"}])
    refused("documents.jsonl, row 2: field 'id' has a line break in it", repr(break_)[1:-1])
    save("jsonl", "documents", [page(1), {**page(2), "id": f"p2 \t x{break_}"}])
    save("jsonl", "queries", [{"query": "a b", "document_id": f"{break_}p2 \t x"}])
    assert corpus() == 0 and rows("pairs")[0]["document_id"] == "p2 \t x"


@pytest.mark.parametrize(("number", "id"), [(7, "7"), (7.0, "7"), (10**30, "1" + "0" * 30), (-0.0, "0")])
def test_whole_numbers_are_ids(number, id):
    save("jsonl", "documents", [{**page(1), "id": number}])
    assert corpus("--test_share", "0") == 0 and rows("documents")[0]["id"] == id


@pytest.mark.parametrize("number", [1.5, 1e22, 2.0**53, -(2.0**60)])
def test_numbers_that_may_have_lost_digits_are_no_ids(number):
    save("jsonl", "documents", [{**page(1), "id": number}])
    refused("documents.jsonl, row 1: field 'id' is a number, expected text or a whole number")


def test_null_is_an_empty_text():
    save("jsonl", "documents", [page(1), {**page(2), "text": None}, {**page(3), "title": None}])
    refused("documents.jsonl, row 2: field 'text' holds no text", "1 of 3")
    save("jsonl", "queries", [{"query": ["a b", None], "document_id": "p0001"}])
    assert corpus("--skip_share", "0.5") == 0 and len(rows("documents")) == 2 and len(rows("queries")) == 1
    save(
        "parquet",
        "documents",
        [{"id": f"p{n}", "text": None if n == 5 else page(n)["text"]} for n in range(9)],
    )
    Path("source/documents.jsonl").unlink()
    Path("source/queries.jsonl").unlink()
    assert corpus("--skip_share", "0.5") == 0 and len(rows("documents")) == 8
    save("jsonl", "more", [{"id": None, "text": "x y"}])
    refused_again = run("--documents", "more.jsonl")
    assert refused_again.exit_code == 2 and "field 'id' is empty" in refused_again.stderr


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_all_missing_fields_are_named_at_once(kind):
    save(kind, "documents", [{"sku": "a", "body": "one two"}])
    save(kind, "queries", [{"question": "what", "sku": "a"}])
    refused(
        f"documents.{kind}, row 1: field 'key' is missing, field 'text' is missing, field 'name' is missing "
        "(this row has sku, body); set id_field and text_field and title_field to their names",
        f"queries.{kind}, row 1: field 'query' is missing, field 'document_id' is missing "
        "(this row has question, sku); set query_field and document_field to their names",
        options=("--id_field", "key", "--title_field", "name"),
    )


@pytest.mark.parametrize(
    "name",
    [
        "documents.jsonl.dvc",
        "documents.jsonl~",
        ".documents.jsonl.swp",
        "documents.jsonl.bak",
        "._documents.jsonl",
    ],
)
@pytest.mark.parametrize("pattern", ["documents.*", "*"])
def test_what_stands_beside_data_is_no_data(name, pattern):
    save("jsonl", "documents", [page(1)])
    Path("source", name).write_text("no data")
    assert corpus("--documents", pattern, "--test_share", "0") == 0 and len(rows("documents")) == 1
    Path("source/documents.jsonl").unlink()
    assert run("--documents", pattern).stderr.count("no such file; set `documents`") == 1


@pytest.mark.parametrize(
    "name", ["documents.JSONL", "documents.jsonl.gz", "documents.json.gz", "documents.Jsonl.GZ"]
)
def test_names_in_capitals_and_packed_files_are_read(name):
    text = json.dumps(page(1)).encode()
    Path("source", name).write_bytes(gzip.compress(text) if name.lower().endswith("gz") else text)
    assert corpus("--test_share", "0") == 0 and rows("documents")[0]["id"] == "p0001"


def test_an_open_quote_in_the_queries_swallows_none():
    save("jsonl", "documents", [page(1)])
    Path("source/queries.csv").write_text('query;document_id\n"how long;p0001\nwhy "p";p0001\n"when;p0001\n')
    refused("queries.csv, row 1: not valid CSV")


@pytest.mark.parametrize("column", ["text", "id"])
def test_parquet_columns_of_one_name(column):
    import pyarrow
    from pyarrow.parquet import write_table

    columns = [pyarrow.array(["a"]), pyarrow.array(["some text"]), pyarrow.array(["other"])]
    table = pyarrow.Table.from_arrays(columns, names=["id", "text", column])
    write_table(table, "source/documents.parquet")
    refused(f"documents.parquet: two columns are called '{column}'")


def test_damaged_parquet_is_one_line():
    save("parquet", "documents", [page(number) for number in range(200)])
    path = Path("source/documents.parquet")
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:place] + bytes(range(255, 191, -1)) + whole[place + 64 :])
        result = run()  # some damage, in what is not read, does not show
        assert result.exit_code in (0, 2) and len(result.stderr.strip().splitlines()) <= 1, result.output
        path.write_bytes(whole[:place])
        assert run().exit_code == 2


@pytest.mark.parametrize("as_dictionary", [False, True])
def test_a_small_parquet_file_that_stands_for_much_is_refused(monkeypatch, as_dictionary):
    import pyarrow
    from pyarrow.parquet import write_table

    monkeypatch.setattr("stages.core.files.EXPANDS", 2)
    texts = pyarrow.array(["word " * 20_000] * 40)
    table = pyarrow.table({"text": texts.dictionary_encode() if as_dictionary else texts})
    write_table(table, "source/documents.parquet", use_dictionary=as_dictionary, compression="zstd")
    refused("documents.parquet: stands for", "over 2 times its own")


def test_deep_metadata_goes_through_the_whole_stage():
    text = json.dumps(page(1))[:-1] + ', "x": ' + "[" * 690 + "]" * 690 + "}"
    Path("source/documents.jsonl").write_text(text)
    assert corpus("--test_share", "0") == 0


def test_a_refused_run_leaves_the_earlier_corpus():
    save("jsonl", "documents", [page(1), page(2)])
    assert corpus() == 0
    before = (CORPUS / "documents.jsonl").read_bytes()
    save("jsonl", "documents", [page(1), {**page(2), "id": "p0001"}])
    assert run().exit_code == 2
    assert (CORPUS / "documents.jsonl").read_bytes() == before
    verify_manifest(CORPUS)


# --- HTML


@pytest.mark.parametrize(
    "text, plain",
    [
        ("<p>Send it <b>back</b> &amp; wait.</p><p>Two</p>", "Send it back & wait.\n\nTwo"),
        ("<UL CLASS='a > b'><li>one<li>two</UL>", "one\ntwo"),
        ("<table><tr><td>a</td><td>b</td></tr></table>", "a b"),
        ("<script>if (a<b) {'<p>'}</script>Hi<style>p{}</style><br/>there<!-- <p>no</p> -->", "Hi\nthere"),
        (
            "Map<K, V>, <name@example.org>, 1 < 2 &lt;p&gt; <b>bold</b>",
            "Map<K, V>, <name@example.org>, 1 < 2 <p> bold",
        ),
        ("&#8364;5&nbsp;&#x20ac;", "€5 €"),
        ("<![CDATA[<p>from a feed</p>]]><br>on", "from a feed\n\non"),
        ("<p>torn <b", "torn <b"),
        ("a < b,  List<String> R&D\n\n  as it is", "a < b,  List<String> R&D\n\n  as it is"),
    ],
)
def test_html_is_stripped_or_told(text, plain):
    save("jsonl", "documents", [{"text": text}, page(1), {**page(2), "title": text}])
    save("jsonl", "queries", [{"query": text, "document_id": "p0001"}])
    told = "warning: 1 of 3 texts hold HTML, tags or entities"
    assert (told in run().stderr) == (text != plain) and text in [row["text"] for row in rows("documents")]
    result = run("--html", "strip")
    assert result.exit_code == 0 and "warning" not in result.stderr
    assert plain in [row["text"] for row in rows("documents")]
    flat = " ".join(plain.split())
    assert flat in [row["title"] for row in rows("documents")] and rows("queries")[0]["text"] == flat


@pytest.mark.parametrize(
    "piece", ["<p ", "<!--", "<script>", "<a x='", "<![CDATA[", "<![", "&lt", "</", '<b "']
)
def test_torn_html_costs_no_time(piece):
    started = time.monotonic()
    assert without_html(f"<b>bold</b> {piece * 20_000}").startswith("bold")
    assert time.monotonic() - started < 1


def test_a_text_of_nothing_but_html_is_empty():
    save("jsonl", "documents", [{"text": "<p> <br/>&nbsp;</p>"}, page(1), page(2)])
    refused("row 1: field 'text' holds no text", "1 of 3", options=("--html", "strip"))


# --- determinism and splits


def with_near_duplicates() -> list[dict]:
    """300 pages, a third of them with an edited copy and some with an exact one under another id."""
    pages = [page(number, words=60) for number in range(300)]
    copies = []
    for number, original in enumerate(pages[:100]):
        words = original["text"].split()
        words[number % 50 : number % 50 + 6] = ["other", "text"]
        copies.append({**original, "id": f"copy{number:03}", "text": " ".join(words)})
    exact = [{**original, "id": f"exact{number}"} for number, original in enumerate(pages[50:60])]
    return pages + copies + exact


@pytest.mark.parametrize("options", [(), ("--repeated_id", "parts")])
def test_same_bytes_whatever_the_row_order(options):
    records = [{**one, "id": one["id"][-2:] if options else one["id"]} for one in with_near_duplicates()]
    asked = [{"query": f"Query {n % 40}", "document_id": one["id"]} for n, one in enumerate(records)]
    asked += [{"query": f"query {n}", "document_id": records[n]["id"]} for n in range(40)]
    seen = set()
    for seed in (1, 2):
        random.Random(seed).shuffle(records)
        random.Random(seed).shuffle(asked)
        save("jsonl", "documents", records)
        save("jsonl", "queries", asked)
        assert corpus(*options) == 0
        files = (*sorted(CORPUS.iterdir()), Path("reports/d/figures/corpus.json"))
        seen.add(tuple(file.read_bytes() for file in files))
    assert len(seen) == 1
    assert [row["id"] for row in rows("documents")] == sorted(row["id"] for row in rows("documents"))


def test_no_near_duplicate_crosses_a_split():
    save("jsonl", "documents", with_near_duplicates())
    assert corpus("--test_share", "0.3", "--val_share", "0.2") == 0
    documents = {document["id"]: document for document in rows("documents")}
    for number in range(100):
        assert documents[f"copy{number:03}"]["split"] == documents[f"p{number:04}"]["split"]
    for number in range(10):
        assert documents[f"exact{number}"]["split"] == documents[f"p{number + 50:04}"]["split"]
    shares = {split: sum(d["split"] == split for d in documents.values()) / 410 for split in ("val", "test")}
    assert 0.2 < shares["test"] < 0.4 and 0.1 < shares["val"] < 0.3
    metrics = read_json(Path("reports/d/figures/corpus.json"))
    assert metrics["groups"] == 300 and metrics["largest_group"] == 3
    assert metrics["near_duplicate_share"] == round(210 / 410, 4) and sum(metrics["splits"].values()) == 410


def test_groups_are_exactly_the_links_of_all_pairs():
    """MinHash finds what comparing every pair finds, on pages that overlap by every amount."""
    generator, pages = random.Random(5), []
    for _ in range(60):
        base = generator.choices(WORDS, k=80)
        cut = generator.randrange(5, 80)
        pages += [base, base[:cut] + generator.choices(WORDS, k=80 - cut)]
    documents = [{"id": f"{n:03}", "text": " ".join(words), "metadata": {}} for n, words in enumerate(pages)]
    shingles = [{tuple(words[at : at + 4]) for at in range(len(words) - 3)} for words in pages]
    groups = near_duplicate_groups(documents)
    linked = 0
    for a in range(len(pages)):
        for b in range(a):
            jaccard = len(shingles[a] & shingles[b]) / len(shingles[a] | shingles[b])
            linked += jaccard >= 0.3
            assert (groups[a] == groups[b]) == (jaccard >= 0.3)
    assert 20 < linked < 60


def test_shared_boilerplate_does_not_link_pages():
    boilerplate = " ".join(WORDS[:30])
    documents = [{**page(n, words=70), "metadata": {}} for n in range(200)]
    for document in documents:
        document["text"] += " " + boilerplate
    assert len(set(near_duplicate_groups(documents))) == 200


def test_new_documents_do_not_move_old_ones():
    old = with_near_duplicates()
    save("jsonl", "documents", old)
    corpus("--test_share", "0.3")
    before = {document["id"]: document["split"] for document in rows("documents")}
    save("jsonl", "documents", [{**page(number), "id": f"a{number}"} for number in range(1000, 1300)] + old)
    corpus("--test_share", "0.3")
    after = {document["id"]: document["split"] for document in rows("documents")}
    assert before.items() <= after.items() and len(after) == len(before) + 300


def test_split_follows_the_shares():
    splits = [split_of_group(f"group {number}", 0.03, 0.05) for number in range(20_000)]
    first = {split: splits.index(split) for split in ("train", "val", "test")}
    assert first == {"train": 0, "val": 60, "test": 27}  # models were trained on these
    assert 0.045 < splits.count("test") / 20_000 < 0.055 and 0.026 < splits.count("val") / 20_000 < 0.034
    assert all(split_of_group(f"group {n}", 0.1, 0.05) == "test" for n in range(2000) if splits[n] == "test")


def templated(count: int, kind: str) -> list[dict]:
    """Pages of one template: the same sentences around a few words or numbers of their own."""
    around = " ".join(WORDS[:40])
    own = {
        "boilerplate": lambda n: page(n, words=6)["text"],
        "numbers": lambda n: f"article {n} costs {n * 7}",
    }
    return [{"id": f"p{n:04}", "text": f"{own[kind](n)} {around}"} for n in range(count)]


@pytest.mark.parametrize("count, kind", [(40, "boilerplate"), (40, "numbers"), (1, "numbers")])
def test_a_corpus_with_nothing_to_hold_out_is_refused_before_anything_is_paid(count, kind):
    save("jsonl", "documents", templated(count, kind))
    told = (
        f"no document is left for test ({count} train, 0 val, 0 test)",
        "groups are 1,",
        f"of {count} documents",
    )
    refused(*told, "raise near_duplicates (0.3)", "test_share to 0")
    assert corpus("--test_share", "0") == 0
    if count > 1:
        assert corpus("--near_duplicates", "0") == 0
        splits = read_json(Path("reports/d/figures/corpus.json"))["splits"]
        assert min(splits.values()) > 0 and corpus("--near_duplicates", "0.95") == 0


def test_a_group_that_is_held_out_as_a_whole_leaves_nothing_to_train_on():
    name = next(f"p{n}" for n in range(99) if split_of_group(f"p{n}", 0.03, 0.4) == "test")
    save("jsonl", "documents", [{"id": name, "text": "one text"}, {"id": f"{name}z", "text": "One text."}])
    refused("no document is left for train (0 train, 0 val, 2 test)", options=("--test_share", "0.4"))


@pytest.mark.parametrize("shares", [(0.03, 0.05), (0.4, 0.4), (0.0, 0.05), (0.03, 0.0)])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 1, 1), (38, 1, 1), (3,) * 7, (1,) * 50])
def test_few_groups_leave_no_split_empty(sizes, shares):
    split_of = split_groups({f"group {n}": size for n, size in enumerate(sizes)}, *shares)
    counts = Counter(split_of.values())
    wanted = {"train", *(split for split, share in zip(("val", "test"), shares, strict=True) if share)}
    assert counts.keys() <= wanted and (counts.keys() == wanted or len(sizes) == 2 < len(wanted))
    assert counts["train"] and (counts["test"] or not shares[1])
    if all(split_of_group(name, *shares) == "train" for name in split_of):
        assert split_of["group 0"] == "train" or max(sizes) == sizes[-1]  # the largest stays


def test_many_groups_are_split_by_hash_alone():
    sizes = {f"group {number}": 1 + number % 3 for number in range(500)}
    assert split_groups(sizes, 0.03, 0.05) == {name: split_of_group(name, 0.03, 0.05) for name in sizes}


def test_what_was_read_is_told_and_that_most_is_one_group():
    save("jsonl", "documents", [*templated(6, "numbers"), page(20), page(21), {**page(22), "text": ""}])
    save("jsonl", "queries", [{"query": "twenty", "document_id": "p0020"}])
    result = run("--skip_share", "0.5")
    assert result.stderr.splitlines() == [
        "corpus d: 8 documents (1 skipped) in 3 groups of near-duplicates: 6 train, 1 val, 1 test; "
        "queries: 1, pairs: 1",
        "corpus d: warning: 6 documents are one group of near-duplicates, trained on or held out as a whole; "
        "raise near_duplicates (0.3) if they are different texts",
    ]


def test_queries_that_differ_in_case_are_one():
    queries = [
        {"id": "b", "text": "Sort  an array"},
        {"id": "a", "text": "sort an array"},
        {"id": "c", "text": "else"},
    ]
    pairs = [{"query_id": key, "document_id": name} for key, name in (("b", "x"), ("a", "y"), ("a", "x"))]
    merged, kept = merge_queries(queries, pairs)
    assert merged == [{"id": "a", "text": "sort an array"}, {"id": "c", "text": "else"}]
    assert kept == [{"query_id": "a", "document_id": "x"}, {"query_id": "a", "document_id": "y"}]


@pytest.mark.parametrize(
    "text", ["Tra\u0309 ha\u0300ng", "ｔｒả　ｈàｎｇ", "trả hà\u200bng", "\u200ftrả\u00a0hàng", "TRẢ HÀNG"]
)
def test_queries_that_people_see_as_one_are_one(text):
    queries = [{"id": "a", "text": "trả hàng"}, {"id": "b", "text": text}]
    merged, kept = merge_queries(queries, [{"query_id": "b", "document_id": "x"}])
    assert merged == [queries[0]] and kept == [{"query_id": "a", "document_id": "x"}]


VIETNAMESE = "Bạn có thể trả lại hàng trong vòng ba mươi ngày sau khi nhận"
CHINESE = "退货政策：您可以在收到商品后三十天内申请退货。请保持商品完好，并附上原包装和发票。"
THAI = "คุณสามารถคืนสินค้าได้ภายในสามสิบวันหลังจากได้รับสินค้าหากสินค้าอยู่ในสภาพสมบูรณ์"


@pytest.mark.parametrize(
    "text, other",
    [
        (VIETNAMESE, unicodedata.normalize("NFD", VIETNAMESE)),
        ("Return it within a month", "Ｒｅｔｕｒｎ it with\u00adin a\u200b month"),
        (CHINESE, CHINESE.replace("三十", "六十")),
        (THAI, THAI.replace("สามสิบ", "หกสิบ")),
        (
            "返品は商品到着後三十日以内にお申し込みください",
            "返品は商品到着後六十日以内にお申し込みください",
        ),
    ],
)
def test_near_duplicates_in_every_script(text, other):
    texts = [text, "Something else that nobody would take for it", other, "配送需要五个工作日，节假日顺延。"]
    documents = [{"id": str(n), "text": one, "metadata": {}} for n, one in enumerate(texts)]
    assert near_duplicate_groups(documents) == ["0", "1", "0", "3"]


@pytest.mark.parametrize("text", [CHINESE, THAI])
def test_the_title_of_a_text_without_spaces_is_its_beginning(text):
    save("jsonl", "documents", [{"text": text}, page(1), page(2)])
    assert corpus() == 0
    title = next(row["title"] for row in rows("documents") if row["text"] == text)
    assert text.startswith(title) and 12 <= len(title) <= 20
    assert read_json(Path("reports/d/figures/corpus.json"))["words"]["max"] > 30


def test_test_queries_and_hidden_pairs():
    pairs = [{"query_id": f"q{n // 3}", "document_id": f"d{n}"} for n in range(3000)]
    pairs += [{"query_id": f"single{n}", "document_id": "d0"} for n in range(1000)]
    names = sorted({pair["query_id"] for pair in pairs})
    queries = split_queries([{"id": name, "text": name} for name in names], 0.2)
    testing = {query["id"] for query in queries if query["split"] == "test"}
    assert 0.17 < len(testing) / len(queries) < 0.23
    by_query = defaultdict(list)
    rows = split_pairs(queries, pairs, 0.4)
    for row in rows:
        by_query[row["query_id"]].append(row["split"])
    assert all(set(by_query[name]) == {"test"} for name in testing)
    training = [splits for name, splits in by_query.items() if name not in testing]
    assert all("train" in splits and "test" not in splits for splits in training)
    several = [split for splits in training if len(splits) > 1 for split in splits]
    assert 0.33 < several.count("hidden") / len(several) < 0.4  # a little less: each keeps one
    assert split_pairs(queries, pairs[::-1], 0.4) == rows
    assert not any(row["split"] == "hidden" for row in split_pairs(queries, pairs, 0.0))


def test_prompts_are_shown_training_queries_only():
    documents = [{"id": "d", "metadata": {"queries": ["a", "b", "c"]}}, {"id": "e", "metadata": {}}]
    queries = [{"id": name, "text": name} for name in "abc"]
    pairs = [
        {"query_id": query, "document_id": "d", "split": split}
        for query, split in zip("abc", ("train", "hidden", "test"), strict=True)
    ]
    show_known(documents, queries, pairs)
    assert [document["metadata"] for document in documents] == [{"queries": ["a"]}, {}]


# --- real data


@pytest.mark.skipif(not FAIRE.is_dir(), reason="the faire data is not beside the repository")
def test_faire_loads_with_its_own_blocks():
    import yaml

    blocks = yaml.safe_load((Path(__file__).parents[2] / "prompts/faire/params.yaml").read_text())
    knobs = {**blocks["corpus"]["faire"], "path": str(FAIRE)}
    options = [part for key, value in knobs.items() for part in (f"--{key}", str(value))]
    result = invoke("corpus", ["d", *options])
    assert result.exit_code == 0, result.output
    metrics = read_json(Path("reports/d/figures/corpus.json"))
    assert metrics["documents"] == 963 and metrics["skipped"] == {"documents": 1, "pairs": 0}
    assert metrics["queries"] > 700 and all(metrics["splits"].values())
    articles = defaultdict(set)
    for document in rows("documents"):
        articles[document["metadata"].get("part_of", document["id"])].add(document["split"])
    assert len(articles) == 249 and all(len(splits) == 1 for splits in articles.values())
