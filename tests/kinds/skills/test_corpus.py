"""From skill files and a teacher's examples to a corpus: briefs, candidates, held-out requests, balance."""

import json
from collections import Counter

import pytest

from stages.core.errors import UserError
from stages.core.files import read_json, read_jsonl, write_jsonl
from stages.kinds.skills.parts.briefs import briefs, request_document
from stages.kinds.skills.parts.calls import parse_call
from stages.kinds.skills.parts.candidates import content, from_teacher, gather
from stages.kinds.skills.parts.corpus import (
    accepted,
    balanced,
    documents,
    split_of,
    template,
    values,
    without_contradictions,
)
from stages.kinds.skills.parts.schema import Example, Parameter, Skill, together
from tests.helpers.cli import invoke

TEXT = Parameter()
SKILLS = together(
    [
        Skill(name="weather", description="tells it", parameters={"location": Parameter(optional=True)}),
        Skill(name="math", description="reckons", parameters={"question": TEXT}),
        Skill(
            name="notes",
            description="keeps notes",
            parameters={
                "action": Parameter(type="enum", values=("add", "list")),
                "note": Parameter(optional=True),
            },
            prompt_examples=(Example(user="List my notes", call='notes(action="list")'),),
            examples=tuple(Example(user=f"note {n}", call='notes(action="list")') for n in range(9)),
        ),
        Skill(name="other", description="nothing else", fallback=True),
    ]
)


def row(user: str, call: str, origin: str = "teacher", variety: str = "positive") -> dict:
    return {"user": user, "call": call, "variety": variety, "origin": origin, "source": "s"}


def test_briefs_are_about_ever_other_topics_and_more_change_none():
    counts = {"positive": 3, "multi": 2, "near_miss": 1, "other": 4}
    topics = [f"topic {n}" for n in range(30)]
    few = list(briefs(SKILLS, topics, counts, 8, 4))
    assert [brief["id"] for brief in few] == sorted(brief["id"] for brief in few)
    found = Counter((brief["metadata"]["skill"], brief["metadata"]["variety"]) for brief in few)
    assert found["other", "other"] == 4 and found["other", "positive"] == 0
    assert found["notes", "multi"] == 2 and found["weather", "multi"] == 0 and found["math", "near_miss"] == 1
    assert len({tuple(brief["metadata"]["topics"]) for brief in few}) == len(few)
    notes = [brief["metadata"] for brief in few if brief["metadata"]["skill"] == "notes"]
    assert all(len(own["shown"]) in (3, 4) for own in notes)
    assert len({json.dumps(own["shown"]) for own in notes}) > 3
    assert notes[0]["signature"] == 'notes(action="add|list", note="[note]"?)' in notes[0]["signatures"]
    twice = list(briefs(SKILLS, topics, counts, 8, 4, more=["math"]))
    assert Counter(brief["metadata"]["skill"] for brief in twice)["math"] == 3 + 3 + 1
    assert len(twice) == len(few) + 3
    thrice = list(briefs(SKILLS, topics, counts, 8, 4, more=["math", "math"]))
    assert len(thrice) == len(few) + 6 and all(brief in thrice for brief in twice)
    more = {brief["id"]: brief for brief in briefs(SKILLS, topics, counts | {"positive": 6}, 8, 4)}
    assert all(more[brief["id"]] == brief for brief in few)


def test_candidates_obey_the_schema_and_stand_there_once():
    left_out = Counter()
    rows = [
        row("Weather in Berlin?", 'weather(location="Berlin")', "file"),
        row("weather in berlin", 'weather(location="berlin")'),
        row("What is the weather going to be like in Berlin tomorrow morning", 'weather(location="Berlin")'),
        row("What is the weather going to be like in Berlin tomorrow mornin", 'weather(location="Berlin")'),
        row("How is it outside", 'weather(location="")'),
        row("Weather in Berlin", "weather()"),
        row("Weather in Rome", 'weather(place="Rome")'),
        row("Weather in Rome", "weather(location='Rome"),
        row("Weather up there", 'weather(location="Rome")'),
        row("...", "weather()"),
        row("♪", "other()", variety="other"),
    ]
    found = gather(rows, SKILLS, 0.9, left_out)
    assert left_out == {
        "exact duplicate": 1,
        "near duplicate": 1,
        "schema: weather has no parameter 'place'": 1,
        "schema: not a call: unterminated string literal": 1,
        "no words": 1,
    }
    assert len(found) + left_out.total() == len(rows)
    assert [one["id"] for one in found] == sorted({one["id"] for one in found})
    by_user = {(one["user"], one["call"]): one for one in found}
    first = by_user["Weather in Berlin?", 'weather(location="Berlin")']
    assert first["origin"] == "file" and first["notes"] == [
        "another candidate has this request with another call"
    ]
    assert by_user["How is it outside", "weather()"]["notes"] == []
    above = by_user["Weather up there", 'weather(location="Rome")']
    assert above["notes"] == ["the value of 'location' is not in the request"]


def test_a_candidate_whose_verbatim_value_is_not_in_the_request_is_left_out():
    program = Skill(name="runapp", description="", parameters={"program": Parameter(verbatim=True)})
    users = ["open vs  code", "open the editor", "please start VSCode"]
    rows, left_out = [row(user, 'runapp(program="VS Code")') for user in users], Counter()
    assert [one["user"] for one in gather(rows, together([program]), 0.9, left_out)] == ["open vs code"]
    assert left_out == Counter({"schema: runapp, program: expected words of the request": 2})


def test_answers_that_hold_no_examples_are_counted(tmp_path):
    path, left_out = tmp_path / "responses.jsonl", Counter()
    good = [{"arguments": {"examples": [{"user": "hi", "assistant": "other()"}]}}]
    own = {"document_id": "b", "accepted": True, "outcome": "ok", "form": "tool"}
    write_jsonl(
        path,
        [
            {"id": "1", **own, "response": json.dumps(good)},
            {"id": "2", **own, "response": "[]x"},
            {"id": "3", **own, "accepted": False, "outcome": "refusal", "response": ""},
        ],
    )
    found = list(from_teacher(path, {"b": {"metadata": {"variety": "other"}}}, left_out))
    assert found == [row("hi", "other()", variety="other") | {"source": "1"}]
    assert left_out == {"answer: not in the form that was asked for": 1, "answer: refusal": 1}
    with pytest.raises(UserError, match="row 1: 'b' is none of the briefs there are now"):
        list(from_teacher(path, {}, Counter()))


@pytest.mark.parametrize(
    ("user", "call", "wording"),
    [
        (
            "What's the weather in New York?",
            'weather(location="new york")',
            "what s the weather in {location}",
        ),
        ("What is twelve times 3.5?", 'math(question="12*3.5")', "what is {number} times {number}"),
        ("weather in Berlin in Berlin", 'weather(location="Berlin")', "weather in {location} in berlin"),
        ("List my notes.", 'notes(action="list")', "list my notes"),
        ("How cold is Rome", 'weather(location="om")', "how cold is rome"),
    ],
)
def test_the_wording_of_a_request_has_no_values(user, call, wording):
    assert template(user, parse_call(call), SKILLS) == wording


def test_a_test_request_is_new_in_wording_and_in_value():
    places = [f"place {n}" for n in range(60)]
    wordings = [
        f"{opening} weather in {ending}" for opening in "abcdefghijkl" for ending in ("X", "X now", "X or so")
    ]
    rows = []
    for place in places:
        for wording in wordings:
            user, call = wording.replace("X", place), f'weather(location="{place}")'
            rows.append({"id": user, "user": user, "call": call, "variety": "positive", "origin": "teacher"})
    made, mixed = documents(rows, SKILLS, 0.2, 0.2, 0.1)
    assert len(made) + mixed == len(rows) and mixed
    seen = {"train": (set(), set()), "val": (set(), set()), "test": (set(), set())}
    for own in made:
        seen[own["split"]][0].add(own["metadata"]["template"])
        seen[own["split"]][1].update(values(parse_call(own["metadata"]["call"]), SKILLS))
    for wording_or_value in (0, 1):
        assert (
            seen["test"][wording_or_value]
            and not seen["test"][wording_or_value] & seen["train"][wording_or_value]
        )
    assert not seen["test"][1] & seen["val"][1] and not seen["val"][0] & seen["train"][0]
    more, _ = documents([*rows, {**rows[0], "id": "z", "user": "zz"}], SKILLS, 0.2, 0.2, 0.1)
    assert {own["id"]: own["split"] for own in made}.items() <= {
        own["id"]: own["split"] for own in more
    }.items()
    assert split_of("x", [], 0.999, 0.2, 0) == "test"  # without values the wording decides
    for place in places:  # whatever it is for
        splits = {
            split_of("x", [(skill, "p", place)], 0.001, 0.5, 0) for skill in ("weather", "timecheck", "news")
        }
        assert len(splits) == 1


def test_no_skill_has_more_than_its_share():
    def rows(skill: str, count: int) -> list[dict]:
        return [{"id": f"{skill}{n}", "metadata": {"skill": skill}} for n in range(count)]

    kept, left_out = balanced([*rows("other", 480), *rows("a", 70), *rows("b", 70)], 0.5)
    counts = Counter(own["metadata"]["skill"] for own in kept)
    assert counts == {"other": 140, "a": 70, "b": 70} and left_out == {"other": 340}
    assert balanced(rows("a", 9), 0.5)[0] == rows("a", 9)
    counts = Counter(
        own["metadata"]["skill"] for own in balanced([*rows("a", 90), *rows("b", 90), *rows("c", 10)], 0.4)[0]
    )
    assert max(counts.values()) <= 0.4 * counts.total() + 1


def test_of_contradicting_rows_people_then_files_then_most_win():
    def of(call: str, origin: str = "teacher", name: str = "") -> dict:
        return {"id": name or call, "user": "Any rain?", "call": call, "origin": origin}

    many = [
        of("weather()", name="1"),
        {**of("weather()", name="2"), "user": "any rain"},
        of("other()", name="0"),
    ]
    assert [one["call"] for one in without_contradictions(many, set())[0]] == ["weather()"]
    kept, gone = without_contradictions([*many, of('notes(action="list")', "file")], set())
    assert [one["call"] for one in kept] == ['notes(action="list")'] and gone == 3
    assert (
        without_contradictions([*many, of('notes(action="list")', "file")], {content("any rain", "Other()")})[
            0
        ][0]["id"]
        == "0"
    )
    decisions = {
        "a": {"decision": "reject", "user": "u", "call": "other()"},
        "b": {"decision": "edit", "user": "u", "call": "other()", "new_user": "v", "new_call": "weather()"},
    }
    assert accepted(decisions) == {content("v", "weather()")}


def test_a_request_in_no_corpus_has_the_fields_of_one_that_is():
    made, _ = documents(
        [{"id": "1", "user": "hi", "call": "other()", "variety": "other", "origin": "file"}],
        SKILLS,
        0.2,
        0.2,
        0.1,
    )
    alone = request_document("hi", SKILLS)
    assert alone.keys() | {"split"} == made[0].keys()
    assert alone["metadata"].items() <= made[0]["metadata"].items()


def test_documents_have_the_defaults_of_their_skill():
    own = together(
        [
            Skill(
                name="a", description="", parameters={"x": Parameter(type="integer", default=5), "y": TEXT}
            ),
            Skill(name="b", description="", fallback=True),
        ]
    )
    rows = [
        {"id": "1", "user": "y now", "call": 'a(y="y")', "variety": "positive", "origin": "file"},
        {"id": "2", "user": "hm", "call": "b()", "variety": "other", "origin": "file"},
    ]
    made, _ = documents(rows, own, 1e-9, 1e-9, 0)
    assert [document["metadata"].get("defaults") for document in made] == [{"x": 5}, None]


def test_the_stages_make_a_corpus(tmp_path, monkeypatch):

    from stages.kinds.skills import candidates, corpus_briefs, corpus_skills, skills
    from tests.helpers.skills_project import written

    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    (tmp_path / "prompts/d").mkdir(parents=True)
    (tmp_path / "prompts/d/decisions.jsonl").write_text("")
    eval_rows = tmp_path / "prompts/d/eval_rows.jsonl"
    eval_rows.write_text("")
    made = ("d", "--eval_rows", "prompts/d/eval_rows.jsonl")
    small = (*made, "--unreviewed", "keep", "--test_templates", "0.4", "--max_share", "1")
    (tmp_path / "topics.txt").write_text("travel\n\nfood\n")
    for skill in SKILLS.skills:
        (tmp_path / "files" / f"{skill.name}.yaml").write_text(written(skill, ".yaml"))

    def run(stage, *arguments):
        done = invoke(stage, arguments)
        return done.exit_code, done.output

    assert run(skills, "d", "--path", "files")[0] == 0
    assert (
        run(corpus_briefs, "d_briefs", "--skills", "d", "--topics", "topics.txt", "--positive", "2")[0] == 0
    )
    assert len(read_jsonl(tmp_path / "data/d_briefs/corpus/documents.jsonl")) == 6 + 10 + 15 + 50
    said = [
        {"user": f"is it cold in place{n} {m}", "assistant": f'weather(location="place{n}")'}
        for n in range(30)
        for m in ("", "now", "or so", "then")
    ]
    own = {"accepted": True, "outcome": "ok", "form": "tool", "document_id": "weather/positive/0000"}
    answer = {"id": "1", **own, "response": json.dumps([{"arguments": {"examples": said}}])}
    write_jsonl(tmp_path / "data/d_briefs/responses.jsonl", [answer])
    assert run(candidates, "d", "--briefs", "d_briefs")[0] == 0
    code, output = run(corpus_skills, *made)
    assert code == 2 and "make review DATASET=d" in output  # nobody has decided yet
    assert run(corpus_skills, *small)[0] == 0
    rows = read_jsonl(tmp_path / "data/d/corpus/documents.jsonl")
    assert {own["split"] for own in rows} >= {"train", "test"}
    before = (tmp_path / "data/d/corpus/documents.jsonl").read_bytes()
    gone = next(
        own
        for own in read_jsonl(tmp_path / "data/d/candidates/candidates.jsonl")
        if own["id"] == rows[0]["id"]
    )
    decision = {"id": gone["id"], "decision": "reject", "user": gone["user"], "call": gone["call"]}
    write_jsonl(tmp_path / "prompts/d/decisions.jsonl", [decision])
    assert run(corpus_skills, *small)[0] == 0
    assert (tmp_path / "data/d/corpus/documents.jsonl").read_bytes() != before
    assert rows[0]["id"] not in {own["id"] for own in read_jsonl(tmp_path / "data/d/corpus/documents.jsonl")}

    said_by_people = {"user": f"{rows[1]['text'].upper()}?!", "answer": rows[1]["metadata"]["call"]}
    write_jsonl(eval_rows, [said_by_people])
    assert run(corpus_skills, *small)[0] == 0
    ids = {own["id"] for own in read_jsonl(tmp_path / "data/d/corpus/documents.jsonl")}
    assert rows[1]["id"] not in ids and len(ids) == len(rows) - 2  # nothing may train on it
    assert read_json(tmp_path / "reports/d/figures/corpus.json")["in_eval_rows"] == 1
    write_jsonl(eval_rows, [said_by_people | {"answer": "sleep()"}])
    code, output = run(corpus_skills, *small)
    assert code == 2 and "eval_rows.jsonl, row 1: field 'answer': no skill is called 'sleep'" in output
