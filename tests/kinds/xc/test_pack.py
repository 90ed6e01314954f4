"""The packed dataset: what went in comes out, and DEXML and Renee find what they read."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import coo_matrix, csr_matrix, load_npz, save_npz, vstack

from stages.core.files import (
    atomic_directory,
    read_json,
    read_jsonl,
    verify_manifest,
    write_json,
    write_jsonl,
)
from stages.kinds.xc.parts.format.matrices import read_filters, read_matrix
from stages.kinds.xc.parts.format.texts import find, lines_of
from tests.helpers.cli import invoke
from tests.helpers.tiny import tokenizer_folder
from tests.helpers.xc_fixture import orcas, wiki

CORPUS, FILTERED, MAPPED, XC = (Path("data/d") / name for name in ("corpus", "filtered", "mapped", "xc"))


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read_corpus(folder: str, points: str, hidden: float = 0) -> None:
    tokenizer = tokenizer_folder()
    options = ["--path", folder, "--points", points, "--tokenizer", tokenizer, "--hidden_pairs", str(hidden)]
    result = invoke("corpus_xc", ["d", *options])
    assert result.exit_code == 0, result.output


def map_of(x: list[str], y: list[str], known: csr_matrix) -> csr_matrix:
    """Write what the map stage would; returns the augmented matrix: one more label for each third point."""
    skim = known.tolil()
    for row in range(0, len(x), 3):
        skim[row, (7 * row) % len(y)] = max(skim[row, (7 * row) % len(y)], 0.875)
    skim = skim.tocsr()
    with atomic_directory(MAPPED, "map") as directory:
        save_npz(directory / "trn_X_Y.npz", known)
        save_npz(directory / "trn_X_Y_skim.npz", skim)
        for name, ids in (("X.txt", x), ("Y.txt", y)):
            (directory / name).write_text("".join(f"{one}\n" for one in ids))
    return skim


def filtered_of(documents: list[str], texts: list[list[str]]) -> None:
    """Write what the filter stage would."""
    with atomic_directory(FILTERED, "filter") as directory:
        (directory / "documents.txt").write_text("".join(f"{one}\n" for one in documents))
        (directory / "raw_rewrites.txt").write_text("".join(f"{text}\n" for own in texts for text in own))
        np.save(directory / "start_indices.npy", np.cumsum([0, *map(len, texts)]))


def ids(letter: str, count: int) -> list[str]:
    return [f"{letter}{n:07}" for n in range(count)]


def packed(points: str, make):
    """Fixture → corpus → mapped → packed; (what the fixture wrote, augmented matrix, metrics)."""
    made = make(Path("source"))
    read_corpus("source", points)
    skim = map_of(ids("x", len(made.trn_x)), ids("y", len(made.y)), made.matrix("trn"))
    documents = ids("y", len(made.y)) if points == "queries" else ids("x", len(made.trn_x))
    # each text stands below two documents but the last, and once twice below one
    filtered_of(documents, [[f"text {n // 2}"] * (1 + (n == 1)) for n in range(len(documents))])
    if points == "queries":
        rows = np.arange(len(documents)) // 2
        more = csr_matrix((np.ones(len(rows)), (rows, np.arange(len(documents)))))
        skim = vstack([skim, more], format="csr")
    result = invoke("pack", ["d"])
    assert result.exit_code == 0, result.output
    return made, skim, read_json(Path("reports/d/figures/pack.json"))


BOTH = pytest.mark.parametrize(("points", "make"), [("queries", orcas), ("documents", wiki)])


@BOTH
def test_what_was_read_is_packed(points, make):
    made, skim, metrics = packed(points, make)
    verify_manifest(XC)
    files, texts = find(XC), {"trn_X": made.trn_x, "tst_X": made.tst_x, "Y": made.y}
    for name, expected in texts.items():
        assert list(lines_of(files[name])) == expected
    synthetic = skim.shape[0] - len(made.trn_x)
    assert list(lines_of(XC / "trn_X_skim.txt")) == [*made.trn_x, *(f"text {n}" for n in range(synthetic))]
    matrices = {
        "trn_X_Y": made.matrix("trn"),
        "trn_X_Y_skim": skim,
        "tst_X_Y": made.matrix("tst"),
    }
    for name, expected in matrices.items():
        for kind in ("npz", "txt"):
            found = read_matrix(XC / f"{name}.{kind}", expected.shape, Counter())
            np.testing.assert_allclose(found.toarray(), expected.toarray(), atol=1e-5)
    for split, which in (("train", "trn"), ("test", "tst")):
        shape = made.matrix(which).shape
        pairs = read_filters(files[f"filter_{split}"], shape, Counter()).tolist()
        assert pairs == sorted(map(list, made.filters[split]))
    assert metrics == {
        "train_points": len(made.trn_x),
        "synthetic_points": synthetic,
        "test_points": len(made.tst_x),
        "labels": len(made.y),
        "pairs_original": made.matrix("trn").nnz,
        "pairs_augmented": skim.nnz,
        "test_pairs": made.matrix("tst").nnz,
        "labels_without_train_pairs": {
            "original": int((made.matrix("trn").sum(axis=0) == 0).sum()),
            "augmented": int((skim.sum(axis=0) == 0).sum()),
        },
        "filters": {split: len(pairs) for split, pairs in made.filters.items()},
    }
    assert skim.nnz > made.matrix("trn").nnz


@BOTH
def test_a_packed_folder_is_a_source_again(points, make):
    packed(points, make)
    before = {name: read_jsonl(CORPUS / f"{name}.jsonl") for name in ("queries", "pairs", "filters")}
    # The metadata is not packed: the lines are then all the text.
    options = ["--path", str(XC), "--points", points, "--tokenizer", tokenizer_folder()]
    result = invoke("corpus_xc", ["e", *options, "--hidden_pairs", "0", "--metadata", "none"])
    assert result.exit_code == 0, result.output
    for name, rows in before.items():
        assert read_jsonl(Path(f"data/e/corpus/{name}.jsonl")) == rows


@BOTH
def test_dexml_and_renee_find_what_they_read(points, make):
    made, _, _ = packed(points, make)
    texts = {"trn_X": made.trn_x, "tst_X": made.tst_x, "Y": made.y}

    def pairs(name: str, shape: tuple[int, int]):
        # Both read filters with np.fromfile and build a matrix of the label matrix's shape.
        flat = np.fromfile(XC / name, sep=" ").astype(int).reshape(-1, 2).T
        return coo_matrix((np.ones(flat.shape[1]), (flat[0], flat[1])), shape).tocsr()

    for folder in (XC / "raw", XC):  # DEXML, Renee: universal line ends, then stripped
        for name, expected in texts.items():
            with open(folder / f"{name}.txt", encoding="utf-8") as stream:
                assert [line.strip() for line in stream] == expected
    for which, split in (("trn", "train"), ("tst", "test")):
        expected = made.matrix(which)
        dexml = load_npz(XC / f"Y.{which}.npz")
        assert (dexml != expected).nnz == 0 and dexml.format == "csr"
        filters = pairs(f"filter_labels_{split}.txt", dexml.shape)
        assert sorted(zip(*filters.nonzero(), strict=True)) == sorted(made.filters[split])
        assert (pairs(f"{which}_filter_labels.txt", dexml.shape) != filters).nnz == 0
        header, *lines = (XC / f"{which}_X_Y.txt").read_text().splitlines()
        assert tuple(map(int, header.split())) == expected.shape and len(lines) == expected.shape[0]
        for line, row in zip(lines, expected.toarray(), strict=True):
            found = [pair.split(":") for pair in line.split()]
            labels = [int(label) for label, _ in found]
            assert labels == np.flatnonzero(row).tolist()  # ascending and unique, as pyxclib demands
            assert all(float(value) == 1 for _, value in found)


PAIRS = [("q1", "a", "train"), ("q1", "b", "hidden"), ("q2", "b", "test"), ("q2", "c#1", "test")]


def small_corpus(pairs: list[tuple] = PAIRS) -> None:
    """A corpus as other sources make it: ids of any kind, no lines, no filters."""
    documents = [
        {
            "id": name,
            "title": f"{name} title",
            "text": "Two\n\nlines\u2028 here",
            "metadata": {},
            "split": split,
        }
        for name, split in (("a", "train"), ("b", "test"), ("c#1", "val"), ("d", "empty"))
    ]
    queries = [
        {"id": name, "text": f"query  {name}", "split": split}
        for name, split in (("q1", "train"), ("q2", "test"), ("q3", "train"))
    ]
    fields = ("query_id", "document_id", "split")
    with atomic_directory(CORPUS, "corpus") as directory:
        write_jsonl(directory / "documents.jsonl", documents)
        write_jsonl(directory / "queries.jsonl", queries)
        write_jsonl(directory / "pairs.jsonl", [dict(zip(fields, pair, strict=True)) for pair in pairs])
        write_json(directory / "shape.json", {"points": "queries", "lines": True})
    filtered_of(["a", "b", "c#1", "d"], [["how a"], [], [], []])


def test_any_corpus_is_packed_with_empty_filters():
    small_corpus()
    map_of(["q1", "q3"], ["a", "b", "c#1", "d"], csr_matrix(np.eye(2, 4, dtype=np.float32)))
    assert invoke("pack", ["d"]).exit_code == 0
    assert (XC / "trn_X.txt").read_text() == "query q1\nquery q3\n"  # q3 has no label and keeps its row
    assert (XC / "tst_X.txt").read_text() == "query q2\n"
    assert (XC / "Y.txt").read_text() == "".join(
        f"{n} title Two lines here\n" for n in ("a", "b", "c#1", "d")
    )
    assert load_npz(XC / "tst_X_Y.npz").toarray().tolist() == [[0, 1, 1, 0]]
    for name in ("filter_labels_test.txt", "trn_filter_labels.txt"):
        assert (XC / name).read_bytes() == b""
        assert np.fromfile(XC / name, sep=" ").size == 0
    first = {path.name: path.read_bytes() for path in XC.iterdir() if path.is_file()}
    assert invoke("pack", ["d"]).exit_code == 0
    assert first == {path.name: path.read_bytes() for path in XC.iterdir() if path.is_file()}


def refused(*parts: str) -> None:
    result = invoke("pack", ["d"])
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1 and not XC.exists()
    for part in parts:
        assert part in result.stderr


def test_matrices_that_are_not_the_corpus_are_refused():
    small_corpus()
    y, eye = ["a", "b", "c#1", "d"], csr_matrix(np.eye(2, 4, dtype=np.float32))
    map_of(["q1", "q2"], y, eye)
    refused("X.txt, row 2: 'q2', but", "has 'q3' there", "run the map stage again")
    map_of(["q1"], y, eye)
    refused("X.txt: 1 rows, but", "has 2")
    map_of(["q1", "q3"], [*y, "e"], eye)
    refused("Y.txt: 5 rows, but", "has 4")
    map_of(["q1", "q3"], y, eye)
    filtered_of(["a", "b", "d"], [["how a"], [], []])
    refused("documents.txt, row 3: 'd', but", "run the filter stage again")


def test_a_pair_of_nobody_is_refused():
    small_corpus([*PAIRS, ("q1", "b", "test")])
    map_of(["q1", "q3"], ["a", "b", "c#1", "d"], csr_matrix(np.eye(2, 4, dtype=np.float32)))
    refused("pairs.jsonl, row 5: query_id 'q1' of a test pair is no point or label of this split")
