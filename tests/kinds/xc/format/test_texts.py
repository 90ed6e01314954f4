"""Files of the XC repository's format: every form reads alike, and every flaw is named with file and row."""

import gzip
import json
import random
import zipfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix, save_npz

from stages.core import rows as xc_rows
from stages.core.errors import UserError
from stages.kinds.xc.parts.format.matrices import read_filters, read_matrix, text_form
from stages.kinds.xc.parts.format.pairs import hidden_pairs, row_ids
from stages.kinds.xc.parts.format.texts import duplicates, find, lines_of, missing_files, rows, survey
from tests.helpers.xc_fixture import orcas, orcas_made, put, wiki, write


def refused(run, *parts: str) -> None:
    with pytest.raises(UserError) as told:
        run()
    for part in parts:
        assert part in str(told.value), str(told.value)


def objects(path: Path) -> list[dict]:
    return [record for _, record in xc_rows.records(path)]


# --- rows


@pytest.mark.parametrize("name", ["x.txt", "x.txt.gz"])
def test_lines_are_those_of_a_split(tmp_path, name):
    text = "one\n\nzwölf 漢字\u2028\x85 still two\r\nlast"
    put(tmp_path / name, "\ufeff" + text)
    assert list(xc_rows.lines(tmp_path / name)) == text.split("\n")
    put(tmp_path / name, text + "\n")
    assert list(xc_rows.lines(tmp_path / name)) == text.split("\n")


RECORDS = [{"url": f"u{n}", "body": 'Ein "Wort",\nund ] [ { mehr ' * n} for n in range(9)]


@pytest.mark.parametrize("block", [5, 11, 1 << 20])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.jsonl", "".join(json.dumps(row) + "\n" for row in RECORDS)),
        ("m.jsonl.gz", "\r\n".join(json.dumps(row, ensure_ascii=False) for row in RECORDS)),
        ("m.json", json.dumps(RECORDS)),
        ("m.json", " \n" + json.dumps(RECORDS, indent=4, ensure_ascii=False) + "\n"),
        ("m.json.gz", "".join(json.dumps(row) + "\n" for row in RECORDS)),
    ],
)
def test_every_form_of_json_gives_the_same_records(tmp_path, monkeypatch, name, text, block):
    monkeypatch.setattr(xc_rows, "BLOCK", block)
    put(tmp_path / name, text)
    assert list(xc_rows.records(tmp_path / name)) == list(enumerate(RECORDS, start=1))


def test_tsv_has_the_columns_of_ms_marco_or_those_of_its_header(tmp_path):
    put(tmp_path / "a.tsv", "D1\thttp://a\tA title\tSome body\nD2\thttp://b\t\t\n")
    assert objects(tmp_path / "a.tsv") == [
        {"docid": "D1", "url": "http://a", "title": "A title", "body": "Some body"},
        {"docid": "D2", "url": "http://b", "title": "", "body": ""},
    ]
    put(tmp_path / "b.tsv.gz", "url\tdoc_body\r\nhttp://a\tSome body\r\n")
    assert list(xc_rows.records(tmp_path / "b.tsv.gz")) == [(2, {"url": "http://a", "doc_body": "Some body"})]


@pytest.mark.parametrize(
    ("name", "data", "parts"),
    [
        ("x.txt", b"fine\nfine\nbad \xff\n", ("x.txt, row 3", "0xff is not UTF-8")),
        ("m.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', ("m.jsonl, row 2", "0xff is not UTF-8")),
        ("m.jsonl", b'{"a": 1}\n{"a": \n', ("m.jsonl, row 2", "not valid JSON")),
        ("m.jsonl", b'{"a": NaN}\n', ("m.jsonl, row 1", "not valid JSON")),
        ("m.jsonl", b'{"a": "\\ud800"}\n', ("m.jsonl, row 1", "not valid JSON")),
        ("m.jsonl", b'{"a": 1}\n[1]\n', ("m.jsonl, row 2", "expected an object")),
        ("m.json", b'[{"a": 1}, {"a": }]', ("m.json, row 2", "not valid JSON")),
        ("m.json", b'[{"a": 1}, {"a": "\\ud800"}]', ("m.json, row 2", "half of a character")),
        ("m.json", b'[{"a": 1}, 7]', ("m.json, row 2", "expected an object")),
        ("m.json", b'[{"a": 1}, {"a": 2}', ("m.json, row 3", "the array has no end")),
        ("m.json", b'[{"a": 1}, {"a": "\xff"}]', ("m.json, row 2", "a byte that is not UTF-8")),
        ("m.json", b'[{"a": 1}][{"a": 2}]', ("m.json, after row 1", "text after the end of the array")),
        ("m.json", b'[{"a": 1}]\n{"a": 2}', ("m.json, after row 1", "text after the end of the array")),
        ("m.json", b"[] x", ("m.json, after row 0", "text after the end of the array")),
        ("m.json", b'[{"a": 1} {"a": 2}]', ("m.json, row 2", "expected a comma or ] before '{'")),
        ("m.json", b'[{"a": 1},, {"a": 2}]', ("m.json, row 2", "not valid JSON")),
        ("m.json", b'[, {"a": 2}]', ("m.json, row 1", "not valid JSON")),
        ("m.json", b'[{"a": 1}, ]', ("m.json, row 2", "not valid JSON")),
        ("m.json", b'[{"a": 1},', ("m.json, row 2", "the array has no end")),
        ("m.json", b"[", ("m.json, row 1", "the array has no end")),
        ("m.json", b'[{"a": 1}, {"b": ' + b"[" * 50_000, ("m.json, row 2", "nested too deeply")),
        ("m.json", b'[{"a": 1}, {"b": ' + b"9" * 6000 + b"}]", ("m.json, row 2", "too many digits")),
        ("m.json", '[{"a": 1}]'.encode("utf-16"), ("m.json, row 1", "UTF-16")),
        ("m.tsv", b"url\tbody\turl\n1\t2\t3\n", ("m.tsv", "two columns are called 'url'")),
        ("m.tsv", b"1\t2\t3\t4\n1\t2\n", ("m.tsv, row 2", "2 fields between tabs, expected 4")),
        ("m.parquet", b"", ("m.parquet", "cannot read this kind of file", ".jsonl")),
        ("x.txt.gz", gzip.compress(b"one\n" * 9999, mtime=0)[:-9], ("x.txt.gz, after row", "ends too early")),
        ("x.txt.gz", b"not gzip at all", ("x.txt.gz, after row 0", "not valid gzip")),
    ],
)
def test_a_flawed_row_is_named(tmp_path, name, data, parts):
    (tmp_path / name).write_bytes(data)
    read = xc_rows.lines if ".txt" in name else xc_rows.records
    refused(lambda: list(read(tmp_path / name)), *parts)


def test_a_file_without_line_breaks_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(xc_rows, "BLOCK", 16)
    monkeypatch.setattr(xc_rows, "LONGEST_ROW", 40)
    (tmp_path / "x.txt").write_bytes(b"short\n" + b"x" * 100)
    refused(lambda: list(xc_rows.lines(tmp_path / "x.txt")), "x.txt, row 2", "no line break")
    (tmp_path / "m.json").write_bytes(b'[{"a": "' + b"x" * 100)
    refused(lambda: objects(tmp_path / "m.json"), "m.json, row 1", "not valid JSON")


# --- texts


def test_texts_are_one_line_each_in_every_form(tmp_path):
    put(tmp_path / "Y.txt", " two  words\r\nu\u2028v\x85w\n\n")
    records = [
        {"uid": 7, "title": " two ", "content": "words\n"},
        {"title": "u v", "content": "w"},
        {"title": None, "content": ""},
    ]
    put(tmp_path / "lbl.json.gz", "".join(json.dumps(row) + "\n" for row in records))
    for name in ("Y.txt", "lbl.json.gz"):
        assert list(lines_of(tmp_path / name)) == ["two words", "u v w", ""]
        assert [row.line for row in rows(tmp_path / name)] == ["two words", "u v w", ""]
    first = next(rows(tmp_path / "lbl.json.gz"))
    assert (first.uid, first.title, first.body) == ("7", "two", "words\n")


@pytest.mark.parametrize("first", [9007199254740993000000, 2**53, 1])
def test_different_numbers_are_different_texts(tmp_path, first):
    numbers = [first + n for n in range(60)]
    put(tmp_path / "lbl.json", "\n".join(json.dumps({"uid": n, "title": "x"}) for n in numbers))
    assert [row.uid for row in rows(tmp_path / "lbl.json")] == [str(n) for n in numbers]
    put(tmp_path / "lbl.json", json.dumps([{"uid": 2.0, "title": "x"}, {"uid": float(first), "title": 1.5}]))
    refused(
        lambda: list(rows(tmp_path / "lbl.json")), "lbl.json, row 2", "'title' is a number, expected text"
    )
    put(tmp_path / "lbl.json", json.dumps([{"uid": 9.1e21, "title": "x"}]))
    refused(lambda: list(rows(tmp_path / "lbl.json")), "lbl.json, row 1", "'uid' is a number, expected text")


def test_a_survey_counts_empty_and_repeated_texts(tmp_path):
    put(tmp_path / "Y.txt", "a b\nA  b\n\n \nc\n")
    found = survey(tmp_path / "Y.txt")
    assert (found.rows, found.empty, found.first_empty, duplicates(found)) == (5, 2, 3, 1)
    assert len(np.unique(found.hashes)) == 3
    put(tmp_path / "Y.txt", "")
    refused(lambda: survey(tmp_path / "Y.txt"), "Y.txt", "holds no rows")


def test_json_rows_need_texts(tmp_path):
    for record, parts in (
        ({"uid": "1"}, ("row 1", "neither 'title' nor 'content'", "uid")),
        ({"title": ["a"]}, ("row 1", "field 'title' is a list, expected text")),
    ):
        put(tmp_path / "trn.json", json.dumps(record) + "\n")
        refused(lambda: list(rows(tmp_path / "trn.json")), "trn.json", *parts)


# --- matrices


def dense(matrix) -> np.ndarray:
    return matrix.toarray()


@pytest.mark.parametrize("form", ["xc", "gz", "dexml", "renee", "json"])
@pytest.mark.parametrize("make", [orcas, wiki])
def test_every_form_gives_the_same_texts_matrices_and_filters(tmp_path, make, form):
    made = make(tmp_path, form=form)
    files, warnings = find(tmp_path), Counter()
    assert missing_files(tmp_path, "queries" if make is orcas else "documents") == []
    titles = {"trn_X": made.trn_x, "tst_X": made.tst_x, "Y": made.y}
    for name, expected in titles.items():
        assert [row.title or row.line for row in rows(files[name])] == expected
    for which in ("trn", "tst"):
        shape = (len(titles[f"{which}_X"]), len(made.y))
        found = read_matrix(files[f"{which}_X_Y"], shape, warnings)
        np.testing.assert_array_equal(dense(found), dense(made.matrix(which)))
        assert found.has_canonical_format and found.dtype == np.float32
        split = {"trn": "train", "tst": "test"}[which]
        pairs = read_filters(files[f"filter_{split}"], shape, warnings)
        assert pairs.tolist() == sorted(map(list, made.filters[split]))
    assert not +warnings


def test_values_are_kept_and_oddities_counted(tmp_path):
    save_npz(tmp_path / "a.npz", csr_matrix(([0.5, 0.9, 0, 1], [2, 2, 0, 1], [0, 3, 3, 4]), shape=(3, 4)))
    put(tmp_path / "a.txt", "3 4\n2:0.5 2:0.9 0:0\n\n1:1.00000\n")
    lines = [{"target_ind": [2, 2, 0], "target_rel": [0.5, 0.9, 0]}, {"target_ind": []}, {"target_ind": [1]}]
    put(tmp_path / "trn.json.gz", "".join(json.dumps(row) + "\n" for row in lines))
    for name in ("a.npz", "a.txt", "trn.json.gz"):
        warnings: Counter = Counter()
        found = read_matrix(tmp_path / name, (3, 4), warnings)
        np.testing.assert_allclose(dense(found), [[0, 0, 0.9, 0], [0] * 4, [0, 1, 0, 0]])
        assert found.has_canonical_format and found.nnz == 2
        assert warnings == {"duplicate_pairs": 1, "zero_pairs": 1}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("2 4\n0:1\n", ("its header says 2 points × 4 labels", "3 points × 4 labels")),
        ("3 4\n0:1\n1:1\n", ("2 rows under the header", "3")),
        ("3 4\n0:1\n1:1\n\n\n", ("4 rows under the header",)),
        ("0:1\n1:1\n2:1\n", ("row 1", "expected a header")),
        ("", ("empty", "'rows columns'")),
        ("3 4\n0:1\n4:1\n\n", ("row 3", "label 4 is out of range", "4 labels")),
        ("3 4\n0:1\n-1:1\n\n", ("row 3", "label -1 is out of range")),
        ("3 4\n\n\n0:1 1:nan\n", ("row 4", "label 1 is not a finite number")),
        ("3 4\n\n\n0:1 1:1e99\n", ("row 4", "label 1 is not a finite number")),
        ("3 4\n3:-0.5\n\n\n", ("row 2", "value of label 3 is negative")),
        ("3 4\n0 1\n1 2\n2 3\n", ("row 2", "expected label:value", "read from filter files only")),
        ("3 4\n0:one\n\n\n", ("row 2", "expected label:value, found '0:one'")),
        ("3 4\n\n99999999999999999999:1\n\n", ("too many digits",)),
        (f"3 {'4' * 5000}\n", ("row 1", "expected a header")),
        (f"3 4\n{'9' * 5000}:1\n", ("row 2", "expected label:value")),
    ],
)
def test_a_flawed_text_matrix_is_named(tmp_path, text, parts):
    put(tmp_path / "trn_X_Y.txt", text)
    refused(lambda: read_matrix(tmp_path / "trn_X_Y.txt", (3, 4), Counter()), "trn_X_Y.txt", *parts)


def test_a_flawed_npz_is_named(tmp_path):
    path = tmp_path / "trn_X_Y.npz"

    def told(*parts: str) -> None:
        refused(lambda: read_matrix(path, (3, 4), Counter()), "trn_X_Y.npz", *parts)

    good = csr_matrix(([1.0, 1.0], [0, 3], [0, 1, 1, 2]), shape=(3, 4))
    save_npz(path, good[:2])
    told("its shape is 2 points × 4 labels", "3 points × 4 labels")
    save_npz(path, good.tocsc())
    told("a 'csc' matrix; save it as csr")
    bad = good.copy()
    bad.indices[1] = 4
    save_npz(path, bad)
    told("row 3", "label 4 is out of range")
    bad = good.copy()
    bad.data[0] = np.inf
    save_npz(path, bad)
    told("row 1", "not a finite number")
    np.savez(path, format=np.bytes_("csr"), data=np.array([{}], dtype=object), shape=[3, 4])
    told("not a whole scipy sparse matrix")
    save_npz(path, good.astype(complex))
    told("its values are complex128, expected numbers")
    save_npz(path, good)
    path.write_bytes(path.read_bytes()[:-30])
    told("not a whole scipy sparse matrix")


def test_a_damaged_npz_is_one_line(tmp_path):
    path, damages = tmp_path / "trn_X_Y.npz", random.Random(1)
    good = csr_matrix(([1.0, 1.0], [0, 3], [0, 1, 1, 2]), shape=(3, 4))
    save_npz(path, good, compressed=False)
    whole = path.read_bytes()
    for _ in range(300):
        place = damages.randrange(len(whole))
        path.write_bytes(whole[:place] + damages.randbytes(2) + whole[place + 2 :])
        with suppress(UserError):  # some damage, in what is not read, does not show
            read_matrix(path, (3, 4), Counter())
    for format in ("dia", "xyz", "\ud800".encode("utf-8", "surrogatepass"), 7):
        np.savez(path, format=format, data=good.data, indices=good.indices, indptr=good.indptr, shape=[3, 4])
        refused(lambda: read_matrix(path, (3, 4), Counter()), "trn_X_Y.npz: ")


def test_a_small_npz_that_stands_for_much_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("stages.core.files.EXPANDS", 2)
    path = tmp_path / "trn_X_Y.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as arrays:
        arrays.writestr("data.npy", bytes(3_000_000))
    refused(lambda: read_matrix(path, (3, 4), Counter()), "trn_X_Y.npz: stands for 3,000,000 bytes or more")


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        ({"title": "a"}, ("row 2", "'target_ind' is not a list", "title")),
        ({"target_ind": [1], "target_rel": []}, ("row 2", "'target_rel' is not as long")),
        ({"target_ind": ["1"]}, ("row 2", "must hold numbers only")),
        ({"target_ind": [4]}, ("row 2", "label 4 is out of range")),
        ({"target_ind": [10**30]}, ("row 2", "too many digits")),
        ({"target_ind": [1], "target_rel": [10**400]}, ("row 2", "too many digits")),
    ],
)
def test_flawed_target_lists_are_named(tmp_path, record, parts):
    put(tmp_path / "trn.json", '{"target_ind": [0]}\n' + json.dumps(record) + "\n")
    refused(lambda: read_matrix(tmp_path / "trn.json", (2, 4), Counter()), "trn.json", *parts)


def test_filters_are_checked(tmp_path):
    path, warnings = tmp_path / "filter_labels_test.txt", Counter()
    put(path, "2 3\n0 1\n2 3\n")
    assert read_filters(path, (3, 4), warnings).tolist() == [[0, 1], [2, 3]]
    assert warnings == {"duplicate_filters": 1}
    assert read_filters(None, (3, 4), warnings).shape == (0, 2)
    for text, parts in (
        ("0 1\n3 0\n", ("row 2", "the pair 3 0 is out of range", "3 points and 4 labels")),
        ("0 4\n", ("row 1", "out of range")),
        ("0 -1\n", ("row 1", "expected 'row column'")),
        ("0:1\n", ("row 1", "expected 'row column', found '0:1'")),
        (f"0 1\n0 {'1' * 5000}\n", ("row 2", "expected 'row column'")),
    ):
        put(path, text)
        refused(lambda: read_filters(path, (3, 4), Counter()), "filter_labels_test.txt", *parts)


def test_the_text_form_is_read_back(tmp_path):
    draw = np.random.default_rng(0)
    matrix = csr_matrix(
        np.where(draw.random((7, 5)) < 0.4, draw.random((7, 5)), 0).round(5), dtype=np.float32
    )
    matrix.eliminate_zeros()
    text = "".join(text_form(matrix))
    assert text.startswith("7 5\n") and text.count("\n") == 8
    put(tmp_path / "m.txt", text)
    found = read_matrix(tmp_path / "m.txt", (7, 5), Counter())
    np.testing.assert_allclose(dense(found), dense(matrix), atol=1e-5)


# --- what is missing


def test_missing_files_are_listed_with_the_names_that_would_do(tmp_path):
    assert len(missing_files(tmp_path / "nothing", "queries")) == 6
    write(tmp_path, orcas_made(12), "dexml", None)
    (tmp_path / "Y.tst.npz").unlink()
    (tmp_path / "raw/trn_X.txt").unlink()
    lacks = missing_files(tmp_path, "queries")
    assert [text.split()[0] for text in lacks] == ["trn_X.txt", "tst_X_Y.npz", "metadata.jsonl"]
    assert "raw/trn_X.txt" in lacks[0] and "trn.json.gz" in lacks[0] and "Y.tst.npz" in lacks[1]
    assert missing_files(tmp_path, "queries", "none") == lacks[:2]
    assert missing_files(tmp_path, "queries", "pages.tsv")[2] == "pages.tsv"
    assert not Path(tmp_path / "metadata.jsonl").exists()


def test_rows_with_content_need_no_metadata(tmp_path):
    write(tmp_path, orcas_made(12), "json", None)
    assert missing_files(tmp_path, "queries") == []


# --- parts of the corpus


def test_hidden_pairs_leave_each_point_one():
    made = orcas_made()
    trn = made.matrix("trn")
    counts = np.diff(trn.indptr)
    for share in (0, 0.2, 0.9):
        hidden = hidden_pairs(trn, share)
        left = Counter(np.repeat(np.arange(len(counts)), counts)[~hidden].tolist())
        assert all(left[row] >= 1 for row in np.flatnonzero(counts))
        several = np.repeat(counts > 1, counts)
        assert not hidden[~several].any()
        if share == 0.2:
            assert 0.1 < hidden[several].mean() < 0.3
    assert not hidden_pairs(trn, 0).any() and np.array_equal(hidden_pairs(trn, 0.2), hidden_pairs(trn, 0.2))


def test_ids_sort_by_row():
    assert row_ids("y", 5)(3) == "y0000003"
    many = row_ids("x", 100_000_000)
    assert many(99_999_999) == "x99999999" and sorted([many(10), many(9)]) == [many(9), many(10)]
