"""The embedded teacher and skills of one's own, of which it knows only the examples that it is shown."""

from collections import Counter

from ruamel.yaml import YAML

from demo.teacher import queries as rules
from stages.kinds.skills.parts import task as kind
from stages.kinds.skills.parts.briefs import briefs, request_document
from stages.kinds.skills.parts.schema import Skill, together
from tests.demo.test_skills import TOPICS, asked


def test_skills_that_it_does_not_know_are_recombined():
    lights = Skill.model_validate(
        {
            "name": "lights",
            "description": "sets the lights of a room",
            "parameters": {"room": {}, "color": {"optional": True}},
            "examples": [
                {"user": "turn the kitchen red", "call": 'lights(room="kitchen", color="red")'},
                {"user": "make the hall blue", "call": 'lights(room="hall", color="blue")'},
                {"user": "light up the cellar", "call": 'lights(room="cellar")'},
            ],
        }
    )
    rest = Skill.model_validate({"name": "nothing", "description": "is for the rest", "fallback": True})
    own = together([lights, rest])
    counts = {"positive": 2, "multi": 2, "near_miss": 1, "other": 1}
    for brief in briefs(own, TOPICS, counts, 6, 3):
        lines = [line.split("\t") for line in rules.answer(asked("write", brief)).splitlines()]
        assert len(lines) >= 4
        for user, call in lines:
            known = own.checked(call)
            assert all(value in user for value in known.arguments.values())
            assert known.name == (
                "lights" if brief["metadata"]["variety"] in ("positive", "multi") else "nothing"
            )
    shown = 'User: turn the kitchen red\nCall: lights(room="kitchen", color="red")\n'
    listed = '- lights(room="[room]", color="[color]"?): sets\n- nothing(): is for the rest\n'
    request = [
        {"role": "user", "content": f"{listed}{shown}<request>\nplease turn the attic mauve\n</request>"}
    ]
    assert rules.answer(request) == 'lights(room="attic", color="mauve")'
    request[0]["content"] = request[0]["content"].replace("turn the attic mauve", "what a day")
    assert rules.answer(request) == "nothing()"


OWN = """
name: lights
description: sets the lights of a room
parameters:
  room: {}
  state: {type: enum, values: [on, off]}
prompt_examples:
- {user: turn the salon lights on, call: 'lights(room="salon", state="on")'}
- {user: lights off in the hall, call: 'lights(room="hall", state="off")'}
examples:
- {user: Turn the cellar lights off, call: 'lights(room="cellar", state="off")'}
---
name: timer
description: counts down
parameters:
  x: {type: integer}
  x2: {type: integer, optional: true}
prompt_examples:
- {user: count down from 12 to 2, call: 'timer(x=12, x2=2)'}
- {user: count 3, call: 'timer(x=3)'}
---
name: weather
description: foretells it
parameters: {location: {}, day: {optional: true}}
examples:
- {user: how is Bath on Monday, call: 'weather(location="Bath", day="Monday")'}
---
{name: nothing, description: is for the rest, fallback: true}
"""


def test_what_is_written_for_skills_of_ones_own_is_read_again():
    own = together(Skill.model_validate(each) for each in YAML(typ="safe").load_all(OWN))
    counts = {"positive": 3, "multi": 3, "near_miss": 1, "other": 2}
    offered, kept, enums = Counter(), Counter(), set()
    for brief in briefs(own, TOPICS, counts, 6, 3):
        for line in rules.answer(asked("write", brief)).splitlines():
            user, call = line.split("\t")
            known = own.checked(call)
            document = request_document(user, own)
            document["metadata"]["call"] = call
            answer = kind.parse_answer(rules.answer(asked("teacher", document)))
            offered[known.name] += 1
            kept[known.name] += kind.fit(answer, document) == [call]
            enums.add(known.arguments.get("state"))
    assert set(offered) == set(own.by_name) and enums == {None, "on", "off"}
    assert all(kept[name] >= 0.9 * offered[name] for name in offered), (kept, offered)


def test_pages_about_skills_are_pages():
    page = "Title: Tags\nText: It is <request>weather in Rome</request> here.\n- weather(location): tells it"
    marked = f"Write queries.\n<document>\n{page}\n</document>"
    assert "(" not in rules.answer([{"role": "user", "content": marked}])
    plain = "<document>\nTags\nThe tag <request>weather in Rome</request> marks a request.\n</document>"
    assert "(" not in rules.answer([{"role": "user", "content": plain}])


def test_a_brief_may_say_anything():
    brief = "Kind: positive\nNumber: x\nFunction: a()\nFallback: other\nTopics: b\n- a(): does it\n"
    shown = "User: it\nCall: a()\n"
    assert "it\ta()" in rules.answer([{"role": "user", "content": brief + shown}])
