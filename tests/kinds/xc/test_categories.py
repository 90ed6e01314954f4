"""Two levels of categories: read however they are written, written in one way, and judged."""

import json
import random
import time
from pathlib import Path

import pytest

from stages.kinds import registry
from stages.kinds.xc.parts.categories import (
    fit,
    flat,
    lines,
    output,
    parse,
    parse_answer,
    reject,
    tree,
    well_formed,
)
from stages.kinds.xc.parts.tasks import TASKS

PAPER = Path(__file__).parents[4] / "shared/data/skim/LF-WikiHierarchy-2M/gpt4_prompt.md"
ARTICLE = {"id": "a", "title": "Malabar Coast", "text": "A coast.", "metadata": {}}
COASTS = {
    "Regions of India": ["Regions of Asia by country", "Geography of India"],
    "Malabar Coast": ["Coasts of India"],
    "Coasts of India": ["Coasts by country"],
}


def test_the_task():
    task = TASKS["categories"]
    assert task is registry.task("categories") and (task.lines, task.reject) == (lines, reject)


# Reading


def test_two_sections_are_one_tree():
    text = """#### Immediate categories
Regions of India
Malabar Coast
Coasts of India

#### Categories of the immediate categories
Regions of India
\tRegions of Asia by country
\tGeography of India
Malabar Coast
\tCoasts of India
Coasts of India
\tCoasts by country"""
    assert tree(text) == COASTS
    assert parse(text) == [*COASTS, "Regions of Asia by country", "Geography of India", "Coasts by country"]
    assert {name: number for number, name in lines(text)} == {
        "Regions of India": 1,
        "Malabar Coast": 2,
        "Coasts of India": 3,
        "Regions of Asia by country": 7,
        "Geography of India": 8,
        "Coasts by country": 12,
    }


WRITTEN = {
    "spaces": "{a}\n  {b}\n  {c}\n{d}\n  {e}",
    "one space": "{a}\n {b}\n {c}\n{d}\n {e}",
    "uneven": "{a}\n\t\t{b}\n    {c}\n{d}\n   {e}",
    "all of it indented": "    {a}\n        {b}\n        {c}\n    {d}\n        {e}",
    "windows": "{a}\r\n\t{b}\r\n\t{c}\r\n{d}\r\n\t{e}\r\n",
    "blank lines": "\n\n{a}\n\n\t{b}\n\n\t{c}\n\n\n{d}\n\t{e}\n\n",
    "bullets": "- {a}\n  - {b}\n  - {c}\n- {d}\n  - {e}",
    "stars": "* {a}\n    * {b}\n    * {c}\n* {d}\n    * {e}",
    "numbers": "1. {a}\n   1. {b}\n   2. {c}\n2. {d}\n   1. {e}",
    "numbers in numbers": "1. {a}\n1.1 {b}\n1.2. {c}\n2. {d}\n2.1 {e}",
    "letters": "1) {a}\na) {b}\nb) {c}\n2) {d}\na) {e}",
    "roman": "(1) {a}\n  (i) {b}\n  (ii) {c}\n(2) {d}\n  (i) {e}",
    "bullets below numbers": "1. {a}\n- {b}\n- {c}\n2. {d}\n- {e}",
    "bullets below plain lines": "{a}\n- {b}\n- {c}\n{d}\n- {e}",
    "bold above": "**{a}**\n{b}\n{c}\n\n**{d}**\n{e}",
    "bold bullets above": "- **{a}**\n- {b}\n- {c}\n- **{d}**:\n- {e}",
    "colons": "{a}:\n{b}\n{c}\n{d}:\n{e}",
    "arrows": "{a}\n→ {b}\n→ {c}\n{d}\n→ {e}",
    "links": "[[Category:{a}]]\n\t[[Category:{b}]]\n\tCategory: {c}\n[[:Category:{d}]]\n\t[[Category:{e}]]",
    "quotes and stops": '"{a}"\n\t`{b}`;\n\t_{c}_,\n“{d}”.\n\t*{e}*',
    "a fence": "```text\n{a}\n\t{b}\n\t{c}\n{d}\n\t{e}\n```",
    "talk": "Sure! Here they are.\n{a}\n\t{b}\n\t{c}\n{d}\n\t{e}\n\nPlease note that these are mine.",
    "an introduction with a colon": "Here are the categories of this article:\n"
    "\n- {a}\n  - {b}\n  - {c}\n- {d}\n  - {e}",
    "a rule between": "{a}\n{d}\n---------\n{a}\n\t{b}\n\t{c}\n{d}\n\t{e}",
    "a third level": "{a}\n\t{b}\n\t\tLandforms of Earth\n\t{c}\n{d}\n\t{e}\n\t\tEarth",
    "repeats": "{a}\n\t{b}\n\t{b}\n\t{c}\n\t{a}\n{d}\n\t{e}\n{a}\n\t{c}",
    "sections in other words": "**Direct categories**\n1. {a}\n2. {d}\n\n**Parent categories of each**\n"
    "1. {a}\n   - {b}\n   - {c}\n2. {d}\n   - {e}",
    "levels": "Level 1:\n- {a}\n- {d}\nLevel 2:\n- {a}\n  - {b}\n  - {c}\n- {d}\n  - {e}",
    "some bold": "## Immediate\n1. **{a}**\n2. {d}\n## Categories of these\n"
    "1. **{a}**\n   - {b}\n   - {c}\n2. **{d}**\n   - {e}",
    "indentation lost": "#### Immediate categories\n{a}\n{d}\n"
    "#### Categories for immediate categories\n{a}\n{b}\n{c}\n{d}\n{e}",
    "bullets and lost": "#### Immediate\n- {a}\n- {d}\n#### Category level 2\n"
    "- {a}\n- {b}\n- {c}\n- {d}\n- {e}",
    "a heading for each": "## Immediate categories\n{a}\n{d}\n\n"
    "### Categories of {a}\n- {b}\n- {c}\n### {d}\n- {e}",
    "a bold heading for each": "Immediate:\n{a}\n{d}\n\nCategories of **{a}**:\n"
    "{b}\n{c}\nCategories of **{d}**:\n{e}",
    "another case": "#### Immediate categories\n{a}\n{d}\n#### Output\n{A}\n\t{b}\n\t{c}\n{D}\n\t{e}",
}


@pytest.mark.parametrize("written", WRITTEN)
def test_every_way_of_writing_is_one_tree(written):
    names = {
        "a": "Villages in Kerala",
        "b": "Populated places",
        "c": "Kerala, India",
        "d": "1930s",
        "e": "Years",
    }
    capitals = {"A": "VILLAGES IN KERALA", "D": "1930S"}
    text = WRITTEN[written].format(**names, **capitals)
    expected = {"Villages in Kerala": ["Populated places", "Kerala, India"], "1930s": ["Years"]}
    assert tree(text) == expected
    assert parse(text) == flat(expected) == [name for _, name in lines(text)]
    rows = text.split("\n")
    assert all(name.casefold() in rows[number].casefold() for number, name in lines(text))


def test_only_immediate_ones():
    assert tree("- Lakes of Norway\n- Norway\n") == {"Lakes of Norway": [], "Norway": []}
    assert tree("## Immediate categories\nLakes of Norway\n## Wikipedia categories for these\n") == {
        "Lakes of Norway": []
    }


def test_a_second_section_about_others_is_kept_as_it_is():
    text = "## Immediate categories\nLakes\n## Categories of the immediate categories\nWater\n\tNature"
    assert tree(text) == {"Lakes": [], "Water": ["Nature"]}
    assert tree("## Level 1\nLakes\nRivers\n## Level 2\nWater\nNature") == dict.fromkeys(
        ("Lakes", "Rivers", "Water", "Nature"), []
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n \n\t\n",
        "```\n```",
        "#### Immediate categories\n",
        "- - -\n***\n",
        "Sure!\nHere you are:\n...",
        "Output:",
    ],
)
def test_nothing_is_nothing(text):
    assert tree(text) == {} and lines(text) == parse(text) == []


def test_the_examples_in_the_papers_prompt():
    if not PAPER.is_file():
        pytest.skip("the SKIM prompts are not here")
    answers = PAPER.read_text("utf-8").split("### Task Output\n")[1:-1]
    trees = [tree(answer.split("-----")[0]) for answer in answers]
    assert [len(found) for found in trees] == [3, 3, 1, 6]
    assert trees[0]["Populated places in Puttalam District"][-1] == "Puttalam District"
    assert trees[3]["Malabar Coast"] == ["Coasts of India"] and len(trees[3]["Coasts of India"]) == 5
    for found in trees:
        assert tree(output(found)) == found and fit(found, ARTICLE) == found


def test_no_text_can_break_it():
    """Whatever stands there: levels of a tree, each name once, numbers of true lines."""
    draw = random.Random(5)
    pieces = [
        "\t",
        "  ",
        "- ",
        "1. ",
        "a) ",
        "**",
        "#",
        ":",
        "Lakes",
        "Norway of",
        "categories",
        "```",
        "\n",
        "\n",
        "“",
    ]
    for _ in range(3000):
        text = "".join(draw.choices(pieces, k=draw.randint(1, 25)))
        found = tree(text)
        assert flat(found) == parse(text)
        numbers = [number for number, _ in lines(text)]
        assert all(0 <= number < len(text.split("\n")) for number in numbers)
        assert all(name.strip() == name and name not in own for name, own in found.items())


# Writing


def made_tree(draw: random.Random) -> dict[str, list[str]]:
    words = (
        "Lakes Norway of in by 1930s Kerala's History-makers F.C. the Duran (band) Æsir 東京 & 2nd".split()
    )

    def name() -> str:
        return " ".join(["Things", *draw.choices(words, k=draw.randint(1, 6)), str(draw.randint(0, 99))])

    found = {}
    for _ in range(draw.randint(1, 6)):
        key = name()
        found[key] = [
            other for other in dict.fromkeys(name() for _ in range(draw.randint(0, 5))) if other != key
        ]
    return found


def test_what_is_written_for_the_student_reads_back():
    draw = random.Random(7)
    for _ in range(500):
        found = made_tree(draw)
        text = output(found)
        assert tree(text) == found == parse_answer(text) and list(tree(text)) == list(found)
        assert "\n\n" not in text and text == text.strip()
    assert output(COASTS).split("\n")[:4] == [
        "Regions of India",
        "\tRegions of Asia by country",
        "\tGeography of India",
        "Malabar Coast",
    ]


# Structured answers, and answers that were cut


def structured(found: dict[str, list[str]]) -> dict:
    return {"categories": [{"name": name, "categories": own} for name, own in found.items()]}


def test_every_form_holds_the_same_tree():
    whole = json.dumps(structured(COASTS))
    calls = json.dumps([{"name": "Categories", "arguments": structured({k: v})} for k, v in COASTS.items()])
    assert (
        parse_answer(whole, "json") == parse_answer(calls, "tool") == parse_answer(output(COASTS)) == COASTS
    )


def test_structured_names_are_cleaned():
    odd = {
        "1. Lakes\nof Norway": ["- Lakes", "", "Lakes", "Lakes of Norway", "Parent categories:"],
        "": ["Lost"],
        "Here are more:": ["Lost"],
    }
    assert parse_answer(json.dumps(structured(odd)), "json") == {"Lakes of Norway": ["Lakes"]}


@pytest.mark.parametrize("form", ["json", "tool"])
@pytest.mark.parametrize(
    "response", ["Lakes", "[]]", "{}", "[{}]", "5", '{"categories": ["Lakes"]}', "[" * 100_000]
)
def test_what_is_not_in_its_form_is_a_value_error(response, form):
    with pytest.raises(ValueError):
        parse_answer(response, form)


def test_a_cut_text_loses_its_last_line():
    assert parse_answer("Lakes\n\tWater\nRiv", cut=True) == {"Lakes": ["Water"]}
    assert parse_answer("Lak", cut=True) == {}


# Judging


@pytest.mark.parametrize(
    "line",
    [
        "Villages",
        "1945",
        "1930 births",
        "Populated places in North Western Province, Sri Lanka",
        "Duran Duran albums",
        "Was (Not Was) songs",
        "Fictional characters who are magicians",
        "C++ libraries",
        "Category theory",
        "Law of the United States",
        "Boeing Co.",
        "History of the Jews in the Republic of Ireland",
        "東京の歴史",
        "中华人民共和国中央人民政府机构人员",  # one letter three times
        "ערים בישראל\u200f",
        "دسته‌های ایران",
    ],
)
def test_well_formed(line):
    assert well_formed(line) and reject(line, ARTICLE) is None


@pytest.mark.parametrize(
    "line",
    [
        "",
        "—",
        " ".join(f"word{n}" for n in range(17)),
        "x" * 121,
        "Lakes\x07 of Norway",
        "**Lakes of Norway**",
        "- Lakes of Norway",
        "#### Lakes",
        "Lakes of Norway:",
        "see https://en.wikipedia.org",
        "Immediate Wikipedia categories",
        "Parent categories of the immediate categories",
        "The Malabar Coast is a region of India",
        "It was built in 1910",
        "Here are the categories",
        "I will list them",
        "lakes lakes lakes of Norway",
        "None",
        "N/A",
        "others",
    ],
)
def test_not_well_formed(line):
    assert not well_formed(line) and reject(line, ARTICLE) == "not well-formed"


def test_only_shown_categories_are_copies_and_the_title_is_none():
    known = {**ARTICLE, "metadata": {"queries": ["Regions of India", "coasts, by country"]}}
    assert reject("Malabar Coast", known) is None
    assert (
        reject("regions of  INDIA", known)
        == reject("Coasts by country", known)
        == "a copy of a known category"
    )
    assert reject("Regions of India", ARTICLE) is None


def test_all_below_a_rejected_category_goes():
    known = {**ARTICLE, "metadata": {"queries": ["Regions of India", "Coasts by country"]}}
    assert fit(COASTS, known) == {"Malabar Coast": ["Coasts of India"], "Coasts of India": []}
    assert fit(COASTS, ARTICLE) == COASTS
    assert fit({"It is a coast": ["Coasts"], "Coasts": []}, ARTICLE) == {"Coasts": []}


@pytest.mark.parametrize(
    "line",
    ['"' * 9999, "[" * 9999 + "x" + "]" * 9999, "," * 20_000 + "x", '"' * 9999 + "a b" + '"' * 9999],
)
def test_a_line_that_is_no_name_costs_no_time(line):
    started = time.monotonic()
    structured = json.dumps({"categories": [{"name": line, "categories": [line]}]})
    names = [*parse(f"{line}\n\t{line}"), *flat(parse_answer(structured, "json"))]
    assert time.monotonic() - started < 1 and not any(map(well_formed, names))
