"""The filters before mapping: each alone on made data, together by their counts, and what they refuse."""

import json
import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stages.core import files
from stages.core.errors import UserError
from stages.core.text import tokens
from stages.kinds.xc.filter import run as stage
from stages.kinds.xc.knobs import FilterKnobs
from stages.kinds.xc.parts.filters import SAMPLES, below_share, pages, repeated
from tests.helpers.shards import write_generated
from tests.helpers.shipped import BM25, TFIDF

OFF = {"well_formed": False, "copies": False, "duplicates": False}


def document(name: str, text: str = "", split: str = "train", title: str = "", **metadata) -> dict:
    return {
        "id": name,
        "title": title or name,
        "text": text or f"all about {name}",
        "metadata": metadata,
        "split": split,
    }


def row(name: str, *lines: str, sample: int = 0, logprobs: list | None = None, logprob=None) -> dict:
    return {
        "document_id": name,
        "sample": sample,
        "text": "\n".join(lines),
        "queries": [],
        "finish_reason": "stop",
        "prompt_tokens": 1,
        "generated_tokens": 1,
        "logprob": logprob,
        "line_logprobs": logprobs,
    }


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_text(Path("prompts/d/student.md"), "{{ document.title }}\n{{ document.text }}\nqueries:\n")
    return tmp_path


def make(documents: list[dict], rows: list[dict], shards: int = 3) -> None:
    with files.atomic_directory(Path("data/d/corpus"), "corpus") as directory:
        files.write_jsonl(directory / "documents.jsonl", sorted(documents, key=lambda own: own["id"]))
    write_generated(Path("data/d/generated"), rows, shards, "generate")


def run(**knobs) -> tuple[dict[str, list[str]], dict]:
    """Runs the stage; the texts left for each document, and its metrics, after checks that always hold."""
    metrics = stage("d", FilterKnobs(**{"round_trip_by": BM25, **knobs}))
    directory = Path("data/d/filtered")
    files.verify_manifest(directory)
    assert sorted(path.name for path in directory.iterdir()) == [
        "documents.txt", "manifest.json", "raw_rewrites.txt", "start_indices.npy",
    ]  # fmt: skip
    names = (directory / "documents.txt").read_text().split("\n")[:-1]
    texts = (directory / "raw_rewrites.txt").read_text().split("\n")[:-1]
    starts = np.load(directory / "start_indices.npy")
    assert starts.dtype == np.int64 and starts[0] == 0 and starts[-1] == len(texts) == metrics["kept"]
    assert (np.diff(starts) >= 0).all() and len(starts) == len(names) + 1 == metrics["documents"] + 1
    assert metrics["lines"] == metrics["kept"] + sum(metrics["dropped"].values())
    samples = json.loads(Path("reports/d/figures/filter_samples.json").read_text())
    assert {name: len(own) for name, own in samples.items()} == {
        name: min(count, SAMPLES) for name, count in metrics["dropped"].items()
    }
    return {name: texts[starts[n] : starts[n + 1]] for n, name in enumerate(names)}, metrics


def test_without_filters_all_texts_are_laid_out_in_the_order_of_the_corpus(house):
    splits = {"a": "test", "b": "xc_test", "c": "empty", "d": "val", "e": "train"}
    rows = [
        row("e", "one two", sample=1),
        row("e", "- Three four", "", "1. five six", "one two"),
        row("a", "three four"),
    ]
    make([document(name, split=split) for name, split in splits.items()], rows)
    kept, metrics = run(**OFF)
    assert kept == {
        "a": ["three four"],
        "c": [],
        "d": [],
        "e": ["Three four", "five six", "one two", "one two"],
    }
    assert metrics["documents_written_for"] == metrics["documents_with_texts"] == 2
    assert metrics["kept_per_document"]["mean"] == 2.5 and metrics["logprob"] == {
        "kept": None,
        "dropped": None,
    }


def test_malformed_texts_go_by_the_rules_of_the_task(house, monkeypatch):
    from stages.kinds.xc.parts.tasks import TASKS

    reasons = {"bad line": "too bad", "ugly line": "ugly", "worse line": "too bad"}
    seen = []

    def reject(text, own):
        seen.append((text, own["id"]))
        return reasons.get(text)

    monkeypatch.setitem(TASKS, "queries", replace(TASKS["queries"], reject=reject))
    make([document("a")], [row("a", "bad line", "good line", "ugly line", "worse line")])
    kept, metrics = run(copies=False, duplicates=False)
    assert kept == {"a": ["good line"]} and ("good line", "a") in seen
    assert metrics["dropped"]["malformed"] == 3
    assert metrics["malformed_by_reason"] == {"too bad": 2, "ugly": 1}


def test_copies_of_the_own_prompt_go_whatever_their_case_punctuation_and_space(house):
    files.write_text(
        Path("prompts/d/student.md"),
        "Title: {{ document.title }}\n{{ document.text }}\n"
        "{% for query in document.metadata.queries %}- {{ query }}\n{% endfor %}\nqueries:\n",
    )
    documents = [
        document("a", "First line.\nSecond line, of text", title="The Title", queries=["known query"]),
        document("b", "other text", queries=[]),
    ]
    own = [
        "first   line",
        "SECOND LINE OF TEXT!",
        "the title",
        "Known-Query",
        "queries",
        "second line",
        "other text",
    ]
    make(documents, [row("a", *own), row("b", "first line", "Other, text")])
    kept, metrics = run(well_formed=False, duplicates=False)
    assert kept == {"a": ["second line", "other text"], "b": ["first line"]}
    assert metrics["dropped"]["copies"] == 6
    kept, _ = run(well_formed=False, duplicates=False, task="categories")
    assert kept["a"] == [
        "the title",
        "second line",
        "other text",
    ]  # an article may be its category's namesake


def test_duplicates_go_within_a_document_and_over_its_samples(house):
    rows = [
        row("a", "one two", "One TWO", "one two!"),
        row("a", "three four", "ONE two", sample=1),
        row("b", "one two"),
    ]
    make([document("a"), document("b")], rows)
    kept, metrics = run(well_formed=False, copies=False)
    assert kept == {"a": ["one two", "one two!", "three four"], "b": ["one two"]}
    assert metrics["dropped"]["duplicates"] == 2
    assert repeated(["Straße", "STRASSE", "x"]) == [False, True, False]
    assert repeated(["trả", "tra\u0309", "ｔｒả", "tr\u00adả"]) == [False, True, True, True]


def test_near_duplicates_are_off_unless_asked_for_and_the_later_one_goes(house):
    texts = "how to sort an array in numpy", "how to sort an array with numpy", "plot a line"
    make([document("a")], [row("a", *texts)])
    assert run(**OFF)[0] == {"a": list(texts)}
    kept, metrics = run(**OFF, near_duplicates=0.6)
    assert kept == {"a": [texts[0], texts[2]]} and metrics["dropped"]["near_duplicates"] == 1


def test_unlikely_texts_go_by_the_log_probability_of_their_line(house):
    rows = [
        row("a", "one two", "", "three four", "five six", logprobs=[-0.5, None, -1.5, -1.0], logprob=-9),
        row(
            "b", "seven eight", "nine ten", logprobs=[-2.0, None], logprob=-0.7
        ),  # its answer's, for want of its own
    ]
    make([document("a"), document("b")], rows)
    kept, metrics = run(**OFF, min_logprob=-1.0)
    assert kept == {"a": ["one two", "five six"], "b": ["nine ten"]}
    assert metrics["dropped"]["min_logprob"] == 2
    assert metrics["logprob"]["kept"]["median"] == -0.7 and metrics["logprob"]["dropped"]["mean"] == -1.75
    kept, metrics = run(**OFF, logprob_share=0.4)
    assert kept == {"a": ["one two"], "b": ["nine ten"]} and metrics["dropped"]["logprob_share"] == 3
    kept, metrics = run(**OFF, min_logprob=-1.5, logprob_share=0.5)  # of the four that are left
    assert kept == {"a": ["one two"], "b": ["nine ten"]}
    assert metrics["dropped"]["min_logprob"] == 1 and metrics["dropped"]["logprob_share"] == 2


def test_of_equally_likely_texts_the_first_stay():
    assert below_share(np.array([-1.0, -2.0, -1.0, -1.0, -3.0]), 0.4).tolist() == [
        False,
        True,
        False,
        True,
        True,
    ]
    assert not below_share(np.array([-1.0, -2.0]), 1).any()


@pytest.mark.parametrize("knobs", [{"min_logprob": -3}, {"logprob_share": 0.5}])
def test_rows_without_log_probabilities_are_refused_where_they_are_needed(house, knobs):
    make([document("a"), document("b")], [row("a", "one two", logprob=-1.0), row("b", "one two")])
    assert run(**OFF)[1]["logprob"]["kept"]["mean"] == -1.0
    with pytest.raises(UserError, match="data/d/generated: document 'b' has texts without log-probabilities"):
        run(**OFF, **knobs)


def brute_force_ranks(texts: list[str], targets: list[int], searched: list[str]) -> list[int]:
    """BM25 in Lucene's form, a term at a time, in float64; the last rank of equal scores."""
    from bm25s.stopwords import STOPWORDS_EN

    k1, b = 0.82, 0.68
    counted = [Counter(t for t in tokens(text) if t not in STOPWORDS_EN) for text in searched]
    lengths = [sum(own.values()) for own in counted]
    mean = sum(lengths) / len(lengths)
    found = Counter(term for own in counted for term in own)
    ranks = []
    for text, target in zip(texts, targets, strict=True):
        scores = [0.0] * len(searched)
        for term in tokens(text):
            idf = math.log(1 + (len(searched) - found[term] + 0.5) / (found[term] + 0.5))
            for page, own in enumerate(counted):
                if own[term]:
                    scores[page] += idf * own[term] / (own[term] + k1 * (1 - b + b * lengths[page] / mean))
        ranks.append(sum(round(score, 5) >= round(scores[target], 5) for score in scores))
    return ranks


@pytest.mark.parametrize("rank", [1, 3])
def test_round_trip_equals_brute_force(house, rank):
    draw = random.Random(2)
    words = [f"{a}{b}{c}" for a in "bdfk" for b in "aeiou" for c in "lmnp"]
    documents = [
        document(f"p{n:02d}", " ".join(draw.choices(words, k=20)), title=draw.choice(words))
        for n in range(30)
    ]
    documents[3]["split"], documents[4]["split"], documents[5]["split"] = "xc_test", "empty", "test"
    documents[7]["text"] = documents[6]["text"]  # one page under two titles
    asked = [own for own in documents if own["split"] not in ("xc_test", "empty")]
    rows = [
        row(
            own["id"],
            *(" ".join(draw.sample(own["text"].split(), k=2)) + " " + draw.choice(words) for _ in range(8)),
        )
        for own in asked
    ]
    make(documents, rows)
    kept, metrics = run(**OFF, round_trip=rank)

    searched, page_of = pages(asked)
    assert len(searched) == len(asked) - 1 and page_of["p06"] == page_of["p07"]
    everything = [(own["document_id"], text) for own in rows for text in own["text"].split("\n")]
    ranks = brute_force_ranks(
        [text for _, text in everything], [page_of[name] for name, _ in everything], searched
    )
    expected: dict[str, list[str]] = {own["id"]: [] for own in documents if own["split"] != "xc_test"}
    for (name, text), own in zip(everything, ranks, strict=True):
        if own <= rank:
            expected[name].append(text)
    assert kept == expected
    assert 0 < metrics["dropped"]["round_trip"] < len(everything)


def test_a_text_that_no_page_has_a_word_of_finds_nothing(house):
    make(
        [document("a", "sorting arrays"), document("b", "reading files")],
        [row("a", "zebra", "sort an array")],
    )
    Path(f"data/.work/.filter.{10**30}.tmp").mkdir(parents=True)  # of a process that was killed
    for retriever in (BM25, TFIDF):
        kept, metrics = run(**OFF, round_trip=1, round_trip_by=retriever)
        assert kept == {"a": ["sort an array"], "b": []} and metrics["dropped"]["round_trip"] == 1
    assert not list(Path("data/.work").iterdir())


def noisy(seed: int = 0) -> tuple[list[dict], list[dict]]:
    """Forty documents whose answers have something for every filter."""
    draw = random.Random(seed)
    words = "sort array values axis plot line figure file read write matrix solve graph node path".split()
    documents, rows = [], []
    for number in range(40):
        name = f"n{number:02d}"
        documents.append(
            document(name, " ".join(draw.choices(words, k=15)), title=" ".join(draw.choices(words, k=3)))
        )
        for sample in range(2):
            lines = [" ".join(draw.sample(words, k=3)) for _ in range(4)]
            lines += [lines[0].upper(), f"{lines[1]}s", "word", documents[-1]["title"], "", "1) " + lines[2]]
            values = [round(-3 * draw.random(), 4) if line else None for line in lines]
            rows.append(row(name, *lines, sample=sample, logprobs=values, logprob=-1.0))
    return documents, rows


EVERY = {"near_duplicates": 0.7, "min_logprob": -2.5, "logprob_share": 0.9, "round_trip": 5}


def test_all_filters_together_leave_what_each_of_them_would_and_the_counts_add_up(house):
    documents, rows = noisy()
    make(documents, rows)
    kept, metrics = run(**EVERY)
    assert all(count > 0 for count in metrics["dropped"].values())
    assert list(metrics["dropped"]) == [
        "malformed", "copies", "duplicates", "near_duplicates", "min_logprob", "logprob_share", "round_trip",
    ]  # fmt: skip
    assert metrics["lines"] == 40 * 2 * 9
    for knobs in ({}, {"near_duplicates": 0.7}, {**OFF, "min_logprob": -2.5}, {**OFF, "round_trip": 5}):
        alone, _ = run(**knobs)
        assert all(not Counter(kept[name]) - Counter(alone[name]) for name in kept)


def contents() -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for part in ("data/d/filtered", "reports/d")
        for path in sorted(Path(part).rglob("*"))
        if path.is_file()
    }


def test_the_same_bytes_whatever_the_shards(house):
    documents, rows = noisy()
    found = []
    for shards in (1, 5):
        make(documents, random.Random(shards).sample(rows, len(rows)), shards)
        _, metrics = run(**EVERY)
        found.append((contents(), metrics))
    assert found[0] == found[1]


def test_what_is_wrong_with_the_inputs_is_said(house):
    documents = [document("a"), document("b", split="xc_test"), document("c", split="empty"), document("d")]
    for stray in ("b", "c", "cc", "x", "A"):
        make(documents, [row("a", "one two"), row(stray, "one two"), row("d", "one two")])
        with pytest.raises(UserError, match=f"data/d/generated: document '{stray}' is not one to write for"):
            run()
    make(documents, [row("a", "word", "word")])
    with pytest.raises(UserError, match=r"not one of 2 texts is left to map \(malformed 2, copies 0"):
        run()
    Path("data/d/corpus/documents.jsonl").write_text("")
    with pytest.raises(UserError, match="torn or edited"):
        run()
