"""Answers measured: figures by hand, differences and wins, published results, tables, and what is wrong."""

import csv
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import read_json, read_jsonl, write_json, write_jsonl
from stages.core.stage import valid
from stages.core.tables import read_table
from stages.evaluation.overlap import shared
from stages.kinds.academic import evaluate_papers, places
from stages.kinds.academic.knobs import EvaluatePapersKnobs
from stages.kinds.academic.parts.published import read_published
from stages.retrieval import likeness
from tests.helpers.papers_answers import HOSTILE, all_questions, edit_answers, publish, write_answers
from tests.helpers.papers_student import NONE, TOPICS, question, unanswerable, write_questions, write_rows
from tests.helpers.workspace import ROOT

REAL = ROOT.parent / "shared" / "data" / "sai"


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_questions([*map(question, TOPICS), unanswerable()])
    write_rows()
    write_answers()


@pytest.fixture
def drawn(monkeypatch):
    """An encoder whose vectors are of the words of a text."""

    class Words:
        def of(self, texts, folder, max_length, prompt=""):
            known = {word: n for n, word in enumerate(dict.fromkeys(" ".join(texts).split()))}
            counts = np.zeros((len(texts), len(known) + 1)) + 0.01
            for place, text in enumerate(texts):
                for word in text.split():
                    counts[place, known[word]] += 1
            return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float16)

    monkeypatch.setattr(likeness, "Vectors", Words)
    write_json(Path("encoder/modules.json"), [])


def run(**more) -> tuple[dict, dict]:
    knobs = {"encoder": NONE, "published": NONE, "bootstrap": 50} | more
    told = evaluate_papers.run("d", valid(EvaluatePapersKnobs, knobs, "knobs"))
    return told, read_json(layout.figures("d") / "academic.json")


def means(own: dict) -> dict:
    return {name: value and value["mean"] for name, value in own.items()}


def test_figures_have_the_fixed_shape_and_the_values_by_hand(drawn):
    told, figures = run(encoder="encoder")
    fixed = ["cosine", "cosine_calibrated", "f1", "rouge_l", "stop_rate", "unanswerable_recall"]
    for model in ("trained", "untrained"):
        assert list(figures[model])[:6] == fixed and "seconds_p50" in figures[model]
        for value in figures[model].values():
            assert value is None or (
                value.keys() == {"mean", "low", "high"} and value["low"] <= value["high"]
            )
    assert list(figures) == ["untrained", "trained", "reference", "differences", "held_out", "pooled"]
    trained = means(figures["trained"])
    for measure in (*fixed, "f1_answerable"):
        assert trained[measure] == 1
    assert trained["false_alarms"] == trained["empty"] == trained["over_long"] == 0
    assert trained["seconds_p50"] == 0.2 and means(figures["untrained"])["seconds_p50"] == 0.6
    untrained = means(figures["untrained"])
    assert untrained["f1"] == pytest.approx(1 / 6, abs=1e-4) and untrained["f1_answerable"] == 0.2
    assert untrained["stop_rate"] == untrained["unanswerable_recall"] == 0
    assert untrained["over_long"] == pytest.approx(5 / 6, abs=1e-4)
    # "an array of colors" with "a sorted array of colors": 3 words of 3, and of 4
    reference = means(figures["reference"])
    assert reference["f1_answerable"] == pytest.approx(6 / 7, abs=1e-4) and reference["f1_reference"] is None
    assert means(figures["trained"])["f1_reference"] == means(figures["reference"])["f1"]
    assert told["sets"]["benchmark"] | {"floor": 0} == {
        "questions": 6,
        "unanswerable": 1,
        "papers": 1,
        "floor": 0,
    }
    assert 0 < told["sets"]["benchmark"]["floor"] < 1


def test_sets_apart_and_pooled_and_differences_with_wins():
    told, figures = run()
    assert {name: own["questions"] for name, own in told["sets"].items()} == {
        "benchmark": 6,
        "held_out": 5,
        "pooled": 11,
    }
    assert figures["held_out"].keys() == figures["pooled"].keys() == {"untrained", "trained", "differences"}
    own, other = (means(figures[name]["untrained"])["f1"] for name in ("held_out", "pooled"))
    both = 6 * means(figures["untrained"])["f1"] + 5 * own
    assert other == pytest.approx(both / 11, abs=1e-3)
    gained = figures["differences"]["trained-untrained"]["f1"]
    assert gained["mean"] == pytest.approx(5 / 6, abs=1e-4) and gained["low"] > 0
    assert (gained["wins"], gained["ties"], gained["losses"]) == (5, 1, 0)
    pairs = ["trained-untrained", "reference-untrained", "trained-reference"]
    assert list(figures["differences"]) == pairs
    # a difference is of the same resamples of both: of one that is constant the interval is a point
    edit_answers(lambda row: row | {"answer": "a"} if row["model"] == "untrained" else row)
    _, figures = run()
    gained = figures["differences"]["trained-untrained"]["f1"]
    assert gained["low"] == gained["high"] == gained["mean"] == 1
    assert (
        figures["trained"]["cosine"] is None and figures["differences"]["trained-untrained"]["cosine"] is None
    )


def test_papers_are_resampled_where_there_are_several():
    wide = {}
    for sources in (["one"] * 5, ["one.pdf", "one", "one", "two", "two"]):
        asked = [question(name, source=source) for name, source in zip(TOPICS, sources, strict=True)]
        write_questions(asked)
        right = {row["id"] for row in asked[:3]}  # of one paper all, of the other none
        edit_answers(
            lambda row, right=right: row | {"answer": row["answer"] if row["id"] in right else "wrong"}
        )
        told, figures = run()
        wide[told["sets"]["benchmark"]["papers"]] = figures["trained"]["f1"]
    assert wide[2]["low"] == 0 and wide[2]["high"] == 1 and wide[1]["low"] > 0


def test_answers_of_stop_words_alone_and_empty_ones_score_nothing(drawn):
    edit_answers(lambda row: row | {"answer": "the a an" if row["id"] != "q-graph" else ""})
    _, figures = run(encoder="encoder")
    trained = means(figures["trained"])
    assert trained["f1"] == 0 and trained["empty"] == pytest.approx(1 / 6, abs=1e-4)
    assert 0 < trained["cosine"] < 0.2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda: edit_answers(lambda row: row | {"answer": " "}), "every answer of the student is empty"),
        (lambda: edit_answers(lambda row: row | {"model": "x"}), "zero rows of the student"),
        (lambda: write_jsonl(places.answers("d"), [{"id": "q"}]), "row 1: field 'model' is missing"),
        (lambda: places.times("d").unlink(), "benchmark_times.jsonl: no such file"),
    ],
)
def test_what_is_missing_is_told_in_a_line(spoil, message):
    spoil()
    with pytest.raises(UserError, match=message) as caught:
        run()
    assert "\n" not in str(caught.value)


def test_a_model_that_lacks_answers_is_left_out_and_told(capsys):
    made = read_jsonl(places.answers("d"))
    write_jsonl(
        places.answers("d"), [row for row in made if (row["model"], row["id"]) != ("untrained", "q-pivot")]
    )
    told, figures = run()
    assert "untrained" not in figures and told["lacking"] == {"benchmark": {"untrained": 1}}
    assert "left out of benchmark, for want of some answers: untrained" in capsys.readouterr().err


def test_published_results_of_the_same_questions_stand_in_the_same_table():
    publish(Path("results/p_results_one.csv"), all_questions())
    publish(
        Path("results/p_results_two-2.csv"), all_questions()[::-1], "wrong and never ended", separator=";"
    )
    publish(Path("results/.p_results_hidden.csv"), all_questions())
    told, figures = run(published="results")
    assert list(figures)[:5] == ["untrained", "trained", "reference", "one", "two-2"]
    assert means(figures["one"])["f1"] == 1 and means(figures["two-2"])["f1"] == 0
    assert means(figures["two-2"])["stop_rate"] == 0 and means(figures["one"])["seconds_p50"] == 72.5
    assert figures["differences"]["trained-two-2"]["f1"]["wins"] == 6
    assert figures["differences"]["two-2-one"]["f1"]["losses"] == 6
    assert means(figures["reference"]) != means(figures["one"])  # the questions' own column stays
    assert told["published"]["p"] == {"one": 0.925, "two-2": 0.925}
    assert "published" not in figures and not (places.tables("d") / "one.csv").exists()


def test_published_results_of_other_questions_are_scored_apart():
    others = [question("median", question="Is it\n joint?", answer="Yes, all of it."), *all_questions()]
    publish(Path("results/joint_results_one.csv"), others)
    publish(Path("results/p_results_one.csv"), all_questions())
    _, figures = run(published="results")
    assert figures["published"]["joint"].keys() == {"reference", "one", "differences"}
    assert means(figures["published"]["joint"]["one"])["f1"] == means(figures["one"])["f1"] == 1


def bare(text: str):
    return lambda: Path("results/p_results_one.csv").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda: None, "results: no published results; expected files called <task>_results_<model>.csv"),
        (
            bare("question,answer\nq,a\n"),
            "one.csv: no column 'model_response'; there are question, answer$",
        ),
        (bare("question,model_response\nq,a\n"), "one.csv, row 1: answer: Field required"),
        (
            bare("question,answer,model_response\nq, ,b\n"),
            "row 1: answer: String should have at least",
        ),
        (bare("question,answer,model_response\nq,a,b\n q ,c,d\n"), "row 2: asks what .*row 1 asks, 'q'"),
        (bare("question,answer,model_response\n"), "one.csv: no question"),
        (
            bare("question,answer,model_response,cosine_similarity\nq,a,b,high\n"),
            "question-1: field 'cosine_similarity': expected a number, found 'high'",
        ),
        (lambda: publish(Path("results/p_results_trained.csv"), all_questions()), "'trained' has a meaning"),
    ],
)
def test_published_results_that_cannot_be_read(write, message):
    Path("results").mkdir()
    write()
    with pytest.raises(UserError, match=message) as caught:
        run(published="results")
    assert "\n" not in str(caught.value)


def test_tables_have_the_columns_of_the_original_and_are_read_back(drawn):
    run(encoder="encoder")
    assert {path.name for path in places.tables("d").iterdir()} == {
        "manifest.json",
        "reference.csv",
        "trained.csv",
        "untrained.csv",
    }
    names, cells = read_table(places.tables("d") / "untrained.csv")
    assert (
        names
        == (
            "page para_num text pdf_name question answer text_synthetic gpt_response model_response "
            "context_chunk_1 context_chunk_2 inference_speed_seconds cosine_similarity"
        ).split()
    )
    made = [row for _, row in cells]
    assert len(made) == 6 and HOSTILE in made[0]["model_response"]
    assert made[0]["page"] == "3" and made[0]["pdf_name"] == "paper" and made[0]["gpt_response"]
    assert made[0]["context_chunk_1"].startswith("compute the median")
    assert [row["inference_speed_seconds"] for row in made] == ["0.3", "0.6", "0.9", "", "", ""]
    assert -1 <= float(made[0]["cosine_similarity"]) < 1
    # and the file of one model can be scored as published results
    publish_again = Path("again/d_results_mine.csv")
    publish_again.parent.mkdir()
    publish_again.write_bytes((places.tables("d") / "untrained.csv").read_bytes())
    assert len(read_published("again")["d"].questions) == 6


def test_a_text_with_quotes_and_line_breaks_stays_one_cell():
    edit_answers(lambda row: row | {"answer": 'He said "a;b,\nc"'})
    run()
    text = (places.tables("d") / "trained.csv").read_text("utf-8")
    assert len(list(csv.reader(io.StringIO(text)))) == 7 and "\r" not in text


def test_the_same_inputs_give_the_same_bytes():
    told, _ = run()
    files = [path for path in Path("reports").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    assert run()[0] == told and {path: path.read_bytes() for path in files} == before
    json.dumps(told, allow_nan=False)


@pytest.mark.skipif(not REAL.is_dir(), reason="the published files are not here")
def test_the_published_figures_of_the_original():
    """To the last digit that was published; F1 too, where words are what stands between blanks."""
    told, figures = run(published=str(REAL))
    cosines = told["published"]["single_paper"]
    assert cosines == {"phi-1_5": 0.9615, "phipaca": 0.9433, "saiphipaca": 0.9388}
    own = figures["published"]["single_paper"]
    f1 = {model: (own[model]["f1"]["mean"], own[model]["f1_reference"]["mean"]) for model in list(own)[1:4]}
    assert f1 == {"phi-1_5": (0.2571, 0.3438), "phipaca": (0.1358, 0.1711), "saiphipaca": (0.1287, 0.1642)}
    won = own["differences"]["phipaca-phi-1_5"]["f1"]
    assert (won["wins"], won["ties"], won["losses"]) == (0, 0, 11)
    plain = {}
    answers = read_published(str(REAL))["single_paper"].answers
    reference = {row["id"]: row["answer"].lower().split() for row in answers if row["model"] == "reference"}
    for row in answers:
        words = Counter(row["answer"].lower().split()), Counter(reference[row["id"]])
        plain.setdefault(row["model"], []).append(shared(*words)[2])
    assert {model: f"{np.mean(values):.2f}" for model, values in plain.items()} == {
        "reference": "1.00",
        "phi-1_5": "0.33",
        "phipaca": "0.16",
        "saiphipaca": "0.15",
    }


@pytest.mark.parametrize(
    ("text", "stopped"),
    [("Yes.", 1), ('He said "yes."', 1), ("好。", 1), ("Why? (No!)", 1), ("", 0), ("and so", 0)],
)
def test_an_answer_of_unknown_end_stopped_if_it_ends_as_a_sentence_does(text, stopped):
    edit_answers(
        lambda row: row | {"finish_reason": ""} | ({"answer": text} if row["model"] == "untrained" else {})
    )
    assert means(run()[1]["untrained"])["stop_rate"] == stopped
