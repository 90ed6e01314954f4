"""The embedded teacher for skills: what it writes, what it reads, and that the two agree."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from demo.teacher import queries as rules
from demo.teacher.server import complete
from demo.teacher.skills_label import label
from demo.teacher.skills_numbers import digits, duration, expression, spell
from demo.teacher.skills_write import PARAMETERS, call_of, example
from stages.core.prompts import Template, messages, render
from stages.kinds.skills.parts.briefs import about, briefs
from stages.kinds.skills.parts.calls import parse_call
from stages.kinds.skills.parts.match import normalised_match
from stages.kinds.skills.parts.schema import Skill, together
from stages.kinds.skills.parts.task import Examples
from stages.teacher.structured import problem_with, tool_answer
from tests.helpers.workspace import ROOT

PROMPTS = ROOT / "prompts/otto"
SYNTHETIC = ROOT.parent / "shared/data/otto/synthetic_data.json"
TOPICS = ["gardening", "night trains", "old cars"]


@pytest.fixture(scope="module")
def skills():
    from ruamel.yaml import YAML

    read = YAML(typ="safe").load
    return together(Skill.model_validate(read(path)) for path in sorted(PROMPTS.glob("skills/*.yaml")))


def called(text: str) -> str:
    return call_of(*label(text))


def agree(left: str, right: str, skills) -> bool:
    return normalised_match(parse_call(left), parse_call(right), skills)


def asked(name: str, document: dict) -> list[dict]:
    return messages(render(Template(PROMPTS / f"{name}.md"), document))


@pytest.mark.parametrize(
    "text, call",
    [
        ("how warm is it in sao paulo", 'weather(location="sao paulo")'),
        ("Is it going to be icy tomorrow morning?", "weather()"),
        ("um, what's the weather like at my location", "weather()"),
        ("Weather for Bath on Sunday, please.", 'weather(location="Bath")'),
        ("The weather was awful in Bath.", "other()"),
        ("Salem time", 'timecheck(location="Salem")'),
        ("We had a good time in Salem", "other()"),
        ("is it late in Quito?", 'timecheck(location="Quito")'),
        ("wake me in three quarters of an hour", 'timer(duration="45 minutes")'),
        ("I'd like a two-and-a-half-hour timer", 'timer(duration="2 hours 30 minutes")'),
        ("It took about ten minutes.", "other()"),
        ("remind me to buy a timer", 'notes(action="add", note="buy a timer")'),
        ("remind me in 20 minutes", 'timer(duration="20 minutes")'),
        ("any updates on the ski industry?", 'news(topic="ski")'),
        ("The news was bad.", "other()"),
        ("ferry strike news", 'news(topic="ferry strike")'),
        ("what's seventy two over eight", 'math(question="72/8")'),
        ("what do you get if you take 8 from 30?", 'math(question="30-8")'),
        ("5 percent of 40", 'math(question="0.05*40")'),
        ("make a note saying 'Shoes, size 9'", 'notes(action="add", note="Shoes, size 9")'),
        ("Do I have any reminders?", 'notes(action="list")'),
        ("add a note for calling Dr. Wu", 'notes(action="add", note="call Dr. Wu")'),
        ("My note was too high.", "other()"),
        ("a tale of two foxes, please", 'story(description="two foxes")'),
        ("I'm bored. Tell us a story!", "story()"),
        ("She told me a story about foxes.", "other()"),
        ("get the chess app running", 'runapp(program="chess")'),
        ('run the program called "Lotus 1-2-3"', 'runapp(program="Lotus 1-2-3")'),
        ("open the window please", "other()"),
        ("ask gpt about the weather on Mars", 'openai(prompt="the weather on Mars")'),
        ("ask chatgpt if a goat can climb trees", 'openai(prompt="Can a goat climb trees?")'),
        ("ask openai what the capital of Peru is", 'openai(prompt="what is the capital of Peru?")'),
        ("who invented the zip?", 'openai(prompt="who invented the zip?")'),
        ("who took my pen?", "other()"),
        ("and then the", "other()"),
        ("(laughs)", "other()"),
        ("turn the lights off", "other()"),
        ("", "other()"),
    ],
)
def test_reads_requests(text, call, skills):
    assert agree(called(text), call, skills), called(text)


def test_reads_our_own_skill_files(skills):
    rows = [one for skill in skills.skills for one in (*skill.prompt_examples, *skill.examples)]
    assert len(rows) >= 150
    assert [row.user for row in rows if not agree(called(row.user), row.call, skills)] == []


def test_reads_the_evaluation_file_that_nothing_was_made_from(skills):
    if not SYNTHETIC.is_file():
        pytest.skip("the reference's data are not here")
    lines = [line.strip().rstrip(",") for line in SYNTHETIC.read_text().splitlines()]
    rows = [json.loads(line) for line in lines if re.match(r'\{"input".*\}$', line)]
    known = []
    for row in rows:
        try:
            known.append((row["input"], skills.checked(row["output"])))
        except ValueError:
            continue
    right = sum(normalised_match(call, parse_call(called(user)), skills) for user, call in known)
    assert len(known) > 250 and right / len(known) > 0.95


@pytest.mark.parametrize("variety", ["positive", "multi", "near_miss", "other"])
def test_it_reads_what_it_writes(variety, skills):
    chance, wrong, count = random.Random(variety), [], 150
    for skill in PARAMETERS:
        for _ in range(count):
            user, name, value = example(skill, variety, TOPICS, chance)
            skills.checked(call_of(name, value))
            if not agree(call_of(name, value), called(user), skills):
                wrong.append((user, call_of(name, value), called(user)))
    assert len(wrong) <= 0.01 * count * len(PARAMETERS), wrong


def test_what_it_writes_is_varied():
    chance = random.Random(1)
    for skill in PARAMETERS:
        masked = Counter()
        for _ in range(400):
            user, name, value = example(skill, "positive", TOPICS, chance)
            assert user.strip() and not set("<>{}[]|&#~\x00\x01\x02") & set(
                re.sub(r"\[[A-Z_]+\]", "", user)
            ), user
            masked[user.replace(value, "…") if value else user] += 1
        assert len(masked) > 0.75 * 400, (skill, len(masked))


@pytest.mark.parametrize("number", [0, 7, 19, 20, 42, 100, 119, 560, 1000, 2506, 9999, 40000, "3.25"])
def test_numbers_there_and_back(number):
    assert digits(f"about {spell(number)} of them") == f"about {number} of them"


@pytest.mark.parametrize(
    "said, python",
    [
        ("nine times nine", "9*9"),
        ("two plus three minus five", "2+3-5"),
        ("the square root of sixteen", "sqrt(16)"),
        ("two to the fifth power", "2**5"),
        ("(3 + 4) x 2", "(3+4)*2"),
        ("the remainder when 12 is divided by 5", "12%5"),
        ("the average of two, four, and six", "(2+4+6)/3"),
        ("a random number between 1 and 10", "randint(1,10)"),
        ("negative four plus six", "-4+6"),
        ("milk and eggs", None),
        ("seven", None),
    ],
)
def test_arithmetic(said, python):
    found = expression(said)
    assert (found and found.replace(" ", "")) == python


@pytest.mark.parametrize(
    "said, written",
    [
        ("an hour and ten minutes", "1 hour 10 minutes"),
        ("three and a half hours", "3 hours 30 minutes"),
        ("half a minute", "30 seconds"),
        ("90 sec", "90 seconds"),
        ("one second", "1 second"),
        ("2h 5m", "2 hours 5 minutes"),
        ("two apples", None),
        ("ten minutes of fame", None),
    ],
)
def test_durations(said, written):
    assert duration(said) == written


def test_a_brief_is_answered_through_the_tool(skills):
    counts = {"positive": 1, "multi": 1, "near_miss": 1, "other": 1}
    for brief in briefs(skills, TOPICS, counts, 8, 4):
        body = {"model": "embedded", "messages": asked("write", brief), "tools": tool_answer(Examples)}
        made = complete(body, rules.answer)
        assert made == complete(body, rules.answer)
        function = made["choices"][0]["message"]["tool_calls"][0]["function"]
        message = {"tool_calls": [{"function": function}]}
        assert problem_with(message, "", body) is None
        found = Examples.model_validate_json(function["arguments"]).examples
        assert len({one.user.casefold() for one in found}) == 8
        calls = [skills.checked(one.assistant).name for one in found]
        if brief["metadata"]["variety"] == "near_miss":
            assert brief["title"] not in calls
        else:
            assert set(calls) == {brief["title"]}


def test_other_briefs_get_other_examples(skills):
    counts = {"positive": 3, "multi": 0, "near_miss": 0, "other": 0}
    made = {rules.answer(asked("write", brief)) for brief in briefs(skills, TOPICS, counts, 5, 2)}
    lines = [line for text in made for line in text.splitlines()]
    assert len(set(lines)) == len(lines) == 9 * 3 * 5


def test_the_label_is_one_line_and_knows_the_known_call_not(skills):
    document = {
        "id": "a",
        "title": "",
        "text": "time in Oslo?",
        "metadata": {"call": "other()", **about(skills)},
    }
    prompt = asked("teacher", document)
    assert rules.answer(prompt) == 'timecheck(location="Oslo")'
    assert "User: open Thunderbird\nCall: runapp(" in prompt[0]["content"]
    assert rules.answer(asked("teacher", {**document, "text": "open the window please"})) == "other()"
    assert "\n" not in render(Template(PROMPTS / "student.md"), {**document, "text": "a\nb"}).removesuffix(
        "\n=>"
    )


def test_phrases_and_values_are_not_rows_of_the_evaluation_file():
    if not SYNTHETIC.is_file():
        pytest.skip("the reference's data are not here")
    inputs = set(re.findall(r'"input": "(.+?)", "output"', SYNTHETIC.read_text()))
    for path in Path(ROOT / "demo/teacher").glob("skills*"):
        text = path.read_text("utf-8")
        assert not [row for row in inputs if row in text], path
    for path in (PROMPTS / "skills").glob("*.yaml"):
        assert not [row for row in inputs if f"user: '{row}'" in path.read_text("utf-8")], path
