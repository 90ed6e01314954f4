"""Skill files: the text form is read strictly, both forms hold the same, examples obey the schema."""

import random
from pathlib import Path

import pytest

from stages.core.errors import UserError
from stages.kinds.skills.parts.calls import Call, parse_call, write_call
from stages.kinds.skills.parts.files import parsed_file, read_source
from stages.kinds.skills.parts.schema import Example, Parameter, Skill
from stages.kinds.skills.parts.text_form import parse, signature
from tests.helpers.skills_project import written

OTTO = Path(__file__).parents[4] / "shared" / "data" / "otto" / "examples"
TIMER = """#### Prompt:
timer(duration="[duration]", volume=[integer: loudness]?=5) sets a timer.
It rings.

#### Prompt Examples:

### User: Alert me: in thirty seconds
### Assistant: timer(duration="30 seconds")

#### Examples:

### User: ring loudly in a minute
### Assistant: timer(duration="1 minute", volume=9)
"""


def test_a_text_file_is_read_whole(tmp_path):
    (tmp_path / "timer.txt").write_text(TIMER)
    source = read_source(tmp_path)
    (skill,) = source.skills.skills
    assert skill.description == "sets a timer. It rings."
    assert skill.parameters["duration"] == Parameter(type="string")
    assert skill.parameters["volume"] == Parameter(
        type="integer", description="loudness", optional=True, default=5
    )
    assert skill.prompt_examples[0].user == "Alert me: in thirty seconds"  # nothing is cut at a second colon
    assert [row["source"] for row in source.examples] == ["timer.txt:7", "timer.txt:12"]
    assert [row["shown"] for row in source.examples] == [True, False]
    assert not source.problems


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ("### User: ring", "User: ring", 12, "'User:' without '### '"),
        ("#### Examples:", "#### Samples:", 10, "no section is called 'Samples'"),
        ("### User: ring loudly in a minute\n", "", 12, "a call without a request"),
        ('### Assistant: timer(duration="30 seconds")\n', "", 7, "a request without a call"),
        ("### User: ring", "noise\n### User: ring", 12, "expected a section or an example, found 'noise'"),
        ("### User: ring", "###User: ring", 12, "found '###User: ring"),
        (
            "#### Examples:\n",
            "#### Prompt:\nbell() rings\n",
            10,
            "a second section 'Prompt': one skill a file",
        ),
        ('duration="1 minute"', 'duration="1 minute', 12, "not a call"),
        ('timer(duration="1 minute"', 'timr(duration="1 minute"', 12, "no skill is called 'timr'"),
        ('duration="1 minute"', 'time="1 minute"', 12, "no parameter 'time'"),
        ('duration="1 minute", ', "", 12, "needs its parameter 'duration'"),
        ("volume=9", 'volume="9"', 12, "type integer"),
        ("volume=[integer: loudness]", "volume=<integer>", 2, "cannot read the parameters"),
        ("volume=[integer: loudness]", "class=[integer]", 2, "a word of Python"),
        ("?=5", '?="5"', 2, "expected a value of type integer"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line_and_counted_if_lenient(tmp_path, old, new, line, what):
    path = tmp_path / "timer.txt"
    path.write_text(TIMER.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        read_source(path)
    assert f"{path}, line {line}: " in str(error.value) and what in str(error.value)
    if line != 2:  # without a skill nothing is left to read
        assert sum(read_source(path, lenient=True).problems.values()) >= 1


@pytest.mark.parametrize("line", ["###User: B", "### User:", "### Assistant:", "B"])
def test_a_call_is_never_taken_for_that_of_another_request(line):
    text = TIMER.replace("### User: ring loudly in a minute", f"### User: A\n{line}")
    found = parse(text)
    assert [one.user for one in found.examples] == ["Alert me: in thirty seconds"]
    assert [problem.line for problem in sorted(found.problems)] == [12, 13, 14]


def test_a_second_skill_does_not_become_part_of_the_first():
    found = parse(TIMER + "\n#### Prompt:\nbell() rings\n")
    assert found.skill.description == "sets a timer. It rings."
    assert [problem.line for problem in found.problems] == [15, 16]


@pytest.mark.parametrize("suffix", [".txt", ".yaml"])
def test_the_mark_of_windows_editors_is_no_text(tmp_path, suffix):
    skill = parse(TIMER).skill
    (tmp_path / f"timer{suffix}").write_text("\ufeff" + written(skill, suffix), encoding="utf-8")
    assert read_source(tmp_path).skills.skills == (skill,)


def test_lines_without_marks_are_mended_when_lenient(tmp_path):
    (tmp_path / "timer.txt").write_text(TIMER.replace("### User: ring", "User: ring"))
    source = read_source(tmp_path, lenient=True)
    assert source.problems == {"mended": 1} and len(source.examples) == 2


def test_parameters_left_out_in_examples_are_optional_in_files_without_marks():
    text = TIMER.replace(", volume=[integer: loudness]?=5", ', note="[note]"').replace(
        ", volume=9", ', note="x"'
    )
    skill = parse(text).skill
    assert skill.parameters["note"].optional and skill.parameters["duration"].required


def random_skill(seed: int) -> Skill:
    draw = random.Random(seed)
    parameters = {}
    for number in range(draw.randint(0, 4)):
        kind = draw.choice(["string", "enum", "integer", "number", "boolean"])
        own = {"type": kind, "description": draw.choice(["", "what it is", f"p{number}, (or) so"])}
        own |= {"values": ("on", "off", "a b")} if kind == "enum" else {}
        own |= {"optional": draw.random() < 0.5}
        if draw.random() < 0.3:
            own["default"] = {
                "string": 'a), "b"',
                "enum": "a b",
                "integer": -3,
                "number": 2.5,
                "boolean": True,
            }[kind]
        parameters[f"p{number}"] = Parameter(**own)
    return Skill(
        name=f"skill{seed}",
        description="does it. And more.",
        parameters=parameters,
        fallback=draw.random() < 0.2,
        prompt_examples=(Example(user="say: it", call="other()"),),
        examples=(Example(user='say "it" again', call='other(p0="ü \\" \\\\")'),),
    )


@pytest.mark.parametrize("suffix", [".txt", ".yaml"])
def test_each_form_holds_everything(tmp_path, suffix):
    for seed in range(60):
        skill = random_skill(seed)
        path = tmp_path / f"skill{suffix}"
        path.write_text(written(skill, suffix), encoding="utf-8")
        parsed = parsed_file(path)
        assert not parsed.problems
        said = {section: [] for section in ("prompt_examples", "examples")}
        for one in parsed.examples:
            said[one.section].append(Example(user=one.user, call=one.call))
        again = parsed.skill.model_copy(update={key: tuple(own) for key, own in said.items()})
        assert again == skill, written(skill, suffix)


def test_yaml_errors_name_the_field_or_the_line(tmp_path):
    path = tmp_path / "a.yaml"
    for text, what in {
        "name: a\ndescription: b\nparameters: {x: {type: enum}}\n": "line 3: parameters.x",
        "name: a\nparameters: {x: {type: number, default: .inf}}\ndescription: b\n": "line 2: .* finite",
        "description: b\nexamples:\n- {user: hi, call: a()}\n- {user: hi}\nname: a": "line 4: examples.1",
        "name: a\ndescription: b\nparameters:\n  x: {}\n  y:\n    type: text\n": "line 6: parameters.y.type",
        "name: a\ndescription: b\nsize: 3\n": "unknown key 'size'",
        "name: a\ndescription: b\nparameters: {from: {}}\n": "'from' is a word of Python",
        "name: [a\n": "line 2: not valid YAML",
        "- a\n": "expected one skill",
        "name: a\ndescription: b\nexamples:\n- {user: hi, call: 'a(x=1)'}\n": "line 4: a(x=1): a has no",
    }.items():
        path.write_text(text)
        with pytest.raises(UserError, match=what.replace("(", r"\(").replace(")", r"\)").replace("[", r"\[")):
            read_source(path)


def test_calls_are_read_and_written_one_way():
    for text, call in {
        'weather(location="Berlin")': Call("weather", {"location": "Berlin"}),
        "f(a='x \\' y', n=-3, x=2.5, yes=true, no=False)": Call(
            "f", {"a": "x ' y", "n": -3, "x": 2.5, "yes": True, "no": False}
        ),
        "other()": Call("other", {}),
    }.items():
        assert parse_call(text) == call and parse_call(write_call(call)) == call
    for text in (
        "f(3)",
        "f(x=[1])",
        "f(x=y)",
        "f(x=1, x=2)",
        "a.b(c=1)",
        "f",
        "f(**{})",
        "f(x='a'b')",
        "f(, x=1)",
        'f(x="\\ud800")',
        f"f(x=-1{'0' * 300})",
        "f(x=1e999)",
    ):
        with pytest.raises(ValueError):
            parse_call(text)


def test_the_canonical_call_leaves_out_what_says_nothing(tmp_path):
    (tmp_path / "timer.txt").write_text(
        TIMER.replace("volume=[integer: loudness]?=5", 'volume=[integer]?=5, note="[n]"?')
    )
    skills = read_source(tmp_path).skills
    call = parse_call('timer(note="", volume=5, duration="")')
    assert skills.canonical(call) == Call("timer", {"duration": ""})  # a required one stays
    assert list(skills.canonical(parse_call('timer(volume=6, duration="x")')).arguments) == [
        "duration",
        "volume",
    ]


def skill_with(*examples: tuple[str, str], **parameters: Parameter) -> Skill:
    own = tuple(Example(user=user, call=f'place(of="{value}")') for user, value in examples)
    return Skill(name="place", description="is a place", parameters=parameters, examples=own)


IN_ROME = [(f"{words} Rome", "Rome") for words in ("in", "near", "to", "from", "by")]


@pytest.mark.parametrize(
    ("examples", "verbatim"),
    [
        (IN_ROME, True),
        (IN_ROME[:4], False),  # too few to tell
        ([*IN_ROME, ("is it cold in  NEW york?", "New York")], True),
        ([*IN_ROME, ("in the big apple", "New York")], False),
        ([*IN_ROME, ("in Romeo", "Rom")], False),
    ],
)
def test_in_files_without_marks_a_text_that_always_stands_in_the_request_is_verbatim(examples, verbatim):
    said = "".join(f'### User: {user}\n### Assistant: place(of="{value}")\n' for user, value in examples)
    (own,) = parse(f'#### Prompt:\nplace(of="[of]")\n#### Examples:\n{said}').skill.parameters.values()
    assert own == Parameter(verbatim=verbatim)


@pytest.mark.parametrize("suffix", [".txt", ".yaml"])
@pytest.mark.parametrize("verbatim", [True, False])
def test_verbatim_or_not_is_said_in_both_forms(tmp_path, suffix, verbatim):
    skill = skill_with(*IN_ROME, of=Parameter(verbatim=verbatim, description="of: all"))
    (tmp_path / f"place{suffix}").write_text(written(skill, suffix))
    assert read_source(tmp_path).skills.skills == (skill,)


def test_a_verbatim_value_has_to_stand_in_its_request(tmp_path):
    skill = skill_with(("in Rome", "rome"), ("in Rome", "Bern"), of=Parameter(verbatim=True))
    (tmp_path / "place.txt").write_text(written(skill, ".txt"))
    with pytest.raises(
        UserError, match="place.txt, line 11: .*place, of: expected words of the request .*Bern"
    ):
        read_source(tmp_path)
    assert len(read_source(tmp_path, lenient=True).examples) == 1


@pytest.mark.skipif(not OTTO.is_dir(), reason="the public skill files are not here")
def test_the_real_files():
    with pytest.raises(UserError, match="openai_examples.txt, line 7"):
        read_source(OTTO)
    source = read_source(OTTO, lenient=True)
    assert source.problems == {"mended": 36, "left out": 2}  # 18 examples that older readers lost
    assert len(source.skills.skills) == 10 and source.skills.fallback == "other"
    assert sum(row["skill"] == "timecheck" for row in source.examples) == 20
    assert [signature(source.skills.by_name[name]) for name in ("notes", "weather")] == [
        'notes(action="add|list", note="[note]"?)',
        'weather(location="[verbatim: location]"?)',
    ]
    for skill in source.skills.skills:
        assert parse(written(skill, ".txt")).skill.parameters == skill.parameters
