"""The grammars of skills: every string of them is a valid call, and every valid call is a string of them."""

import json
import math
import random
from pathlib import Path

import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from stages.core.errors import UserError
from stages.kinds.skills.parts.calls import Call, parse_call, write_call
from stages.kinds.skills.parts.files import read_source
from stages.kinds.skills.parts.grammar import lark
from stages.kinds.skills.parts.schema import Parameter, Skill, Skills, together

OTTO = Path(__file__).parents[3] / "../shared/data/otto"
TEXTS = [
    "",
    "Berlin",
    "9*9",
    'say "hi"',
    "c:\\new\\u0041",
    "a, b=(c)",
    "ä数😀",
    "line\nbreak\t\x07",
    "\\",
    "don't",
]


class Bytes:
    """A tokenizer whose tokens are bytes, for what a grammar accepts without a tokenizer's part in it."""

    eos_token_id, bos_token_id = 256, None
    tokens = [*(bytes([value]) for value in range(256)), b"<end>"]
    special_token_ids = [256]

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


BYTES = LLTokenizer(TokenizerWrapper(Bytes()))


def matcher(grammar: str) -> LLMatcher:
    made = LLMatcher(BYTES, grammar, log_level=0)
    assert not made.is_error(), made.get_error()
    return made


def accepts(start: LLMatcher, text: str) -> bool:
    own, ids = start.deep_copy(), list(text.encode())
    return own.validate_tokens(ids) == len(ids) and own.consume_tokens(ids) and own.is_accepting()


def draw(start: LLMatcher, rng: random.Random) -> str:
    """A string of the grammar, byte by byte; texts and numbers seldom get long."""
    own, made = start.deep_copy(), []
    while not own.is_accepting():
        bits = own.compute_bitmask()
        allowed = [byte for byte in range(256) if bits[byte // 8] >> byte % 8 & 1]
        ending = [byte for byte in allowed if byte in b'"),']
        made.append(rng.choice(ending if ending and rng.random() < 0.3 else allowed))
        assert own.consume_token(made[-1])
    return bytes(made).decode()


def some_parameter(rng: random.Random) -> Parameter:
    kind = rng.choice(["string", "enum", "integer", "number", "boolean"])
    values = tuple(rng.sample(["add", "list", "Add", *TEXTS], rng.randint(1, 4))) if kind == "enum" else ()
    parameter = Parameter(type=kind, values=values, optional=rng.random() < 0.4)
    default = some_value(parameter, rng) if rng.random() < 0.3 else None
    return parameter.model_copy(update={"default": default})


def some_value(parameter: Parameter, rng: random.Random):
    if parameter.type == "enum":
        return rng.choice(parameter.values)
    if parameter.type == "boolean":
        return rng.random() < 0.5
    if parameter.type == "integer" or (parameter.type == "number" and rng.random() < 0.3):
        return rng.choice([0, 7, -7, 10**18, rng.randint(-(10**9), 10**9)])
    if parameter.type == "number":
        return rng.choice(
            [0.0, -0.5, 1e22, -1e-7, 5e-324, 9.5e307, rng.uniform(-1e3, 1e3), rng.expovariate(1e-20)]
        )
    return rng.choice([*TEXTS, "\x7f"]) + "".join(
        chr(rng.randrange(32, 0xD800)) for _ in range(rng.randint(0, 5))
    )


def some_skills(rng: random.Random) -> Skills:
    names = rng.sample(["news", "runApp", "runapp", "_x1", "weather", "Timer", "print"], rng.randint(1, 4))
    arguments = ["a", "note", "is_on", "Count", "e"]
    made = [
        Skill(
            name=name,
            description="",
            parameters={own: some_parameter(rng) for own in rng.sample(arguments, rng.randint(0, 4))},
        )
        for name in names
    ]
    return together([*made, Skill(name="other", description="", fallback=True)])


def some_call(skills: Skills, rng: random.Random) -> Call:
    skill = rng.choice(skills.skills)
    given = {
        name: some_value(parameter, rng)
        for name, parameter in skill.parameters.items()
        if parameter.required or rng.random() < 0.5
    }
    return skills.canonical(Call(skill.name, given))


@pytest.mark.parametrize("seed", range(12))
def test_the_grammar_is_the_valid_calls(seed):
    rng = random.Random(seed)
    skills = some_skills(rng)
    start = matcher(lark(skills))
    for _ in range(60):
        text = write_call(some_call(skills, rng))
        assert skills.checked(text) and accepts(start, text), text
    for _ in range(30):
        assert skills.checked(draw(start, rng)) is not None


@pytest.mark.parametrize("seed", range(6))
def test_what_is_nearly_a_call_is_accepted_only_if_it_is_valid(seed):
    rng = random.Random(seed)
    skills = some_skills(rng)
    start, refused = matcher(lark(skills)), 0
    for _ in range(300):
        text = list(write_call(some_call(skills, rng)))
        place = rng.randrange(len(text))
        text[place : place + rng.randint(0, 1)] = rng.choice(
            ["", ",", '"', "\\", "0", "e", "-", ".", " ", "()", "\n"]
        )
        text = "".join(text)
        if accepts(start, text):
            skills.checked(text)
        refused += not accepts(start, text)
    assert refused > 50


SKILLS = together(
    [
        Skill(name="math", description="", parameters={"question": Parameter()}),
        Skill(name="news", description="", parameters={"topic": Parameter(optional=True)}),
        Skill(
            name="notes",
            description="",
            parameters={
                "action": Parameter(type="enum", values=("add", "list")),
                "note": Parameter(optional=True),
                "count": Parameter(type="integer", default=1),
                "price": Parameter(type="number", optional=True),
                "pinned": Parameter(type="boolean", optional=True),
            },
        ),
        Skill(name="other", description="", fallback=True),
    ]
)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ('math(question="sqrt(16)")', True),  # the reference's texts had letters, digits and spaces only
        ('math(question="9*9")', True),
        ("news()", True),
        ('news(, topic="apple")', False),  # which the reference accepted
        ("news(,)", False),
        ('news(topic="a", topic="b")', False),
        ('news(topic="a",)', False),
        ('notes(action="add", note="milk")', True),
        ('notes(note="milk", action="add")', False),  # the order of the schema
        ('notes(action="add", count=2, price=-2.5e-07, pinned=True)', True),
        ('notes(action="Add")', False),
        ('notes(action="")', False),
        ("notes()", False),
        ('notes(action="add", count="2")', False),
        ('notes(action="add", count=2.0)', False),
        ('notes(action="add", count=02)', False),
        ('notes(action="add", count=True)', False),
        ('notes(action="add", price=2)', True),
        ('notes(action="add", price=1e999)', False),
        ('notes(action="add", price=9e308)', False),
        ('notes(action="add", price=.5)', False),
        ('notes(action="add", pinned=true)', False),
        ("math(question='9*9')", False),
        ('math(question="9*9"', False),
        ('math(question="9*9") ', False),
        ('math(question="\\u00e9\\"\\\\\\n")', True),
        ('math(question="\\x41")', False),  # Python's alone
        ('math(question="\\/")', False),  # JSON's alone: two characters to Python
        ('math(question="\\ud83d\\ude00")', False),  # one character to JSON, two to Python
        ('math(question="a\nb")', False),
        ("other()", True),
        ('other(x="1")', False),
        ("unknown()", False),
        ("other()other()", False),
        ("", False),
    ],
)
def test_cases(text, good):
    assert accepts(matcher(lark(SKILLS)), text) == good
    if good:
        assert SKILLS.checked(text)


def test_escapes_mean_the_same_to_json_and_to_python():
    start, rng = matcher(lark(SKILLS)), random.Random(5)
    for _ in range(200):
        escape = "\\" + rng.choice('"\\nrtbfu/xaN0')
        text = f'math(question="{escape}{rng.randrange(16**4):04x}")'
        if accepts(start, text):
            assert parse_call(text).arguments["question"] == json.loads(text[len("math(question=") : -1])


def test_numbers_are_finite_and_ints_readable():
    start = matcher(lark(SKILLS))
    for number in (f"9.{'9' * 40}e+307", "9" * 300, f"{'9' * 300}.9"):
        text = f'notes(action="add", price={number})'
        assert accepts(start, text)
        assert math.isfinite(SKILLS.checked(text).arguments["price"])
    assert not accepts(start, f'notes(action="add", count={"9" * 301})')


def test_without_a_prompt_a_verbatim_text_is_any_text():
    place = Skill(name="place", description="", parameters={"of": Parameter(verbatim=True)})
    skills = together([place])
    assert 'PROMPT_WORDS? "\\""' in lark(skills) and "TEXT:" not in lark(skills)
    start = matcher(lark(skills))
    assert accepts(start, 'place(of="New York")') and not accepts(start, 'place(of=New York")')


def test_an_enum_value_may_hold_any_character():
    value = "".join(map(chr, range(160)))
    odd = Skill(name="odd", description="", parameters={"x": Parameter(type="enum", values=(value,))})
    assert accepts(matcher(lark(together([odd]))), write_call(Call("odd", {"x": value})))


def test_no_skills_is_the_users_to_mend():
    with pytest.raises(UserError, match="no skills"):
        lark(Skills(skills=()))


@pytest.mark.skipif(not OTTO.is_dir(), reason="the real skill files are not here")
def test_every_example_of_the_real_files_is_accepted():
    source = read_source(OTTO / "examples", lenient=True)
    start = matcher(lark(source.skills))
    calls = [
        example.call
        for skill in source.skills.skills
        for example in (*skill.prompt_examples, *skill.examples)
    ]
    assert len(calls) > 500
    for call in dict.fromkeys(calls):
        text = write_call(source.skills.canonical(parse_call(call)))
        assert accepts(start, text), text
