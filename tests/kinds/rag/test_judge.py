"""From answers to a judge's verdicts: what is asked, what is read, what it is worth, and what is refused."""

import json
import re
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from stages import collect, prompt, report
from stages.core import layout, pacing
from stages.core.errors import UserError
from stages.core.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from stages.core.stage import NoKnobs
from stages.kinds import registry
from stages.kinds.rag import KIND, corpus_judged, judge, places
from stages.kinds.rag.knobs import CorpusJudgedKnobs, JudgeKnobs
from stages.kinds.rag.parts.verdict import parse_answer
from stages.knobs import PromptKnobs
from stages.teacher.knobs import CollectKnobs
from tests.helpers.rag_answers import HOSTILE, rag_dataset
from tests.helpers.teacher_server import Teacher, completion
from tests.helpers.workspace import ROOT

CORRECT, INCORRECT = "Fine.\nCorrectness: [[correct]]", "Correctness: [[incorrect]]"
TEMPLATE = ROOT / "prompts/pydoc_rag_judged/teacher.md"


@pytest.fixture(autouse=True)
def _answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pacing, "FIRST_PAUSE_S", 0.01)
    rag_dataset("d")
    write_text(Path("agreement.jsonl"), "")


def written(systems=("trained", "untrained", "beside"), **more) -> list[dict]:
    """The documents of `d_judged`."""
    corpus_judged.run("d_judged", CorpusJudgedKnobs(of="d", systems=list(systems), **more))
    return read_jsonl(layout.corpus("d_judged") / "documents.jsonl")


def asked(url: str, **more) -> None:
    knobs = PromptKnobs(template=str(TEMPLATE), task="verdict", temperature=0, model="embedded")
    prompt.run("d_judged", knobs)
    write_json(layout.figures("d_judged") / "prompt.json", {})
    more = {"min_accept": 0.1, "retries": 0, **more}
    collect.run("d_judged", CollectKnobs(base_url=url, api_key_env="", **more))


def judged() -> dict:
    return judge.run("d_judged", JudgeKnobs(agreement="agreement.jsonl", bootstrap=50))


def answer_in(messages: list[dict]) -> str:
    return messages[-1]["content"].rpartition("<answer>\n")[2].partition("\n</answer>")[0]


def by_words(messages: list[dict]) -> str:
    """Correct where the reference is given; a hostile reference would end the prompt's tags."""
    return CORRECT if "leave the harbour" in answer_in(messages) else INCORRECT


@pytest.mark.parametrize(
    ("said", "form", "verdict"),
    [
        ("Correctness: [[correct]]", "text", "correct"),
        ("It says so.\n\n**Correctness:** [[ Incorrect ]].", "text", "incorrect"),
        ("Correctness: [[correct]]\nTo repeat, correctness: [[correct]]", "text", "correct"),
        ('{"correctness": "incorrect"}', "json", "incorrect"),
        ('[{"name": "Verdict", "arguments": {"correctness": "correct"}}]', "tool", "correct"),
        ("Correctness: [[partially correct]]", "text", None),
        ("Correctness: [[correct|incorrect]]", "text", None),
        ("Correctness: [[correct]] or Correctness: [[incorrect]]", "text", None),
        ("The answer is correct.", "text", None),
        ("incorrect", "text", None),
        ("", "text", None),
        ('{"correctness": "partly"}', "json", None),
        ("[]", "tool", None),
    ],
)
def test_one_verdict_or_none(said, form, verdict):
    if verdict:
        assert parse_answer(said, form) == [verdict]
    else:
        with pytest.raises((ValueError, ValidationError)):
            parse_answer(said, form)
    task = registry.task("verdict")
    assert task.well_formed("correct") and task.reject("perhaps", {}) == "no verdict"


def test_each_different_answer_is_a_document():
    documents = written(contexts=["gold", "retrieved"])
    rows = {(row["metadata"]["set"], row["title"], row["text"]): row for row in documents}
    assert len(rows) == len(documents) == 2 * 6 * 3  # the same from both contexts
    row = next(row for row in documents if row["metadata"]["question_id"] == "test-boats")
    assert all(context in ("gold", "retrieved") for _, context in row["metadata"]["given_by"])
    assert len(row["metadata"]["given_by"]) == 2
    shown = row["metadata"]["passages"]
    assert len(shown) == 2 and sum("harbour" in text for text in shown) == 1  # gold, and one far from it
    orders = {["harbour" in text for text in one["metadata"]["passages"]].index(True) for one in documents}
    assert orders == {0, 1}
    assert [row["id"] for row in documents] == sorted(row["id"] for row in documents)
    to_label = read_jsonl(layout.corpus("d_judged") / "to_label.jsonl")
    assert {row["correct"] for row in to_label if not row["answer"].strip()} == {False}
    assert {row["correct"] for row in to_label if row["answer"].strip()} == {None}


def test_verdicts_are_paid_once_and_an_empty_answer_costs_nothing():
    documents = written()
    teacher = Teacher(answer=by_words)
    with teacher.running() as url:
        asked(url)
        told, calls = judged(), teacher.calls
        asked(url)
        assert teacher.calls == calls == sum(bool(row["text"].strip()) for row in documents)
    own = told["test"]["retrieved"]
    assert told["by"] == ["embedded"] and told["agreement"] is None
    assert own["trained"]["correct"]["mean"] == pytest.approx(5 / 6, abs=1e-4)  # planes: said nothing
    assert own["untrained"]["correct"] == {"mean": 0, "low": 0, "high": 0}
    assert own["trained"]["judged"] == 6 and own["trained"]["failed"] == {}
    gained = own["differences"]["trained-beside"]["correct"]
    assert gained["mean"] == pytest.approx(5 / 6, abs=1e-4) and gained["low"] > 0
    assert judged() == told
    for body in teacher.bodies.values():  # the judge does not know whose answer it is
        assert body["temperature"] == 0 and "trained" not in json.dumps(body["messages"])


def test_failures_are_counted_by_outcome_between_bounds():
    """Of untrained's answers one is prose, one times out, one is declined: all else is correct."""
    written()
    spoilt = {
        "boats": completion("I would call that partially correct."),
        "trains": 30,
        "buses": completion(None, refusal="I cannot judge that."),
    }

    def fault(body, times):
        text = body["messages"][-1]["content"]
        if answer_in(body["messages"]).startswith("the the"):
            return next((reply for subject, reply in spoilt.items() if f"do {subject} leave" in text), None)
        return None

    with Teacher(fault=fault, answer=lambda messages: CORRECT).running() as url:
        asked(url, timeout=2)
    told = judged()["test"]["retrieved"]
    own = told["untrained"]
    assert own["failed"] == {"error": 1, "no verdict": 1, "refusal": 1} and own["judged"] == 3
    assert own["correct"]["mean"] == 1
    assert own["lowest"]["mean"] == 0.5 and own["highest"]["mean"] == 1
    gained = told["differences"]["trained-untrained"]  # trained said nothing on planes
    means = [gained[measure]["mean"] for measure in ("lowest", "correct", "highest")]
    assert means == pytest.approx([-1 / 6, -1 / 6, 1 / 3], abs=1e-4)


def test_a_judge_who_always_says_yes_is_corrected_by_people():
    documents = written(systems=["trained", "beside"])
    with Teacher(answer=lambda messages: CORRECT).running() as url:
        asked(url)
    own = [row for row in documents if ["beside", "retrieved"] in row["metadata"]["given_by"]]
    own = [row for row in own if row["metadata"]["set"] == "test"]
    labels = [{"id": row["id"], "correct": place % 2 == 0} for place, row in enumerate(own)]
    write_jsonl(Path("agreement.jsonl"), labels)
    told = judged()
    people = told["test"]["retrieved"]["beside"]["by_people"]
    assert people["mean"] == 0.5 and people["low"] < 0.2 and people["high"] > 0.8
    assert told["test"]["retrieved"]["beside"]["correct"]["mean"] == 1
    assert told["test"]["retrieved"]["trained"]["by_people"] is None  # nobody looked at its answers
    assert told["agreement"] == {
        "answers": 6,
        "share": 0.5,
        "kappa": 0,
        "correct": {"people": 0.5, "judge": 1.0},
    }
    write_jsonl(Path("agreement.jsonl"), labels[1:])  # no random sample: somebody passed over the first
    told = judged()
    own = told["test"]["retrieved"]["beside"]
    assert (own["labelled"], own["by_people"]) == (0, None) and told["agreement"]["answers"] == 5


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"id": "x", "correct": True}], "agreement.jsonl, row 1: field 'id': no answer has the id 'x'"),
        ([{"id": "ID", "correct": None}], "agreement.jsonl, row 1: correct: "),
        ([{"id": "ID", "correct": "true"}], "agreement.jsonl, row 1: correct: "),
        ([{"id": "ID"}], "agreement.jsonl, row 1: correct: "),
        ([{"id": "ID", "correct": True}] * 2, "agreement.jsonl, row 2: field 'id': 'ID' comes twice"),
    ],
)
def test_verdicts_of_people_that_cannot_be_used(rows, told):
    name = written()[0]["id"]
    write_text(Path("agreement.jsonl"), "".join(json.dumps(row) + "\n" for row in rows).replace("ID", name))
    write_text(layout.responses("d_judged"), "")
    with pytest.raises(UserError) as error:
        judged()
    assert told.replace("ID", name) in str(error.value) and "\n" not in str(error.value)


def test_answers_of_the_judge_that_cannot_be_used():
    name = next(row["id"] for row in written() if row["text"].strip())
    row = {"id": name, "accepted": True, "outcome": "ok", "response": "Correctness: both", "model": "m"}
    for rows, told in (
        ([row], "no answer holds a verdict"),
        ([], "no answer holds a verdict"),
        ([row | {"id": "y"}], "row 1: 'y' is none of the answers there are now"),
    ):
        write_jsonl(layout.responses("d_judged"), rows)
        with pytest.raises(UserError, match=told):
            judged()


def test_what_there_is_not_to_judge():
    with pytest.raises(UserError, match="no answers of 'tarined' from retrieved passages; there are"):
        written(systems=["tarined"])
    places.answers("d").unlink()
    with pytest.raises(UserError, match=r"data/d/answers.jsonl: no such file"):
        written()


def test_the_blocks_of_a_judge():
    blocks = dict.fromkeys((stage.name for stage in KIND.stages), {}) | {"corpus": {}}
    judge_of = {"corpus_judged": {"d_judged": {"of": "d"}}, "judge": {"d_judged": {}}}
    assert KIND.problem({**blocks, **judge_of}) == "corpus_judged.d_judged.of: answer has no block 'd'"
    assert KIND.problem({**blocks, "judge": {"e": {}}}) == "judge.e: corpus_judged has no block 'e'"
    both = {**blocks, "passages": {"d": {}}, "answer": {"d": {}}, "corpus_judged": {"d": {"of": "d"}}}
    assert KIND.problem(both).startswith("corpus_judged.d: 'd' has answers itself")


def test_the_stand_in_says_that_it_is_one():
    written()
    asked("embedded")
    told = judged()
    own = told["test"]["retrieved"]
    assert own["trained"]["correct"]["mean"] > 0.8 and own["beside"]["correct"]["mean"] == 0
    shutil.copyfile(ROOT / "dvc.yaml", "dvc.yaml")
    write_text(Path("dvc.yaml"), re.sub(r"(?m)^  - prompts/.*\n", "", Path("dvc.yaml").read_text()))
    write_text(Path("params.yaml"), "judge:\n  d_judged: {}\n")
    write_json(layout.figures("d_judged") / "judge.json", told)
    report.run("d_judged", NoKnobs())
    page = Path("reports/d_judged/report.html").read_text()
    for text in (
        "Judge: embedded, a rule-based stand-in",
        "trained-beside, retrieved: held-out",
        "Nobody has",
    ):
        assert text in page, text
    lines = KIND.summary({"judge": told})
    assert lines[0] == "test: beside, retrieved passages: correct 0.000, by embedded"
    assert HOSTILE in json.dumps(read_jsonl(layout.requests("d_judged")), ensure_ascii=False)
    assert read_json(layout.figures("d_judged") / "failures.json") == {}
