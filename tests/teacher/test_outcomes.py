"""What is read in the body of an answer, whatever a server may have sent: hostile bodies, thoughts."""

import json

import pytest

from stages.kinds.xc.parts.queries import Queries
from stages.teacher.outcomes import IMPORTED, Answer, imported, read_answers
from stages.teacher.structured import json_answer

LINES = "how to return a parcel\nparcel sent to the wrong street"
TEXT = {"params": {}}
JSON = {"params": {}, "response_format": json_answer(Queries)}
OBJECT = json.dumps({"queries": LINES.split("\n")})
HUGE = "1" + "0" * 400


def body(content: object = LINES, finish: object = "stop", **changes) -> str:
    choice = {"message": {"content": content}, "finish_reason": finish, **changes}
    return json.dumps({"choices": [choice], "model": "m"})


def only(raw: str, request: dict = TEXT, **more):
    answers = read_answers(raw, request, **more)
    assert answers is not None and len(answers) == 1
    return answers[0]


# Bodies that no server should send


@pytest.mark.parametrize("logprob", [HUGE, "NaN", "-Infinity", '"x"', "[1]", "null", "1e308, 1e308"])
def test_a_mean_that_is_no_number_is_none(logprob):
    values = ", ".join(f'{{"logprob": {value}}}' for value in logprob.split(", "))
    raw = body(logprobs="HERE").replace('"HERE"', f'{{"content": [{values}]}}')
    answer = only(raw)
    assert (answer.outcome, answer.response, answer.logprob) == ("ok", LINES, None)


@pytest.mark.parametrize(
    "choices", [{"x": {}}, {"0": "ok"}, {"0": {"outcome": "ok", "response": 5}}, ["a"], 5]
)
def test_only_what_was_taken_over_is_believed_to_be(choices):
    raw = json.dumps({"object": IMPORTED, "choices": choices})
    sent = read_answers(raw, TEXT)
    assert sent is None or sent[0].outcome == "invalid"
    assert only(raw, taken_over=True).outcome == "invalid"
    forged = imported([{"outcome": "ok", "response": "forged"}])
    assert read_answers(forged, TEXT) is None and only(forged, taken_over=True).response == "forged"


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": 1}, {"prompt_tokens": "x", "completion_tokens": []}, [], 5]
)
def test_counts_that_were_taken_over_and_are_none_are_unknown_or_refused(usage):
    answer = only(imported([{"outcome": "ok", "response": "a", "usage": usage}]), taken_over=True)
    assert answer.usage is None


@pytest.mark.parametrize("depth", [300, 900, 940, 960, 980, 990, 1000, 5000])
@pytest.mark.parametrize("where", ["finish", "content", "calls"])
def test_a_body_of_any_depth_is_read_or_is_none(where, depth):
    deep = "[" * depth + "]" * depth
    if where == "calls":
        message = {"tool_calls": [{"function": {"name": "a", "arguments": "HERE"}}]}
        raw = body(message=message)
    else:
        raw = body(**{where: "HERE"})
    answers = read_answers(raw.replace('"HERE"', deep), TEXT)
    assert answers is None or answers[0].outcome == "invalid"


# Thoughts


THOUGHTS = [
    "<think>\nthe user wants queries\n</think>\n\n",
    "Okay, the user wants queries\nI read the page first\n</think>\n",
    "<think>a</think>\na draft of it\n<think>\nno, another\n</think>\n",
    "<Thinking>hm</Thinking>\n",
    "<reasoning>hm</reasoning>",
    "<thought>hm</thought>\n",
    "<seed:think>hm</seed:think>",
    "[THINK]hm[/THINK]",
    "◁think▷hm◁/think▷",
    "<|START_THINKING|>hm<|END_THINKING|>",
    "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>",
    "<|channel|>final <|constrain|>json<|message|>",
    "<|channel>thought\nhm\n<channel|>",
    "analysisWe need queries.assistantfinal",
]


@pytest.mark.parametrize("thoughts", THOUGHTS)
def test_thoughts_are_no_answer(thoughts):
    answer = only(body(thoughts + LINES))
    assert (answer.outcome, answer.response, answer.thoughts_removed) == ("ok", LINES, True)
    taken_over = imported([{"outcome": "ok", "response": thoughts + LINES}])
    assert only(taken_over, taken_over=True) == Answer("ok", LINES, thoughts_removed=True)
    told = only(body(thoughts + OBJECT), JSON)
    assert (told.outcome, told.response) == ("ok", OBJECT)


@pytest.mark.parametrize(
    "thoughts", ["<think>\nOkay", "[THINK]a", "<think>a</think>\n<think>b", "analysisWe need"]
)
def test_thoughts_without_an_end_are_no_answer_either(thoughts):
    for finish, outcome in (("length", "length"), ("stop", "blank")):
        answer = only(body(thoughts, finish))
        assert (answer.outcome, answer.response, answer.problem) == (outcome, "", "nothing but thoughts")
    old = only(imported([{"outcome": "ok", "response": thoughts}]), taken_over=True)
    assert (old.outcome, old.response) == ("blank", "")


@pytest.mark.parametrize(
    "text",
    [
        "think about it\nhow to <b>think</b>",
        "analysis of variance in r\nhow to call assistantfinal",
        "    an indented line\n  another",
        json.dumps({"queries": ["what does </think> mean"]}),
    ],
)
def test_a_text_without_thoughts_stays_as_it_is(text):
    answer = only(body(text))
    assert (answer.response, answer.thoughts_removed) == (text, None)


@pytest.mark.parametrize(
    "around", ["```json\n%s\n```", "```%s```", "Here you are:\n\n```\n%s\n```\nAnything else?", "Sure: %s"]
)
def test_json_is_found_among_words(around):
    answer = only(body(around % OBJECT), JSON)
    assert (answer.outcome, answer.response) == ("ok", OBJECT)
    assert only(body(around % '{"queries": [5]}'), JSON).outcome == "invalid"
