"""Answers as JSON and as calls of a function: asked for, checked, read, and brought to training rows."""

import json

import pytest

from stages.collect import run as collect
from stages.convert import run as convert
from stages.core import layout
from stages.core.files import read_json, read_jsonl
from stages.kinds.xc.parts.queries import Queries, parse_answer
from stages.knobs import ConvertKnobs, PromptKnobs
from stages.prompt import run as prompt
from stages.teacher.knobs import CollectKnobs
from stages.teacher.outcomes import read_answers
from stages.teacher.structured import SHOWN, json_answer, problem_with, tool_answer, tool_choice
from tests.helpers.teacher_server import Teacher, completion, responses, write_corpus, write_prompts

SCHEMA = {
    "additionalProperties": False,
    "description": "Search queries that the document answers.",
    "properties": {
        "queries": {
            "description": "Different queries, each as a person would type it",
            "items": {"type": "string"},
            "title": "Queries",
            "type": "array",
        }
    },
    "required": ["queries"],
    "title": "Queries",
    "type": "object",
}
GOOD = '{"queries": ["how to sort", "sort rows"]}'
FORMS = ("text", "json", "tool")


def call(name="Queries", arguments=GOOD, **more) -> dict:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def json_problem(text) -> str | None:
    return problem_with({"content": text}, text, {"response_format": json_answer(Queries)})


def call_problem(calls) -> str | None:
    return problem_with({"tool_calls": calls}, "[]", {"tools": tool_answer(Queries)})


def test_what_is_sent_is_strict_and_stays():
    """A schema is part of the key of every request that has it: a new library must not write it otherwise."""
    assert json_answer(Queries) == {
        "type": "json_schema",
        "json_schema": {"name": "Queries", "strict": True, "schema": SCHEMA},
    }
    function = {"name": "Queries", "strict": True, "parameters": SCHEMA, "description": SCHEMA["description"]}
    assert tool_answer(Queries) == [{"type": "function", "function": function}]
    assert tool_choice(tool_answer(Queries)) == {"type": "function", "function": {"name": "Queries"}}


@pytest.mark.parametrize(
    "text, problem",
    [
        (GOOD, None),
        ('{"queries": []}', None),
        ("- how to sort", "not JSON: "),
        ("```json\n{}\n```", "not JSON: "),
        (GOOD[:20], "not JSON: "),
        (None, "not JSON: "),
        ('{"queries": ["\\ud800"]}', "not JSON: "),
        ("9" * 5000, "not JSON: "),
        ("[" * 100_000, "nested too deeply"),
        ('{"queries": "sort"}', "queries: 'sort' is not of type 'array'"),
        ('{"queries": ["sort", 5]}', "queries.1: 5 is not of type 'string'"),
        ('{"queries": [], "note": "x"}', "Additional properties are not allowed ('note' was unexpected)"),
        ("{}", "'queries' is a required property"),
        ("[]", "[] is not of type 'object'"),
    ],
)
def test_json_is_held_to_its_schema(text, problem):
    found = json_problem(text)
    assert found == problem if problem is None or not problem.endswith(" ") else found.startswith(problem)


@pytest.mark.parametrize(
    "calls, problem",
    [
        ([call()], None),
        ([call(), call()], None),
        (None, "no tool call"),
        ([], "no tool call"),
        ([call("Search")], "no tool is called 'Search'; there are Queries"),
        ([call(), call("Search")], "no tool is called 'Search'; there are Queries"),
        ([call(arguments="sort rows")], "Queries: not JSON: "),
        ([call(arguments=None)], "Queries: not JSON: "),
        ([call(arguments={"queries": []})], "Queries: not JSON: "),
        ([call(arguments='{"queries": [1]}')], "Queries: queries.0: 1 is not of type 'string'"),
        ([call(arguments="[" * 100_000)], "nested too deeply"),
        ([call(name={"a": 1})], "no tool is called {'a': 1}; there are Queries"),
        ([call(name=None)], "no tool is called None; there are Queries"),
        ([{"id": "c"}], "a tool call without a function"),
        ([{"function": "Queries"}], "a tool call without a function"),
        (["Queries"], "a tool call without a function"),
        ([None], "a tool call without a function"),
        ({"0": call()}, "tool_calls is no list"),
        ("Queries", "tool_calls is no list"),
        (7, "tool_calls is no list"),
    ],
)
def test_calls_are_held_to_their_function(calls, problem):
    found = call_problem(calls)
    assert found == problem if problem is None or not problem.endswith(" ") else found.startswith(problem)


def test_a_problem_quotes_little_of_an_answer():
    assert len(json_problem(json.dumps({"queries": "x" * 10_000}))) == SHOWN


def test_a_call_where_none_was_offered():
    assert problem_with({"tool_calls": [call()]}, "[]", {}) == "a tool call where none was offered"
    assert problem_with({"content": "sort"}, "sort", {"tools": None, "response_format": None}) is None


def test_outcomes_name_the_problem():
    request = {"params": {}, "response_format": json_answer(Queries)}
    (answer,) = read_answers(completion('{"queries": 5}').body, request)
    assert (answer.outcome, answer.problem) == ("invalid", "queries: 5 is not of type 'array'")
    (answer,) = read_answers(
        completion(None, tool_calls=[call()]).body, {"params": {}, "tools": tool_answer(Queries)}
    )
    assert (answer.outcome, json.loads(answer.response)) == (
        "ok",
        [{"name": "Queries", "arguments": json.loads(GOOD)}],
    )


# Reading


def test_every_form_holds_the_same_lines():
    calls = json.dumps([{"name": "Queries", "arguments": json.loads(GOOD)}])
    for response, form in (("- how to sort\n- sort rows", "text"), (GOOD, "json"), (calls, "tool")):
        assert parse_answer(response, form) == ["how to sort", "sort rows"]


def test_an_item_is_one_query_however_it_is_written():
    odd = json.dumps({"queries": ["1. how to\nsort\u2028rows", "- how to sort rows", '"sort"', "", "Sort"]})
    assert parse_answer(odd, "json") == ["how to sort rows", "sort"]
    two = json.dumps([{"name": "Queries", "arguments": {"queries": [query]}} for query in ("a b", "c d")])
    assert parse_answer(two, "tool") == ["a b", "c d"]


def test_a_cut_text_loses_its_last_line():
    assert parse_answer("sort rows\nsort by k", cut=True) == ["sort rows"]
    assert parse_answer("sort rows\nsort by key\n", cut=True) == ["sort rows", "sort by key"]
    assert parse_answer("sort ro", cut=True) == []


@pytest.mark.parametrize("form", ["json", "tool"])
@pytest.mark.parametrize(
    "response", ["sort rows", GOOD[:20], "[]]", "{}", "[{}]", "5", '[{"arguments": 5}]', "[" * 100_000]
)
def test_what_is_not_in_its_form_is_a_value_error(response, form):
    with pytest.raises(ValueError):
        parse_answer(response, form)


# From documents to training rows


def trained(answer: str, url: str = "embedded", documents: int = 10, **knobs) -> list[dict]:
    """The training rows that answers of this form lead to."""
    write_corpus("d", documents)
    write_prompts("d")
    prompt("d", PromptKnobs(template="prompts/d/teacher.md", answer=answer, **knobs))
    collect("d", CollectKnobs(base_url=url, api_key_env="", min_accept=0))
    convert("d", ConvertKnobs())
    return read_json(layout.litgpt_data("d") / "train.json")


@pytest.fixture
def _workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_all_forms_lead_to_the_same_training_rows(_workplace):
    with Teacher().running() as url:
        text, as_json, as_tool = (trained(form, url) for form in FORMS)
    assert text == as_json == as_tool
    assert text[0]["output"] == "how to use word0\nwhat word0 returns\nword0 example"
    row = read_jsonl(layout.requests("d"))[0]
    assert row["form"] == "tool" and row["params"]["tool_choice"]["function"]["name"] == "Queries"
    assert "response_format" not in row
    assert responses("d")[0]["form"] == "tool"


@pytest.mark.parametrize("form", FORMS)
def test_the_embedded_teacher_serves_every_form(_workplace, form):
    write_corpus("d", 10)
    page = "Title: numpy.sort\n\nReturn a sorted copy of array {{ document.id }}."
    write_prompts("d", teacher=f"<document>\n{page}\n</document>")
    prompt("d", PromptKnobs(template="prompts/d/teacher.md", answer=form))
    metrics, _ = collect("d", CollectKnobs())
    assert metrics["outcomes"] == {"ok": 10}
    assert convert("d", ConvertKnobs())["accepted"] == {"train": 8, "val": 1, "test": 1}


@pytest.mark.parametrize("form", FORMS)
def test_samples_and_choices_all_become_rows(_workplace, form):
    with Teacher().running() as url:
        rows = trained(form, url, samples=2, n=3, seed=1)
    assert [row["id"] for row in rows[:7]] == [*(f"p000#{k}" for k in range(6)), "p001#0"]
    assert len(rows) == 8 * 6 and len({row["output"] for row in rows[:6]}) == 3
    assert len(read_json(layout.litgpt_data("d") / "test.json")) == 1


def test_an_answer_out_of_form_is_rejected_with_its_problem(_workplace):
    def fault(body: dict, seen: int):
        return completion("- sort rows") if body["messages"][-1]["content"].endswith("word3") else None

    with Teacher(fault).running() as url:
        trained("json", url)
    (reject,) = read_jsonl(layout.litgpt_data("d") / "rejects.jsonl")
    assert (reject["id"], reject["reason"], reject["response"]) == ("p003", "invalid", "- sort rows")
    assert reject["problem"].startswith("not JSON: ")
