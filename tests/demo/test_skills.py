"""The embedded teacher for skills: what it writes, what it reads, and that the two agree."""

import json
import random
import re
from collections import Counter

import pytest

from demo.teacher import queries as rules
from demo.teacher.amounts import spell
from demo.teacher.phrases import Book, direct
from demo.teacher.requests import PARAMETERS, read, reader, write
from demo.teacher.server import complete
from demo.teacher.skills import call_of
from stages.core.numerals import numerals
from stages.core.prompts import Template, messages, render
from stages.kinds.skills.parts.briefs import about, briefs
from stages.kinds.skills.parts.calls import parse_call
from stages.kinds.skills.parts.corpus import template
from stages.kinds.skills.parts.match import normalised_match
from stages.kinds.skills.parts.schema import Skill, together
from stages.kinds.skills.parts.task import Examples
from stages.teacher.structured import problem_with, tool_answer
from tests.helpers.workspace import ROOT

PROMPTS = ROOT / "prompts/otto"
SHARED = ROOT.parent / "shared/data"
SYNTHETIC = SHARED / "otto/synthetic_data.json"
PEOPLE = SHARED / "eval/otto_requests.jsonl"
OTHERS_FILES = SHARED / "otto/examples"
TOPICS = ["gardening", "night trains", "old cars"]


@pytest.fixture(scope="module")
def skills():
    from ruamel.yaml import YAML

    read = YAML(typ="safe").load
    return together(Skill.model_validate(read(path)) for path in sorted(PROMPTS.glob("skills/*.yaml")))


def called(text: str) -> str:
    return call_of(*read(text))


def agree(left: str, right: str, skills) -> bool:
    return normalised_match(parse_call(left), parse_call(right), skills)


def asked(name: str, document: dict) -> list[dict]:
    return messages(Template(PROMPTS / f"{name}.md"), document)


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
        ("um what is what is twelve percent of, uh, 3,500", 'math(question="0.12*3500")'),
        ("the square root of the sum of nine and sixteen", 'math(question="sqrt(9+16)")'),
        ("how often does seven fit into ninety one", 'math(question="91/7")'),
        ("thirteen hundred minus two hundred and five", 'math(question="1300-205")'),
        ("The rice is on, so set a timer for 12 minutes.", 'timer(duration="12 minutes")'),
        ("give me an hour and twenty on the piste", "other()"),
        ("start notepad no wait start gimp", 'runapp(program="gimp")'),
        ("I'm off to the beach, so is it windy in Split?", 'weather(location="Split")'),
        ("what time does the shop open", "other()"),
        ("the stopwatch said ten minutes", "other()"),
        ("She thinks the weather in Rome is nicer.", "other()"),
        ("put an hour and twenty on the clock", 'timer(duration="1 hour 20 minutes")'),
        ("inquire whether whales dream", 'openai(prompt="Do whales dream?")'),
        ("ask the ai why a moth flies", 'openai(prompt="Why does a moth fly?")'),
        ("I wonder how far the moon is from Peru", 'openai(prompt="How far is the moon from Peru?")'),
        ("launch 'What Now'", 'runapp(program="What Now")'),
        ("stop the timer", "other()"),
        ("my sister opened Photoshop yesterday", "other()"),
        ("he asked chatgpt about whales", "other()"),
        ("what time did you leave", "other()"),
    ],
)
def test_reads_requests(text, call, skills):
    assert agree(called(text), call, skills), called(text)


def test_reads_our_own_skill_files(skills):
    rows = [one for skill in skills.skills for one in (*skill.prompt_examples, *skill.examples)]
    assert len(rows) >= 150
    assert [row.user for row in rows if not agree(called(row.user), row.call, skills)] == []


def rows_of_synthetic() -> list[tuple[str, str]]:
    lines = [line.strip().rstrip(",") for line in SYNTHETIC.read_text().splitlines()]
    rows = [json.loads(line) for line in lines if re.match(r'\{"input".*\}$', line)]
    return [(row["input"], row["output"]) for row in rows]


def rows_of_people() -> list[tuple[str, str]]:
    return [(row["user"], row["answer"]) for row in map(json.loads, PEOPLE.read_text().splitlines())]


def rows_of_examples() -> list[tuple[str, str]]:
    texts = [path.read_text("utf-8") for path in sorted(OTHERS_FILES.glob("*.txt"))]
    return [pair for text in texts for pair in re.findall(r"### User: (.+)\n### Assistant: (.+)", text)]


# Mean over the skills of the share that it reads right; it was .97, .85 and 1.00 when this was written.
@pytest.mark.parametrize(
    "file, rows, least, share",
    [
        (SYNTHETIC, rows_of_synthetic, 250, 0.95),
        (OTHERS_FILES, rows_of_examples, 600, 0.83),
        (PEOPLE, rows_of_people, 150, 0.95),
    ],
)
def test_reads_requests_that_nothing_was_made_from(file, rows, least, share, skills):
    if not file.exists():
        pytest.skip("the reference's data are not here")
    right: dict[str, list[bool]] = {}
    for user, text in rows():
        try:
            call = skills.checked(text)
        except ValueError:
            continue
        right.setdefault(call.name, []).append(normalised_match(call, parse_call(called(user)), skills))
    assert sum(map(len, right.values())) > least
    assert sum(sum(each) / len(each) for each in right.values()) / len(right) > share


def test_it_reads_what_it_writes(skills):
    chance, wrong, count = random.Random(4), Counter(), 200
    for skill in PARAMETERS:
        for _ in range(count):
            user, value = write(skill, TOPICS, chance)
            skills.checked(call_of(skill, value))
            wrong[skill] += not agree(call_of(skill, value), called(user), skills)
    assert wrong.total() <= 0.03 * count * len(PARAMETERS), wrong
    assert max(wrong.values()) <= 0.1 * count, wrong


def test_the_same_chance_writes_the_same():
    def drawn(seed: int) -> list:
        chance = random.Random(seed)
        return [write(skill, TOPICS, chance) for skill in PARAMETERS]

    assert drawn(1) == drawn(1) != drawn(2)


def test_every_skill_is_written_with_and_without_a_value_and_verbatim_ones_stand_there(skills):
    chance, written = random.Random(5), Counter()
    for skill in skills.skills:
        for _ in range(600):
            user, value = write(skill.name, TOPICS, chance)
            skills.checked(call_of(skill.name, value), user)  # refuses a verbatim value that is not there
            assert user.strip() and not set("<>{}[]|&#~") & set(user), user
            written[skill.name, value is None] += 1
    for name in ("weather", "timecheck", "news", "story", "notes"):
        assert min(written[name, True], written[name, False]) > 60, (name, written)


def test_what_it_writes_is_varied(skills):
    chance = random.Random(1)
    for skill in PARAMETERS:
        wordings = set()
        for _ in range(400):
            user, value = write(skill, TOPICS, chance)
            wordings.add(template(user, parse_call(call_of(skill, value)), skills))
        assert len(wordings) > 0.6 * 400, (skill, len(wordings))


def test_two_hundred_briefs_give_three_thousand_requests(skills):
    counts = {"positive": 17, "multi": 4, "near_miss": 2, "other": 28}
    topics = (PROMPTS / "topics.txt").read_text("utf-8").split("\n")
    every = list(briefs(skills, topics, counts, 20, 4))
    lines = [line for brief in every[:200] for line in rules.answer(asked("write", brief)).splitlines()]
    assert len(every) >= 200 and len({line.partition("\t")[0].casefold() for line in lines}) >= 3_000


def test_it_speaks_as_people_do():
    chance, rows = random.Random(2), []
    for skill in PARAMETERS:
        rows += [write(skill, TOPICS, chance)[0] for _ in range(400)]
    heard = [row for row in rows if not re.search(r"[A-Z,.?!]", row)]
    assert 0.3 < len(heard) / len(rows) < 0.8
    assert any(re.match(r"(?:um|uh|er) ", row) for row in heard)
    assert any(re.match(r"(\w+(?: \w+)?) \1 ", row) for row in heard)  # a false start
    spoken = [row for row in rows if re.match(r"(?:um|uh|er) ", row)]
    sums = [row for row in spoken if re.search(r"\b(?:plus|minus|divided|percent|sum|root) ", row)]
    assert sums and not [row for row in sums if re.search(r"\d", row)]  # a microphone hears no digits


def test_phrases():
    book = Book({"hue": ["red", "dark blue"]})
    phrase = "(paint|make) <it> [all] {hue}"
    texts = {book.write(phrase, random.Random(seed)) for seed in range(60)}
    verbs, rests, hues = ("paint", "make"), ("", "all "), ("red", "dark blue")
    assert texts == {f"{verb} <it> {rest}{hue}" for verb in verbs for rest in rests for hue in hues}
    match = re.fullmatch(book.regex(phrase), "paint the lamp, all dark blue! ")
    assert match["it"] == "the lamp, "
    assert not re.fullmatch(book.regex(phrase), "paint the bulb green ")
    assert re.fullmatch(book.regex("what's a lamp"), "what is the lamp ")
    assert re.fullmatch(book.regex("any .. lamp"), "any old green lamp ")


@pytest.mark.parametrize(
    "said, question",
    [
        ("whether a stone can float", "Can a stone float?"),
        ("if ants sleep", "Do ants sleep?"),
        ("how far Leeds is from Bath", "How far is Leeds from Bath?"),
        ("why the tide goes out", "Why does the tide go out?"),
        ("what the oldest bridge in Rome is", "What is the oldest bridge in Rome?"),
        ("when the fork was invented", "When was the fork invented?"),
        ("who invented the fork", "who invented the fork"),
        ("how to fold a shirt", "how to fold a shirt"),
        ("a poem", "a poem"),
    ],
)
def test_indirect_questions(said, question):
    assert direct(said) == question


@pytest.mark.parametrize("number", [0, 7, 19, 20, 42, 100, 119, 560, 1000, 2506, 9999, 40000, "3.25"])
def test_numbers_there_and_back(number):
    said = spell(str(number))
    assert numerals(f"about {said} of them") == f"about {number} of them", said


@pytest.mark.parametrize(
    "said, python",
    [
        ("nine times nine", "9*9"),
        ("two plus three minus five", "2+3-5"),
        ("the square root of sixteen", "sqrt(16)"),
        ("two to the fifth power", "2**5"),
        ("the remainder when 12 is divided by 5", "12%5"),
        ("the average of two, four, and six", "(2+4+6)/3"),
        ("a random number between 1 and 10", "randint(1,10)"),
        ("negative four plus six", "-4+6"),
        ("twenty percent of four thousand", "0.2*4000"),
        ("2.5% of 80", "0.025*80"),
        ("4,750 times 2", "4750*2"),
        ("half of the sum of six and ten", "(6+10)/2"),
        ("milk and eggs", None),
        ("seven", None),
    ],
)
def test_arithmetic(said, python):
    found = reader().amounts.expression(said)
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
        ("an hour twenty", "1 hour 20 minutes"),
        ("two-and-a-half-hour", "2 hours 30 minutes"),
        ("two apples", None),
        ("ten minutes of fame", None),
    ],
)
def test_durations(said, written):
    assert reader().amounts.duration(said) == written


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
        near = brief["metadata"]["variety"] == "near_miss"
        assert set(calls) == {"other" if near else brief["title"]}


def test_other_briefs_get_other_examples(skills):
    counts = {"positive": 3, "multi": 0, "near_miss": 0, "other": 0}
    made = {rules.answer(asked("write", brief)) for brief in briefs(skills, TOPICS, counts, 5, 2)}
    lines = [line for text in made for line in text.splitlines()]
    assert len(lines) == 9 * 3 * 5 and len(set(lines)) >= 0.97 * len(lines)  # "24 mod 12" may come twice


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


@pytest.mark.parametrize("file, rows", [(SYNTHETIC, rows_of_synthetic), (PEOPLE, rows_of_people)])
def test_it_has_not_seen_what_it_is_measured_on(file, rows, skills):
    if not file.exists():
        pytest.skip("the reference's data are not here")
    held_out = {bare(user) for user, call in rows() if len(user.split()) > 3 and call != "other()"}
    text = (ROOT / "demo/teacher/skills.yaml").read_text("utf-8").casefold()
    assert len(held_out) > 50 and not [user for user in held_out if user in text]
    shown = [one.user for skill in skills.skills for one in (*skill.prompt_examples, *skill.examples)]
    assert not held_out & set(map(bare, shown))


def bare(user: str) -> str:
    return user.casefold().strip(" .?!")
