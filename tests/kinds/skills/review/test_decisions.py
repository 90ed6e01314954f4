"""Review of candidates: decisions by content, the CSV round trip, and the server of the page."""

import csv
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.core.errors import UserError
from stages.core.files import read_jsonl, write_jsonl, write_text
from stages.kinds.skills.parts.calls import parse_call
from stages.kinds.skills.parts.candidates import candidate_id
from stages.kinds.skills.parts.review import table as review_csv
from stages.kinds.skills.parts.review.decisions import (
    Change,
    Conflict,
    Rejected,
    decided,
    read_decisions,
    reviewed,
    save_decisions,
)
from stages.kinds.skills.parts.review.server import Neighbours
from stages.kinds.skills.parts.schema import Parameter, Skill, together
from tests.helpers.workspace import ROOT

TEXT, WHERE = Parameter(), Parameter(optional=True)
SKILLS = together(
    [
        Skill(name="math", description="A question in Python's notation.", parameters={"question": TEXT}),
        Skill(
            name="notes",
            description="Takes simple notes.",
            parameters={"action": Parameter(type="enum", values=("add", "list")), "note": WHERE},
        ),
        Skill(name="weather", description="The weather, here or elsewhere.", parameters={"location": WHERE}),
        Skill(name="other", description="When no other one applies.", fallback=True),
    ]
)
SAID = [
    ("What is the weather in Berlin?", 'weather(location="Berlin")'),
    ("What's the weather like in Paris", 'weather(location="Paris")'),
    ("How hot is it in New York", 'weather(location="New York")'),
    ("Will it rain in Lisbon this weekend?", 'weather(location="Lisbon")'),
    ("Is it cold outside", "weather()"),
    ("Do I need an umbrella?", "weather()"),
    ("Tell me the forecast for São Paulo", 'weather(location="São Paulo")'),
    ("weather", "weather()"),
    ("What is 3 times 5", 'math(question="3*5")'),
    ("Add 12 and 30", 'math(question="12+30")'),
    ("How much is 144 divided by 12", 'math(question="144/12")'),
    ("-5 plus 2", 'math(question="-5+2")'),
    ("=2+2 please", 'math(question="2+2")'),
    ("What is the square root of 81", 'math(question="81**.5")'),
    ("Remind me to buy milk", 'notes(action="add", note="buy milk")'),
    ("Make a note to call John tomorrow", 'notes(action="add", note="call John tomorrow")'),
    ("Add a note that the meeting is at 10", 'notes(action="add", note="the meeting is at 10")'),
    ("List my notes", 'notes(action="list")'),
    ("Read me all of my notes", 'notes(action="list")'),
    ("Note to self, water the plants", 'notes(action="add", note="water the plants")'),
    ('Write down "to be, or not to be"', 'notes(action="add", note="to be, or not to be")'),
    ("<script>document.title = 'broken'</script> & <b>bold</b>", "other()"),
    ("Yeah, potentially.", "other()"),
    ("I don't know.", "other()"),
    ("What is the weather in your heart?", "other()"),
    ("the meeting went well, I think", "other()"),
    ("Uh-huh. That was it.", "other()"),
    ("@home we never do that", "other()"),
    ("+1 to that", "other()"),
    ("42", "other()"),
]


def candidates(said=SAID) -> list[dict]:
    rows = []
    for number, (user, call) in enumerate(said):
        name = parse_call(call).name
        variety = "other" if name == "other" else "multi" if '", ' in call else "positive"
        note = ["the value of 'question' is not in the request"] if name == "math" and number % 2 else []
        rows.append(
            {
                "id": candidate_id(user, call),
                "skill": name,
                "variety": "near_miss" if "weather" in user and name == "other" else variety,
                "user": user,
                "call": call,
                "origin": "teacher" if number % 3 else "file",
                "source": f"{name}/{variety}/{number:03}"
                if number % 3
                else f"{name}_examples.txt:{number + 5}",
                "notes": note,
            }
        )
    return sorted(rows, key=lambda row: row["id"])


def many(count: int) -> list[dict]:
    chance = random.Random(1)
    places = "Berlin Paris Rome Oslo Lima Quito Cairo Delhi Tokyo Perth".split()
    said = [
        (f"What is the weather in {place} on day {n}", f'weather(location="{place}")')
        for n, place in enumerate(chance.choices(places, k=count))
    ]
    return candidates(said)


def make_project(root: Path, rows: list[dict] | None = None) -> Path:
    """The files that review reads, below `root`."""
    write_text(root / "data/otto/skills/skills.json", SKILLS.model_dump_json())
    write_jsonl(root / "data/otto/candidates/candidates.jsonl", candidates() if rows is None else rows)
    return root


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_project(tmp_path)


def row_of(user: str) -> dict:
    return next(row for row in candidates() if row["user"].startswith(user))


def choice(user: str, kind: str, new_user: str = "", new_call: str = "") -> dict:
    return decided(row_of(user), kind, new_user, new_call, SKILLS)


def first(user: str, kind: str, *new: str) -> Change:
    row = choice(user, kind, *new)
    return Change(row["id"], row, None)


# Decisions


def test_decisions_are_kept_sorted_and_canonical(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "prompts/otto/decisions.jsonl"
    assert read_decisions(path) == {}
    edit = first("Remind me", "edit", " Remind me\nto buy  oat milk", "notes(note='oat milk', action='add')")
    save_decisions(path, [edit, first("weather", "accept")])
    save_decisions(path, [first("42", "reject")])
    lines = path.read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert all(line == json.dumps(json.loads(line), sort_keys=True, separators=(",", ":")) for line in lines)
    assert read_decisions(path, SKILLS)[edit.id] == {
        "id": row_of("Remind me")["id"],
        "decision": "edit",
        "user": "Remind me to buy milk",
        "call": 'notes(action="add", note="buy milk")',
        "new_user": "Remind me to buy oat milk",
        "new_call": 'notes(action="add", note="oat milk")',
    }
    before = path.read_bytes()
    save_decisions(path, [edit._replace(wanted=None, seen=edit.wanted)])
    save_decisions(path, [edit])
    assert path.read_bytes() == before  # whatever the order of the actions


def test_an_edit_that_changes_nothing_is_an_accept():
    assert choice("List my notes", "edit", "List my notes", "notes(action='list', note='')") == choice(
        "List my notes", "accept"
    )


@pytest.mark.parametrize(
    "new_call, problem",
    [
        ("notes(", "not a call"),
        ("note()", "no skill is called 'note'"),
        ('notes(action="delete")', "expected one of add, list, found 'delete'"),
        ("notes()", "notes needs its parameter 'action'"),
    ],
)
def test_an_edit_is_held_to_the_schema(new_call, problem):
    with pytest.raises(ValueError, match=problem):
        choice("List my notes", "edit", "List", new_call)


def test_a_decision_made_on_an_old_one_is_refused_and_nothing_is_written(project):
    path = project / "prompts/otto/decisions.jsonl"
    accepted, rejected = first("weather", "accept"), first("weather", "reject")
    save_decisions(path, [accepted])
    save_decisions(path, [accepted])  # its answer was lost: sent again
    with pytest.raises(Conflict) as conflict:
        save_decisions(path, [first("42", "accept"), rejected])
    assert conflict.value.present == {accepted.id: accepted.wanted}
    assert list(read_decisions(path)) == [accepted.id]
    save_decisions(path, [rejected._replace(seen=accepted.wanted)])
    assert read_decisions(path)[accepted.id]["decision"] == "reject"


@pytest.mark.parametrize(
    "spoil, problem",
    [
        (lambda line: line[:-9], "row 2: not valid JSON"),
        (
            lambda line: line.replace('"reject"', '"maybe"'),
            "row 2: field 'decision': expected accept, reject",
        ),
        (lambda line: line.replace("potentially", "perhaps"), "row 2: field 'id': .* is not the id of this"),
        (lambda line: line.replace('"user":', '"User":'), "row 2: field 'User' is unknown"),
        (
            lambda line: line.replace('"reject"', '"edit"'),
            "row 2: field 'new_call': expected text, found None",
        ),
        (
            lambda line: line.replace('"reject"', '"edit","new_user":"x","new_call":"weather(city=1)"'),
            "row 2: field 'new_call': weather.city=1.: weather has no parameter 'city'",
        ),
        (lambda line: f"{line}\n{line}", "row 3: the id .* is there twice"),
    ],
)
def test_what_is_no_decision_is_named(project, spoil, problem):
    path = project / "prompts/otto/decisions.jsonl"
    save_decisions(path, [first("Yeah", "reject"), first("42", "accept")])
    lines = sorted(path.read_text("utf-8").splitlines(), key=lambda line: "potentially" in line)
    write_text(path, f"{lines[0]}\n{spoil(lines[1])}\n")
    with pytest.raises(UserError, match=rf"decisions\.jsonl, {problem}"):
        read_decisions(path, SKILLS)


def test_reviewed_keeps_what_people_accepted_and_edited():
    rows = candidates()
    edit = choice("42", "edit", "What is 42", 'math(question="42")')
    twin = choice("weather", "edit", "Is it cold outside", "weather()")
    made = [edit, twin, choice("Yeah", "reject"), choice("Is it cold", "accept")]
    orphan = {"id": "0" * 16, "decision": "accept", "user": "gone", "call": "other()"}
    decisions = {row["id"]: row for row in [*made, orphan]}
    kept, counts = reviewed(rows, decisions, "keep")
    assert counts == {"edit": 2, "reject": 1, "accept": 1, "unreviewed": 26}
    by_user = {row["user"]: row for row in kept}
    assert len(kept) == 28 and "Yeah, potentially." not in by_user
    assert by_user["What is 42"] == {
        **row_of("42"),
        "id": candidate_id("What is 42", 'math(question="42")'),
        "user": "What is 42",
        "call": 'math(question="42")',
        "skill": "math",
        "notes": [],
    }
    assert len({row["id"] for row in kept}) == len(kept)
    assert {row["user"] for row in reviewed(rows, decisions, "drop")[0]} == {
        "What is 42",
        "Is it cold outside",
    }
    assert reviewed(rows, {}, "keep") == (rows, {"unreviewed": 30})


def test_decisions_hold_for_candidates_made_again_with_other_punctuation():
    decisions = {row["id"]: row for row in [choice("Yeah", "reject"), choice("weather", "accept")]}
    again = candidates([("yeah potentially", "other()"), ("Weather!", "weather()"), ("Weather", "other()")])
    kept, counts = reviewed(again, decisions, "drop")
    assert counts == {"reject": 1, "accept": 1, "unreviewed": 1}
    assert [row["user"] for row in kept] == ["Weather!"]


def test_what_was_rejected_comes_in_through_no_edit(project):
    path = project / "prompts/otto/decisions.jsonl"
    edit = first("42", "edit", "yeah, potentially", "other()")
    save_decisions(path, [first("Yeah", "reject")])
    with pytest.raises(Rejected, match="is a candidate that was rejected") as error:
        save_decisions(path, [first("weather", "accept"), edit])
    assert list(error.value.problems) == [edit.id] and len(read_decisions(path)) == 1
    decisions = {row["id"]: row for row in [choice("Yeah", "reject"), edit.wanted]}
    kept, counts = reviewed(candidates(), decisions, "keep")
    assert counts == {"reject": 2, "unreviewed": 28}
    assert not {"42", "yeah, potentially", "Yeah, potentially."} & {row["user"] for row in kept}


def test_neighbours_have_another_kind_of_call():
    rows = candidates()
    users = {row["id"]: row["user"] for row in rows}
    found = Neighbours(rows, SKILLS)
    name = row_of("What is the weather in Berlin?")["id"]
    assert [users[other] for other in found.of(name)] == ["What is the weather in your heart?"]
    assert found.of(row_of("Yeah")["id"]) == []
    here = {**row_of("What is the weather in Berlin?"), "id": "0" * 16, "call": "weather()"}
    here["user"] = "what is the weather in berlin"
    assert Neighbours([*rows, here], SKILLS).of(name)[0] == here["id"]


# CSV


def run(*arguments: str, root: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "stages", "review", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def sheet(path: Path) -> list[dict]:
    with open(path, encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def put(path: Path, rows: list[dict], delimiter: str = ",") -> None:
    with open(path, "w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def test_csv_round_trip(project):
    path, table = project / "prompts/otto/decisions.jsonl", project / "table.csv"
    save_decisions(path, [first("-5", "edit", "-5 plus 3", 'math(question="-5+3")'), first("42", "reject")])
    before = path.read_bytes()
    assert run("otto", "--export", "table.csv", root=project).returncode == 0
    assert table.read_bytes().startswith(b"\xef\xbb\xbfid,skill,")
    rows = sheet(table)
    assert not [cell for row in rows for cell in row.values() if cell[:1] in ("=", "+", "-", "@")]
    assert {"'-5 plus 2", "'-5 plus 3", "'=2+2 please", "'@home we never do that", "'42"} <= {
        cell for row in rows for cell in row.values()
    }
    done = run("otto", "--import", "table.csv", root=project)
    assert done.stdout.endswith("0 new, 0 changed, 0 cleared, 30 as before\n") and path.read_bytes() == before
    for row in rows:
        if row["user"] == "weather":
            row["decision"] = "Accept"
        elif row["user"] == "'42":
            row["decision"] = "clear"
        elif row["user"] == "'-5 plus 2":
            row["decision"] = ""  # says nothing
            row["new_user"] = row["new_call"] = ""
        elif row["user"] == "List my notes":
            row["decision"], row["new_user"] = "edit", "=List them; all"
    put(table, rows, ";")
    done = run("otto", "--import", "table.csv", root=project)
    assert done.stdout.endswith("2 new, 0 changed, 1 cleared, 27 as before\n"), done.stderr
    found = {row["user"]: row for row in read_jsonl(path)}
    assert {user: row["decision"] for user, row in found.items()} == {
        "weather": "accept",
        "List my notes": "edit",
        "-5 plus 2": "edit",
    }
    assert found["List my notes"]["new_user"] == "=List them; all"
    assert found["List my notes"]["new_call"] == 'notes(action="list")'


@pytest.mark.parametrize(
    "column, value, problem",
    [
        ("id", "nobody", "column id: no candidate is called 'nobody'"),
        (
            "user",
            "Weather",
            "column user: expected 'weather', found 'Weather'; to change what a candidate says",
        ),
        ("call", "other()", r"column call: expected 'weather\(\)', found 'other\(\)'"),
        ("decision", "yes", "column decision: expected accept, reject, edit, clear or nothing, found 'yes'"),
        ("decision", "edit", "column decision: an edit needs new_user or new_call"),
        ("new_call", "other()", "column new_call: only the decision edit has one"),
        (
            "decision new_call",
            "edit weather(x=1)",
            r"column new_call: weather\(x=1\): weather has no parameter",
        ),
    ],
)
def test_a_table_that_is_not_right_changes_nothing(project, column, value, problem):
    table = project / "table.csv"
    review_csv.write_csv(table, candidates(), {})
    rows = sheet(table)
    number = next(n for n, row in enumerate(rows, start=2) if row["user"] == "weather")
    for row in rows:
        row["decision"] = "accept" if row["user"] != "weather" else ""
    rows[number - 2].update(zip(column.split(), value.split(maxsplit=column.count(" ")), strict=True))
    put(table, rows)
    done = run("otto", "--import", "table.csv", root=project)
    assert done.returncode == 2 and re.search(rf"table\.csv, row {number}, {problem}", done.stderr), (
        done.stderr
    )
    assert not (project / "prompts").exists()


@pytest.mark.parametrize(
    "spoil, problem",
    [
        (
            lambda lines: [lines[0].replace("decision", "verdict"), *lines[1:]],
            "row 1: expected one column 'dec",
        ),
        (lambda lines: [*lines, lines[3]], "row 32, column id: row 4 has the same id"),
        (lambda lines: [lines[0], "a,b", *lines[1:]], "row 2: fewer fields than the header, 2 for 10"),
        (lambda lines: [*lines, '"'], "not valid CSV"),
        (lambda lines: [], "row 1: expected one column 'id'"),
    ],
)
def test_what_is_no_table_is_named(project, spoil, problem):
    table = project / "table.csv"
    review_csv.write_csv(table, candidates(), {})
    write_text(table, "\n".join(spoil(table.read_text("utf-8-sig").splitlines())))
    with pytest.raises(UserError, match=problem):
        review_csv.changes(table, candidates(), {}, SKILLS)
    table.write_bytes(b"id,\xff")
    with pytest.raises(UserError, match="byte 0xff is not UTF-8"):
        review_csv.changes(table, candidates(), {}, SKILLS)


@pytest.mark.parametrize(
    "text",
    [
        *("=1+1", "'=1", "''-x", "it's", "'quoted'", "@a", "007", "12e4", "", "-", "＝x"),
        *(
            "x;=1+1",
            "x;;+1",
            "a; @b",
            'x;"=1"',
            "x;'=1",
            "x\t-1",
            "x\n=1",
            "\t=1",
            ";\n =1",
            "a|=1",
            "x;\n;＝1",
        ),
    ],
)
def test_guarding_a_cell_is_undone(text):
    cell = review_csv.guarded(text)
    assert review_csv.unguarded(cell) == text
    for separator in (",", ";", "\t", "|"):
        stream = io.StringIO(newline="")
        csv.writer(stream).writerow(["id", cell, cell, "end"])
        lines = stream.getvalue().splitlines() if separator != "," else [stream.getvalue()]
        for line in lines:
            for found in line.split(separator) if separator != "," else next(csv.reader([line])):
                assert found.strip().lstrip('"').strip()[:1] not in [*"=+-@＝"]


# Saving


KILL = """
import os, sys
from pathlib import Path
from stages.core import files
from tests.kinds.skills.review.test_decisions import first, save_decisions
real, count = os.{call}, 0
def dies(*arguments):
    global count
    count += 1
    if count == {when}:
        os.kill(os.getpid(), 9)
    return real(*arguments)
os.{call} = dies
save_decisions(Path("prompts/otto/decisions.jsonl"), [first("42", "reject")])
"""


@pytest.mark.parametrize("call, when", [("fsync", 1), ("replace", 1), ("fsync", 2)])
def test_a_kill_during_a_save_loses_nothing(project, call, when):
    path = project / "prompts/otto/decisions.jsonl"
    save_decisions(path, [first("weather", "accept")])
    done = subprocess.run(
        [sys.executable, "-c", KILL.format(call=call, when=when)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == -signal.SIGKILL
    found = {row["user"] for row in read_decisions(path).values()}
    assert found == {"weather"} | ({"42"} if when == 2 else set())
    save_decisions(path, [first("42", "reject")])
    assert len(read_decisions(path)) == 2
    assert [p.name for p in path.parent.iterdir()] == ["decisions.jsonl"]  # what the kill left is gone


def test_saves_of_several_processes_all_arrive(project):
    script = """
import sys
from pathlib import Path
from tests.kinds.skills.review.test_decisions import Change, candidates, decided, save_decisions, SKILLS
for row in candidates()[int(sys.argv[1])::3]:
    wanted = decided(row, "accept", "", "", SKILLS)
    save_decisions(Path("prompts/otto/decisions.jsonl"), [Change(row["id"], wanted, None)])
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(n)], cwd=project, env=environment)
        for n in range(3)
    ]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len(read_decisions(project / "prompts/otto/decisions.jsonl")) == 30


def test_twenty_thousand_decisions_are_saved_fast(project):
    path, rows = project / "prompts/otto/decisions.jsonl", many(20_000)
    wanted = {row["id"]: decided(row, "accept", "", "", SKILLS) for row in rows}
    save_decisions(path, [Change(name, row, None) for name, row in wanted.items()])
    name = rows[0]["id"]
    started = time.monotonic()
    save_decisions(path, [Change(name, {**wanted[name], "decision": "reject"}, wanted[name])])
    assert time.monotonic() - started < 3  # 0.4 s alone on two cores


def test_half_a_character_is_no_edit():
    for new in (("\ud800", "weather()"), ("x", 'notes(action="add", note="\ud800")')):
        with pytest.raises(ValueError, match="surrogate"):
            choice("List my notes", "edit", *new)


def test_an_export_writes_over_no_file(project):
    table = project / "table.csv"
    table.write_text("what was decided")
    done = run("otto", "--export", "table.csv", root=project)
    assert done.returncode == 2 and "is there already: import it" in done.stderr
    assert table.read_text() == "what was decided"
