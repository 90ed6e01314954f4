"""Measures of calls, rows read from any file, and what test shares with training."""

import json
import math
import random
import statistics
from collections import defaultdict
from pathlib import Path

import pytest

from stages.core.errors import UserError
from stages.evaluation.bootstrap import macro_interval, quantile_interval
from stages.evaluation.people import one_spelling
from stages.kinds.skills.evaluate_calls import wrong
from stages.kinds.skills.parts.runs import Scored
from stages.kinds.skills.parts.schema import Parameter, Skill, Skills, together
from stages.kinds.skills.parts.scored_rows import GoldRequest, obeying, read_rows
from stages.kinds.skills.parts.scoring import (
    NO_CALL,
    by_skill,
    confusion,
    judge,
    leaks,
    score,
    shared_requests,
    trigrams,
)
from stages.sources.near import nearest
from tests.helpers.workspace import ROOT

REAL = ROOT.parent / "shared" / "data" / "otto" / "synthetic_data.json"


def skill(name: str, *parameters: str, **more) -> Skill:
    own = {parameter: Parameter(optional=True) for parameter in parameters}
    return Skill(name=name, description="", parameters=own, **more)


SKILLS = together([skill("weather", "location"), skill("timer", "duration"), skill("other", fallback=True)])
ROWS = [
    ("Berlin?", 'weather(location="Berlin")', 'weather(location="berlin")'),  # right but for case
    ("Rome?", 'weather(location="Rome")', 'weather(location="Rome")'),  # right
    ("Oslo?", 'weather(location="Oslo")', "other()"),
    ("Bern?", 'weather(location="Bern")', "weather(location="),  # cannot be read
    ("5 min", 'timer(duration="5 minutes")', 'timer(minutes="5")'),  # no such parameter
    ("hm", "other()", "other()"),
    ("so", "other()", "'so'"),  # an expression, and no call
    ("uh", "other()", "sleep()"),  # no skill
]


def judged(rows, skills=SKILLS):
    return [judge(gold, answer, skills) for _, gold, answer in rows]


def means(rows, **more):
    found = score(judged(rows), 200, 1, **more)
    assert all(list(value) == ["mean", "low", "high"] for value in found.values())
    return {name: value["mean"] for name, value in found.items()}


def test_measures_by_hand():
    assert means(ROWS) == {
        "normalised_match_macro": round((2 / 4 + 0 / 1 + 1 / 3) / 3, 4),
        "normalised_match": 3 / 8,
        "match": 2 / 8,
        "ast_match": 2 / 8,
        "right_skill": 4 / 8,
        "valid_call": 4 / 8,
        "valid_format_compat": 7 / 8,
        "other_recall": 0.3333,
        "other_precision": 1 / 2,
        "latency_ms_p50": None,
        "latency_ms_p95": None,
    }


def test_no_request_and_no_answer_of_the_fallback():
    found = means([ROWS[0], ROWS[1]])
    assert found["other_recall"] is None and found["other_precision"] is None
    without = Skills(skills=SKILLS.skills[1:])
    undefined = score(judged(ROWS[:2], without), 100, 1)["other_recall"]
    assert undefined == {"mean": None, "low": None, "high": None}


def test_figures_by_skill_and_confusions():
    assert by_skill(judged(ROWS)) == {
        "other": {"rows": 3, "normalised_match": 0.3333, "ast_match": 0.3333, "right_skill": 0.3333},
        "timer": {"rows": 1, "normalised_match": 0.0, "ast_match": 0.0, "right_skill": 1.0},
        "weather": {"rows": 4, "normalised_match": 0.5, "ast_match": 0.25, "right_skill": 0.5},
    }
    found = confusion(judged(ROWS), SKILLS)
    assert found["gold"] == ["other", "timer", "weather"] and found["answered"][-1] == NO_CALL
    assert found["counts"] == [[1, 0, 0, 2], [0, 1, 0, 0], [1, 0, 2, 1]]
    users, gold, answers = (list(column) for column in zip(*ROWS, strict=True))
    system = Scored(answers, judged(ROWS), {}, 0)
    missed = wrong([{"text": user} for user in users], gold, system)
    assert [row["user"] for row in missed] == ["Oslo?", "Bern?", "5 min", "so", "uh"]


def test_latencies_have_quantiles():
    found = score(judged(ROWS), 500, 1, [10.0, 20.0, 30.0, 40.0, 1000.0])
    assert found["latency_ms_p50"]["mean"] == 30 and found["latency_ms_p95"]["mean"] > 100
    assert found["latency_ms_p50"]["low"] >= 10 and found["latency_ms_p50"]["high"] <= 1000


def test_the_macro_interval_agrees_with_a_plain_bootstrap():
    draw = random.Random(5)
    groups = draw.choices("aaaabbc", k=140)
    values = [float(draw.random() < {"a": 0.9, "b": 0.5, "c": 0.2}[group]) for group in groups]

    def macro(places):
        own = defaultdict(list)
        for place in places:
            own[groups[place]].append(values[place])
        return statistics.fmean(statistics.fmean(one) for one in own.values())

    drawn = sorted(macro(draw.choices(range(140), k=140)) for _ in range(4000))
    found = macro_interval(values, groups, 4000, seed=1)
    assert found["mean"] == round(macro(range(140)), 4)
    assert found["low"] == pytest.approx(drawn[100], abs=0.01)
    assert found["high"] == pytest.approx(drawn[3900], abs=0.01)
    assert macro_interval([], [], 10, 1) is None and quantile_interval([], 0.5, 10, 1) is None


def test_rare_skills_are_missing_from_some_resamples():
    found = macro_interval([1.0, 1.0, 0.0], ["a", "a", "b"], 300, seed=0)
    assert found == {"mean": 0.5, "low": 0.0, "high": 1.0}
    assert not any(math.isnan(value) for value in found.values())


def written(tmp_path, text: str) -> Path:
    path = tmp_path / "rows.json"
    path.write_text(text)
    return path


GOOD = [
    '[{"user": "a", "answer": "other()"}, {"input": "b", "output": "other()"}]',
    '{"user": "a", "answer": "other()", "more": 1}\n\n{"input": " b ", "target": "other()"}\n',
    '\ufeff[{"user": "a", "answer": "other()"}] {"input": "b", "output": "other()"}',
    'intro\n[\n {"user": "a", "answer": "other()"}\n]\nhttp://x\n[{"input": "b", "output": "other()"}]\nend',
    '{"user": "a", "answer": "other()"}, {"input": "b", "output": "other()"},\n,\n',
]


@pytest.mark.parametrize(("text", "skipped"), zip(GOOD, ([], [], [], [1, 5, 7], []), strict=True))
def test_rows_of_every_form(tmp_path, text, skipped):
    found = read_rows(written(tmp_path, text))
    assert (
        found.requests == [GoldRequest(1, "a", "other()"), GoldRequest(2, "b", "other()")]
        and found.skipped_lines == skipped
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no row"),
        ("some text\n", "no row"),
        ("[]", "no row"),
        ('[{"user": "a"}]', "row 1: expected .*this row has user"),
        ('[{"user": "a", "answer": "other()"}, "b"]', "row 2: expected .*found str"),
        ('[{"user": "a", "answer": null}]', "row 1: field 'answer' is no text: None"),
        ('[{"user": " ", "answer": "other()"}]', "row 1: field 'user' is no text"),
        ('[\n{"user": "a", "answer": "other()"},\n]', "line 3: not valid JSON"),
        ('text\n{"user": "a", "answer": "b"\n', "line 3: not valid JSON"),
        ("[" * 100_000, "line 1: not valid JSON .nested too deeply"),
        (f"\n[{'9' * 5000}]", "line 2: not valid JSON .a number with too many digits"),
        ('[{"user": "\\ud800", "answer": "other()"}]', "line 1: not valid JSON .*half of a character"),
    ],
)
def test_other_rows_are_refused(tmp_path, text, told):
    with pytest.raises(UserError, match=told):
        read_rows(written(tmp_path, text))


def test_gold_calls_that_cannot_be_are_left_out():
    texts = ["other()", 'timer(location="Boston")', "timer", 'sleep(x="1")']
    sound, left_out = obeying([GoldRequest(n, "u", text) for n, text in enumerate(texts, 1)], SKILLS)
    assert sound == [GoldRequest(1, "u", "other()")] and [row["row"] for row in left_out] == [2, 3, 4]
    assert "no parameter 'location'" in left_out[0]["problem"] and "not a call" in left_out[1]["problem"]


@pytest.mark.skipif(not REAL.is_file(), reason="the real file is not here")
def test_the_real_file_of_rows():
    found = read_rows(REAL)
    assert len(found.requests) == json.dumps(REAL.read_text()).count('\\"input\\"') == 279
    assert len(found.skipped_lines) == 20 and all(row.gold.endswith(")") for row in found.requests)


def document(name: str, split: str, text: str, call: str, template: str) -> dict:
    return {"id": name, "split": split, "text": text, "metadata": {"call": call, "template": template}}


def test_leaks_are_counted_by_kind():
    berlin, oslo = 'weather(location="Berlin")', 'weather(location="oslo")'
    documents = [
        document("1", "train", "What is the weather in Berlin?", berlin, "what is the weather in [location]"),
        document("2", "train", "weather, Oslo", oslo, "weather [location]"),
        document("3", "val", "never compared", "other()", "-"),
        document("4", "test", "What is the weather in Berlin?", berlin, "what is the weather in [location]"),
        document("5", "test", "Weather oslo!", 'weather(location="OSLO")', "weather [location]"),
        document("6", "test", "what is the weather in Berlin now?", berlin, "x"),
        document("7", "test", "set a timer", 'timer(duration="1 hour")', "y"),
        document("8", "test", "Set a timer.", 'timer(duration="one hour")', "y"),
    ]
    found = leaks(documents, SKILLS)
    assert (found["train"], found["test"]) == (2, 5)
    assert {name: own["rows"] for name, own in found["requests"].items()} == {
        "exact": 1,
        "spelling": 1,
        "near": 1,
    }
    assert found["requests"]["spelling"]["first"] == [["Weather oslo!", "weather, Oslo"]]
    assert found["duplicates_in_test"] == {"rows": 1, "first": ["set a timer"]}
    assert found["templates"]["shared"] == 2 and found["templates"]["test"] == 4
    assert found["values"] == {
        "timer.duration": {"test": 1, "shared": 0, "first": []},
        "weather.location": {"test": 2, "shared": 2, "first": ["berlin", "oslo"]},
    }


def test_letters_keep_what_makes_a_request_another_one():
    alike = ["9*9 is?", "“9 * 9” is", "9 × 9 is", "9 / 9 is", "9 - 9 is", "9 9 is"]
    assert len({one_spelling(text) for text in alike}) == 5 and one_spelling(alike[0]) == one_spelling(
        alike[1]
    )
    assert one_spelling("T-shirt, please!") == "t shirt please" and one_spelling("की") != one_spelling("कि")
    found = shared_requests(["weather IN rome", "?!"], ["...", "Weather in Rome, Rome", "Weather in Rome?"])
    assert found["spelling"] == {"rows": 1, "first": [["weather IN rome", "Weather in Rome?"]]}
    assert found["near"]["rows"] == 0


def test_similarity_is_that_of_the_sets():
    texts = ["weather in Rome", "a timer, please", "?!", "天气"]
    others = ["the weather in Rome", "timer please", "nothing alike"]

    def by_hand(text: str) -> set[str]:
        words = (f" {word} " for word in one_spelling(text).split())
        return {word[n : n + 3] for word in words for n in range(len(word) - 2)}

    for text, (similarity, _) in zip(texts, nearest(texts, others, trigrams), strict=True):
        scores = [
            len(by_hand(text) & by_hand(other)) / len(by_hand(text) | by_hand(other)) for other in others
        ]
        assert similarity == pytest.approx(max(scores))
    assert nearest(["a"], []) == [(0.0, "")] and nearest([], ["a"]) == []
