"""When an answered call is the right one: rules, and the traps in them."""

import pytest

from stages.kinds.skills.parts.calls import parse_call
from stages.kinds.skills.parts.match import ast_compat, normal_value, normalised_match, same
from stages.kinds.skills.parts.schema import Parameter, Skill, together

SKILLS = together(
    [
        Skill(
            name="notes",
            description="",
            parameters={
                "action": Parameter(type="enum", values=("add", "list")),
                "note": Parameter(optional=True),
            },
        ),
        Skill(
            name="volume",
            description="",
            parameters={"level": Parameter(type="number"), "loud": Parameter(type="boolean", default=False)},
        ),
        Skill(name="weather", description="", parameters={"location": Parameter(optional=True)}),
    ]
)

SAME_VALUES = [
    ("9 * 9", "9*9"),
    ("5 minutes", "five minutes"),
    ("1 hour 10 minutes", "One hour  ten minutes"),
    ("BERLIN", "berlin"),
    ("Ｂｅｒｌｉｎ", "Berlin"),
    ("buy milk", "'buy milk.'"),
    ("what is it?", "What is it"),
    ("what's up", "What’s up?!"),
    ("25", "twenty-five"),
    ("2005", "two thousand and five"),
    ("3.5", "three point five"),
    ("1984", "nineteen eighty four"),
    ("1st", "first"),
    ("20 second", "twenty second"),
    ("1 second", "one second"),
    ("New York", "NewYork"),
]
OTHER_VALUES = [
    ("Berlin", "Bern"),
    ("a brave knight", "brave knight"),  # articles stay
    ("5 minutes", "5 hours"),
    ("second", "2nd"),  # a unit of time more often than an ordinal
    ("to the moon", "2 the moon"),
    ("too", "2"),
    ("a", "1"),
    ("for", "4"),
    ("point", "."),
    ("5!", "5"),  # a factorial
    ("9*9", "99"),
    ("5 million", "51000000"),
    ("half an hour", "30 minutes"),
    ("someone", "some1"),
    ("it's", "its"),
    ("...", ""),
]


@pytest.mark.parametrize(("one", "other"), SAME_VALUES)
def test_values_that_are_the_same(one, other):
    assert normal_value(one) == normal_value(other)


@pytest.mark.parametrize(("one", "other"), OTHER_VALUES)
def test_values_that_are_not(one, other):
    assert normal_value(one) != normal_value(other)


def test_a_value_is_normal_once_and_for_all():
    for value in {value for pair in SAME_VALUES + OTHER_VALUES for value in pair}:
        assert normal_value(normal_value(value)) == normal_value(value)


CALLS = [
    # gold, answer, normalised, exact, as the reference
    ('weather(location="Berlin")', "weather( location = 'Berlin' )", True, True, True),
    ('weather(location="Berlin")', 'weather(location="berlin")', True, False, False),
    ('weather(location="Berlin")', 'weather(location="Bern")', False, False, False),
    ("weather()", 'weather(location="")', True, False, False),
    ("weather()", 'weather(location=" ")', False, False, False),
    ('notes(action="add", note="a")', 'notes(note="a", action="add")', True, True, False),
    ('notes(action="list")', 'notes(action="list", note="")', True, False, False),
    ('notes(action="list")', "notes()", False, False, False),
    ("volume(level=3)", "volume(level=3.0)", True, False, False),
    ("volume(level=3)", "volume(level=3, loud=False)", True, False, False),
    ("volume(level=3)", "volume(level=3, loud=true)", False, False, False),
    ("volume(level=1)", "volume(level=True)", False, False, False),
    ("volume(level=3)", 'volume(level="3")', False, False, False),
    ('weather(location="3")', "weather(location=3)", False, False, False),
    ('weather(location="true")', "weather(location=true)", False, False, False),
    ('weather(location="a")', 'weather(location="a", note="b")', False, False, False),
    ('weather(location="a")', 'Weather(location="a")', False, False, False),
]


@pytest.mark.parametrize(("gold", "answer", "normalised", "exact", "as_reference"), CALLS)
def test_calls(gold, answer, normalised, exact, as_reference):
    left, right = parse_call(gold), parse_call(answer)
    assert normalised_match(left, right, SKILLS) == normalised
    assert same(left, right) == exact
    assert ast_compat(gold, answer) == as_reference


def test_every_match_goes_both_ways():
    for gold, answer, *_ in CALLS:
        left, right = parse_call(gold), parse_call(answer)
        assert normalised_match(left, right, SKILLS) == normalised_match(right, left, SKILLS)
        assert same(left, right) == same(right, left)
        assert ast_compat(gold, answer) == ast_compat(answer, gold)


@pytest.mark.parametrize(
    ("answer", "matches"),
    [
        ("f('x', key=1)", True),
        ('f("x",  key = 1)\n', True),
        ("f(key=1)", False),
        ("f('x', 'y', key=1)", False),
        ("f('x', other=1)", False),
        ("f('x', **key)", False),
        ("x.f('x', key=1)", False),
        ("f", False),
        ("f('x', key=", False),
        ("", False),
        ("f('x'); f('x')", False),
        ("\0", False),
        ("(" * 5000, False),
    ],
)
def test_the_reference_reads_positions_and_fails_quietly(answer, matches):
    assert ast_compat("f('x', key=1)", answer) == matches


def test_the_reference_compares_expressions_as_trees():
    assert ast_compat("f(x=1+2)", "f(x = 1 + 2)") and not ast_compat("f(x=1+2)", "f(x=3)")
