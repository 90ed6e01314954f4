"""Each measure against examples worked out by hand; intervals against an independent bootstrap."""

import math
import random
import statistics

import pytest

from stages.core.hashing import stable_integer
from stages.evaluation.bootstrap import intervals
from stages.kinds.xc.evaluate import bars, choose, copied, lengths, taught
from stages.kinds.xc.parts.scoring import MEASURES, Output, Scorer, grounded, raw_lines, summary_line
from stages.kinds.xc.parts.tasks import TASKS
from stages.retrieval.bm25 import Bm25

KINDS = ("queries", "categories")
SVD = {
    "id": "linalg.svd",
    "title": "linalg.svd",
    "text": "Singular Value Decomposition. Factors a matrix.\n\nParameters\n\na : array_like",
    "metadata": {"name": "svd"},
    "split": "test",
}
CSV = {
    "id": "read_csv",
    "title": "read_csv",
    "text": "Read a comma-separated file into a DataFrame.",
    "metadata": {"name": "read_csv"},
    "split": "test",
}
FILLER = [
    {"id": f"page{n}", "title": f"page{n}", "text": f"Draws histogram number {n}.", "metadata": {}}
    for n in range(12)
]


@pytest.fixture(scope="module")
def scorer():
    return Scorer([SVD, CSV, *FILLER])


def score(scorer, page, lines, reference=("factor a matrix",), stopped=1.0):
    values = scorer.score(page["id"], Output(lines, stopped), list(reference))
    return dict(zip(MEASURES, values, strict=True))


def test_good_and_bad_lines(scorer):
    found = score(scorer, SVD, ["how to factor a matrix", "the the the", "draws histogram number", "svd"])
    assert found["format_validity"] == 2 / 4  # a loop and a line of one word are none
    # both content words on the page; no content word; none of three; in the title
    assert found["groundedness"] == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert found["hit_at_1"] == 2 / 4
    assert found["hit_at_10_nameless"] == pytest.approx(1 / 3)  # `svd` names the page
    assert found["distinct"] == 1


def test_contentless_lines_are_not_grounded():
    assert grounded("how to use it", {"how", "to", "use", "it"}) == 0
    assert grounded("sorting arrays", {"sort"}) == 0.5


def test_words_match_across_inflection_and_identifier_style(scorer):
    found = score(scorer, CSV, ["reading comma separated files", "read csv to dataframe", "data frame"])
    assert found["groundedness"] == 1


def test_verbatim_ignores_case_space_and_punctuation(scorer):
    copies = ["singular  value decomposition", "FACTORS A MATRIX!"]
    others = ["value singular decomposition", "...", "factor a matrix"]
    assert score(scorer, SVD, copies + others)["verbatim"] == 2 / 5


def test_verbatim_wants_whole_words(scorer):
    assert score(scorer, SVD, ["actors a matrix"])["verbatim"] == 0


def test_distinct_counts_repeats_however_written(scorer):
    lines = ["svd of matrix", "SVD of  matrix.", "factor matrix", "svd of a matrix"]
    assert score(scorer, SVD, lines)["distinct"] == 3 / 4


def test_extractive_row_copies(scorer):
    output = copied(SVD)
    assert output == Output(["Singular Value Decomposition"], 1.0)
    found = dict(zip(MEASURES, scorer.score(SVD["id"], output, ["matrix"]), strict=True))
    assert found["verbatim"] == found["groundedness"] == found["hit_at_1"] == found["stop_rate"] == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Sort an array.\n\nMore.", "Sort an array"),
        ("One line\nbroken in two. Next.", "One line broken in two"),
        ("See\n\nPut values at places.", "Put values at places"),
        ("of the\n\nto", "the title"),
    ],
)
def test_summary_line(text, line):
    assert summary_line({"title": "the title", "text": text}) == line


def test_page_without_lines(scorer):
    found = score(scorer, SVD, [], stopped=0.0)
    undefined = {measure for measure, value in found.items() if math.isnan(value)}
    assert undefined == {"hit_at_10_nameless", "verbatim"}
    assert all(value == 0 for measure, value in found.items() if measure not in undefined)


def test_rouge_l_takes_the_best_reference(scorer):
    # LCS of (how to sort an array) and (sort a big array): sort, array: P 2/5, R 2/4
    value = score(scorer, SVD, ["how to sort an array"], ["nothing alike", "Sort a big array!"])["rouge_l"]
    assert value == pytest.approx(2 * (2 / 5) * (2 / 4) / (2 / 5 + 2 / 4))
    assert math.isnan(score(scorer, SVD, ["how to sort"], [])["rouge_l"])


def test_rouge_l_is_the_librarys(scorer):
    from rouge_score.rouge_scorer import RougeScorer

    plain, draw = RougeScorer(["rougeL"], use_stemmer=False), random.Random(0)
    words = "sort an array by axis in numpy data_frame N-d".split()
    for _ in range(50):
        line, *reference = (" ".join(draw.choices(words, k=draw.randint(1, 7))) for _ in range(4))
        best = max(plain.score(target, line)["rougeL"].fmeasure for target in reference)
        assert scorer._rouge_l(line, reference) == best


def test_raw_lines_keep_repeats_and_bullets():
    assert raw_lines("- a b\n\n - a b \n1. c") == ["- a b", "- a b", "1. c"]


def test_ties_count_against_a_page():
    index = Bm25(["same words here", "same words here", "other"])
    assert index.rank("same words", 0) == index.rank("same words", 1) == 2
    assert index.rank("unknown", 2) == 3
    assert index.rank("other", 2) == 1


def test_bm25_is_lucenes_formula():
    texts = ["apple apple pear", "apple plum", "pear plum plum fig"]
    got = Bm25(texts).scores("apple")
    for text, value in zip(texts, got, strict=True):
        words = text.split()
        frequency, length = words.count("apple"), len(words) / 3
        idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
        damped = frequency / (frequency + 0.82 * (1 - 0.68 + 0.68 * length))
        assert value == pytest.approx(idf * damped, rel=1e-5)


def test_teacher_lines_are_parsed_and_failures_are_empty():
    def answer(outcome: str, response: str | None, accepted: bool = False, **more) -> dict:
        return {"id": "p", "outcome": outcome, "response": response, "accepted": accepted, **more}

    assert taught(answer("ok", "1. sort arrays\n2. Sort arrays", True)) == Output(["sort arrays"], 1.0)
    assert taught(answer("length", "sort")) == taught(answer("blank", None)) == Output([], 0.0)
    assert taught(answer("length", "sort arrays\nsort ar", True)) == Output(["sort arrays"], 0.0)
    assert taught(answer("length", '{"queries": ["so', True, form="json")) == Output([], 0.0)


def test_pages_are_held_out_and_stay_when_more_are_asked():
    documents = [{**CSV, "id": f"d{n}", "split": "test" if n % 2 else "train"} for n in range(40)]
    answers = {document["id"]: {} for document in documents if document["id"] != "d1"}
    (few, _), (more, rivals) = choose(documents, answers, 5), choose(documents, answers, 50)
    assert more[:5] == few and more == sorted(more, key=lambda name: stable_integer("evaluate", name))
    assert set(more) == {f"d{n}" for n in range(3, 40, 2)}
    assert rivals == {document["id"] for document in documents}


def test_pages_are_found_among_fewer_where_all_would_be_too_many():
    splits = ["test", "train", "xc_test", "empty"]
    documents = [{**CSV, "id": f"d{n:02}", "split": splits[n % 4]} for n in range(80)]
    names, rivals = choose(iter(documents), {f"d{n:02}" for n in range(80)}, 3, 10)
    by_hash = sorted(
        (row["id"] for row in documents if row["split"] != "empty"),
        key=lambda name: stable_integer("evaluate", name),
    )
    assert rivals == set(by_hash[:10]) | set(names) and len(names) == 3
    _, everything = choose(iter(documents), {"d00"}, 3)
    assert everything == set(by_hash) and len(everything) == 60


def test_lines_are_judged_by_the_kind_of_task():
    lines = ["Villages", "Decomposition", "This is a matrix", "#### Immediate categories"]
    outputs = {
        task: Scorer([SVD, CSV], TASKS[task]).score(SVD["id"], Output(lines, 1.0), []) for task in KINDS
    }
    valid = {
        task: dict(zip(MEASURES, found, strict=True))["format_validity"] for task, found in outputs.items()
    }
    assert valid == {"queries": 1 / 4, "categories": 2 / 4}
    assert outputs["queries"][1:] == pytest.approx(outputs["categories"][1:], nan_ok=True)
    row = {"id": "p", "outcome": "ok", "accepted": True, "response": "Lakes\n\tWater\nRivers\n\tWater"}
    assert taught(row, TASKS["categories"]).lines == ["Lakes", "Rivers", "Water"]
    assert taught({**row, "response": "[1]", "form": "json"}, TASKS["categories"]) == Output([], 1.0)


def test_intervals_agree_with_a_plain_bootstrap():
    draw = random.Random(3)
    column = [draw.random() ** 2 for _ in range(120)]
    (found,) = intervals([[value] for value in column], 4000, seed=1)
    means = sorted(statistics.fmean(draw.choices(column, k=120)) for _ in range(4000))
    assert found["mean"] == round(statistics.fmean(column), 4)
    assert found["low"] == pytest.approx(means[100], abs=0.005)
    assert found["high"] == pytest.approx(means[3900], abs=0.005)
    assert found["low"] < found["mean"] < found["high"]


def test_intervals_leave_undefined_pages_out():
    nan = float("nan")
    found = intervals([[1.0, nan, 0.5], [nan, nan, 0.5], [0.0, nan, 0.5]], 500, seed=0)
    assert found[0]["mean"] == 0.5 and found[0]["low"] == 0 and found[0]["high"] == 1
    assert found[1] is None
    assert found[2] == {"mean": 0.5, "low": 0.5, "high": 0.5}


def test_plot_rows():
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6}
    rows = bars({"base": {"distinct": interval, "verbatim": None}})
    assert rows == [{"measure": "distinct", "system": "base", **interval}]
    assert lengths({0: 1, 3: 1, 9: 1}) == [
        {"generated_tokens": 0, "rows": 2},
        {"generated_tokens": 4, "rows": 0},
        {"generated_tokens": 8, "rows": 1},
    ]
    assert lengths({5: 2, 4: 1})[1:] == [{"generated_tokens": 4, "rows": 3}]
    assert lengths({}) == [{"generated_tokens": 0, "rows": 0}]
