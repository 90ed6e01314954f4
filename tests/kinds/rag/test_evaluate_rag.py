"""From answers to figures: systems and contexts, baselines, differences, samples, refusals, the page."""

from pathlib import Path

import pytest

from stages.core.errors import UserError
from stages.core.files import read_json
from stages.kinds.rag import places
from stages.kinds.rag.evaluate_rag import run
from stages.kinds.rag.knobs import EvaluateRagKnobs
from stages.kinds.rag.parts.scoring import FAILURES
from tests.helpers.rag_answers import edit_answers, rag_dataset

CONTEXTS = ["gold", "retrieved", "answerable", "gold_missed"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rag_dataset("d")


def evaluated(**knobs) -> dict:
    return run("d", EvaluateRagKnobs(bootstrap=50, **knobs))


def figures(name: str = "rag") -> dict:
    return read_json(Path(f"reports/d/figures/{name}.json"))


def test_systems_contexts_and_differences(project):
    told = evaluated()
    made = figures()
    systems = {"untrained", "trained", "beside", "first_words", "nearest_question"}
    for own in (made, made["people"]):
        assert own.keys() - {"people"} == systems | {"differences"}
        assert list(own["trained"]) == CONTEXTS and list(own["nearest_question"]) == CONTEXTS[1:]
        assert own["differences"].keys() == {
            *("trained-untrained", "trained-beside", "trained-baseline", "trained-nearest")
        }
    own = made["trained"]["retrieved"]
    assert own["questions"] == 6 and own["f1"]["mean"] == pytest.approx(5 / 6, abs=1e-4)
    assert own["recall@1"]["mean"] == 0 and own["recall@4"]["mean"] == pytest.approx(5 / 6, abs=1e-4)
    assert own["bleu_mean"]["mean"] == pytest.approx(5 / 6, abs=1e-4)
    assert 0.8 < own["bleu"]["mean"] < 1  # with the penalty for an answer that is missing
    assert own["copied"]["mean"] < own["f1"]["mean"] and own["empty"]["mean"] == pytest.approx(
        1 / 6, abs=1e-4
    )
    assert own["faithfulness"] == {"mean": 1, "low": 1, "high": 1}  # of the answers that make a claim
    assert own["stop_rate"]["mean"] == 1 and made["untrained"]["gold"]["stop_rate"]["mean"] == 0
    assert own["total_ms_p50"] == {"mean": 102, "low": 102, "high": 102}
    assert made["trained"]["gold"]["total_ms_p95"]["mean"] == 100
    assert made["trained"]["gold"]["retrieve_ms_p50"]["mean"] == 0
    assert own["tokens_per_second"]["mean"] == 200
    assert made["trained"]["answerable"]["f1"]["mean"] == 1 == made["trained"]["answerable"]["bleu"]["mean"]
    assert made["trained"]["gold_missed"]["questions"] == 1
    gained = made["differences"]["trained-baseline"]["retrieved"]["f1"]
    assert gained["mean"] == pytest.approx(own["f1"]["mean"] - made["first_words"]["retrieved"]["f1"]["mean"])
    assert made["first_words"]["retrieved"]["stop_rate"] is None
    assert made["first_words"]["gold"]["copied_precision"]["mean"] == 1
    assert made["nearest_question"]["retrieved"]["copied"] is None
    assert told["test"]["questions"] == 6 and "local stand-in" in told["test"]["claims"]["by"]
    assert told["test"]["recall_curve"] == [0, 0.8333, 0.8333, 0.8333, 0.8333]


def test_samples_and_failures(project):
    evaluated()
    made = figures("rag_samples")["test"]
    assert len(made["rows"]) == 6 and made["rows"][-1]["question"].startswith("When do planes")
    first = made["rows"][0]
    assert [shown["gold"] for shown in first["passages"]] == [True, False, False]
    assert len(first["answers"]) == 3 * 2 + 2 + 1
    counts = made["failures"]
    assert tuple(counts["trained, retrieved"]) == FAILURES
    assert counts["trained, retrieved"] == {**dict.fromkeys(FAILURES, 0), "empty": 1}
    assert counts["untrained, gold"]["did_not_stop"] == 6
    assert counts["beside, retrieved"]["gold_missed"] == 1
    assert counts["beside, retrieved"]["copied"] == 5 and len(counts) == 6


def test_the_same_answers_give_the_same_bytes(project):
    evaluated()
    files = sorted(Path("reports").rglob("*.json"))
    first = [path.read_bytes() for path in files]
    edit_answers(places.compared("d"), lambda rows: rows)
    evaluated()
    assert [path.read_bytes() for path in files] == first


def test_without_people_beside_or_training_questions(project):
    own = ("test", "trained")
    for path in (places.answers("d"), places.compared("d")):
        edit_answers(path, lambda rows: [row for row in rows if (row["split"], row["system"]) == own])
    evaluated(cutoffs=[2], words="unicode")
    made = figures()
    assert "people" not in made and made["differences"].keys() == {"trained-baseline", "trained-nearest"}
    assert made["trained"]["retrieved"]["ndcg@2"]["mean"] > 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: [row | {"answer": " \n"} for row in rows], "answers.jsonl: every answer is empty"),
        (lambda rows: [], "answers.jsonl: zero rows"),
        (
            lambda rows: rows[1:],
            "from retrieved passages 'trained' answered 5 questions and 'untrained' 6, not all the same",
        ),
        (
            lambda rows: [rows[0] | {"id": "x"}, *rows[1:]],
            "test.jsonl: has no question 'x', which was answered",
        ),
    ],
)
def test_answers_that_cannot_be_compared(project, change, told):
    edit_answers(places.answers("d"), change)
    with pytest.raises(UserError) as error:
        evaluated()
    assert told in str(error.value) and not Path("reports").exists()
