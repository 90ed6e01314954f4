"""Calls of a tiny student scored side by side: from files to figures, rows of any file, and the page."""

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from stages import report
from stages.commands import build, evaluate_rows
from stages.core.files import atomic_directory, read_json, write_json, write_jsonl, write_text
from stages.core.stage import command
from stages.kinds.skills import evaluate_calls, skills
from stages.kinds.skills.parts.calls import parse_call
from stages.params import STAGES
from tests.helpers.cli import invoke
from tests.helpers.tiny import tiny_model
from tests.helpers.workspace import ROOT

MEASURES = "normalised_match_macro ast_match valid_call other_recall other_precision latency_ms_p50".split()
SYSTEMS = ["base", "student", "student_grammar", "teacher"]
SKILLS = {
    "weather": 'weather(location="[location]") tells the weather',
    "notes": 'notes(action="add|list", note="[note]") keeps notes',
    "other": "other() is for what is no request",
}
CALLS = {
    "weather": 'weather(location="Rome {n}")',
    "notes": 'notes(action="add", note="note {n}")',
    "other": "other()",
}
HOSTILE = "<script>alert('x')</script>"
CHAIN = """skills candidates corpus_skills prompt collect convert tokenize finetune merge export
    evaluate_calls report""".split()
EVAL_ROWS = Path("prompts/d/eval_rows.jsonl")
KNOBS = {
    "base": "b",
    "eval_rows": str(EVAL_ROWS),
    "max_new_tokens": 24,
    "batch_size": 8,
    "threads": 1,
    "bootstrap": 50,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [tiny_model(folder / name, seed=seed) for name, seed in (("base", 1), ("hf", 0))]


def document(n: int, split: str = "test", **changed) -> dict:
    skill = list(CALLS)[n % 3]
    metadata = {"call": CALLS[skill].format(n=n), "skill": skill, "template": f"{skill} {n}", **changed}
    text = f"{HOSTILE if n == 1 else skill} {n}"
    return {"id": f"r{n:02}", "title": "", "text": text, "metadata": metadata, "split": split}


def write_corpus(documents: list[dict]) -> None:
    with atomic_directory(Path("data/d/corpus"), "corpus") as directory:
        write_jsonl(directory / "documents.jsonl", documents)


@pytest.fixture
def house(tmp_path, monkeypatch, models):
    """A repository with tiny base and student, three skills, twelve held-out requests and their labels."""
    monkeypatch.chdir(tmp_path)
    for source, target in zip(models, ("models/base/b", "models/d/hf"), strict=True):
        shutil.copytree(source, target)
    for name, prompt in SKILLS.items():
        example = CALLS[name].format(n=99)
        pair = f"### User: {name} please\n### Assistant: {example}\n"
        write_text(Path(f"skills/{name}.txt"), f"#### Prompt:\n\n{prompt}\n\n#### Examples:\n\n{pair}")
    assert invoke(skills, ["d", "--path", "skills"]).exit_code == 0
    write_text(Path("prompts/d/student.md"), "{{ document.text }}\ncall:")
    write_text(EVAL_ROWS, "")
    rows = [document(n, "train" if n >= 12 else "test") for n in range(15)]
    write_corpus(rows)
    answer = {"accepted": True, "outcome": "ok", "model": "embedded"}
    write_jsonl(
        Path("data/d/responses.jsonl"),
        [{"id": row["id"], **answer, "response": row["metadata"]["call"].lower()} for row in rows],
    )
    return tmp_path


def run(cli, *arguments, **knobs):
    options = [f"--{name}={value}" for name, value in knobs.items()]
    result = CliRunner().invoke(cli, [*arguments, *options])
    if result.exit_code not in (0, 2):
        raise result.exception
    return result


def evaluated(**knobs):
    return run(command(STAGES["evaluate_calls"]), "d", **{**KNOBS, "latency_requests": 2, **knobs})


def test_four_systems_side_by_side(house):
    assert evaluated().exit_code == 0
    metrics = read_json(Path("reports/d/figures/metrics.json"))
    assert list(metrics) == SYSTEMS
    for system, own in metrics.items():
        for measure in MEASURES:
            assert list(own[measure]) == ["mean", "low", "high"]
            if own[measure]["mean"] is not None:
                assert own[measure]["low"] <= own[measure]["mean"] <= own[measure]["high"]
        assert (own["latency_ms_p50"]["mean"] is None) == (system == "teacher")
    assert metrics["teacher"]["normalised_match_macro"]["mean"] == 1  # lower case is no mistake
    assert metrics["teacher"]["ast_match"]["mean"] < 1
    assert metrics["student_grammar"]["valid_call"] == {"mean": 1, "low": 1, "high": 1}
    assert metrics["student"]["valid_call"]["mean"] < 1  # random weights
    figures = read_json(Path("reports/d/figures/evaluate.json"))
    assert figures["task"] == "skills" and figures["rows"] == 12 and figures["teacher"] == {"embedded": 15}
    assert {skill: own["rows"] for skill, own in figures["per_skill"]["base"].items()} == dict.fromkeys(
        sorted(SKILLS), 4
    )
    details = read_json(Path("reports/d/figures/calls.json"))
    assert details["leaks"]["test"] == 12 and list(details["systems"]) == SYSTEMS
    assert len(read_json(Path("reports/d/figures/plots/confusion.json"))) == 12


PEOPLE = [
    {"user": "is it warm in Rome 5", "answer": 'weather(location="Rome 5")'},
    {"user": f"so {HOSTILE} he said", "answer": "other()"},
]


def test_requests_in_peoples_wording_are_scored_apart(chain):
    evaluated()
    before = read_json(Path("reports/d/figures/evaluate.json"))
    assert before["people"] == {} == read_json(Path("reports/d/figures/calls.json"))["people"]
    write_jsonl(EVAL_ROWS, PEOPLE)
    assert evaluated().exit_code == 0
    after = read_json(Path("reports/d/figures/evaluate.json"))
    people = after["people"]
    assert {**after, "people": {}} == before and people["rows"] == 2
    assert list(people["systems"]) == SYSTEMS[1:3]  # nobody asks base and teacher
    for own in people["systems"].values():
        assert own["valid_call"].keys() == {"mean", "low", "high"} and "latency_ms_p50" not in own
    assert people["systems"]["student_grammar"]["valid_call"]["mean"] == 1
    mistakes = read_json(Path("reports/d/figures/calls.json"))["people"]
    assert list(mistakes["student"]["per_skill"]) == ["other", "weather"]
    assert {row["user"] for row in mistakes["student"]["wrong"]} == {row["user"] for row in PEOPLE}
    invoke(report, ["d"])
    page = Path("reports/d/report.html").read_text()
    assert re.findall("<h2>(.*?)</h2>", page)[0] == "In people’s wording"
    assert "not logged from users" in page and "is it warm in Rome 5" in page and "<script" not in page
    lines = build.headline("d")
    assert "means over 12 held-out requests (fewer than 30 say little: hold out more)\n" in lines
    assert "2 requests in people's wording" in lines and "not logged from users" in lines


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            {"user": "Weather, 12.", "answer": "other()"},
            "'Weather, 12.' stands in training, too (data/",
        ),
        (
            {"user": "Notes please", "answer": "other()"},
            "too (an example of the skill notes",
        ),
        ({"user": "zzz", "answer": "sleep()"}, "field 'answer': no skill is called 'sleep'"),
        ({"user": "zzz", "call": "other()"}, "answer: Field required; expected user, answer"),
    ],
)
def test_a_bad_row_in_peoples_wording_fails_the_stage(house, row, told):
    write_jsonl(EVAL_ROWS, [PEOPLE[0], row])
    result = evaluated()
    assert result.exit_code == 2 and f"{EVAL_ROWS}, row 2: " in result.output and told in result.output
    assert not Path("reports/d/figures/metrics.json").exists()


def test_all_but_latency_is_the_same_again(house):
    def files():
        paths = [path for path in Path("reports/d").rglob("*") if path.is_file()]
        made = [path for path in paths if path.parent.name != "time" and path.stem != "skills"]
        return {path: path.read_bytes() for path in made}

    evaluated()
    before = files()
    for path in before:
        path.unlink()
    evaluated()
    after = files()
    changed = {path.name for path in before if before[path] != after[path]}
    assert before.keys() == after.keys() and changed <= {"metrics.json"}


def test_the_grammar_writes_calls(house):
    evaluated(latency_requests=0)
    rows = read_json(Path("reports/d/figures/samples.json"))
    assert {row["user"] for row in rows} == {document(n)["text"] for n in range(12)}
    for row in rows:
        assert parse_call(row["student_grammar"]).name in SKILLS
    metrics = read_json(Path("reports/d/figures/metrics.json"))
    assert metrics["student"]["latency_ms_p50"]["mean"] is None


def test_written_calls_are_read_as_in_serving():
    from stages.kinds.skills.parts.task import as_served

    for text in ('weather(location="New York")', "### Assistant: weather(location='New York')"):
        assert as_served(text) == 'weather(location="New York")'
    assert as_served("so\nweather()") == "so\nweather()"


def test_requests_are_the_asked_ones_lowest_hash_first(house):
    evaluated(limit=5, latency_requests=0)
    assert read_json(Path("reports/d/figures/evaluate.json"))["rows"] == 5
    first = [row["id"] for row in read_json(Path("reports/d/figures/samples.json"))]
    evaluated(limit=7, latency_requests=0)
    assert [row["id"] for row in read_json(Path("reports/d/figures/samples.json"))][:5] == first
    kept = [json.loads(line) for line in Path("data/d/responses.jsonl").read_text().splitlines()]
    write_jsonl(Path("data/d/responses.jsonl"), [row for row in kept if row["id"] in ("r00", "r03", "r13")])
    result = evaluated(latency_requests=0)
    assert read_json(Path("reports/d/figures/evaluate.json"))["skills_without_rows"] == ["notes", "other"]
    assert "no held-out request for notes, other" in result.output


def test_what_is_too_long_gets_no_answer(house):
    long = {**document(0), "text": "weather " * 500}
    write_corpus([long, document(1), document(12, "train")])
    evaluated(latency_requests=1)
    assert read_json(Path("reports/d/figures/evaluate.json"))["too_long"] == dict.fromkeys(SYSTEMS[:3], 1)
    texts = {row["id"]: row["student_grammar"] for row in read_json(Path("reports/d/figures/samples.json"))}
    assert texts["r00"] == "" and texts["r01"]


def test_refused_answers_of_the_teacher_are_no_calls():
    row = {"id": "r", "outcome": "ok", "response": "other()", "accepted": True}
    assert evaluate_calls.label(row) == "other()"
    assert evaluate_calls.label({**row, "accepted": False}) == ""
    assert evaluate_calls.label({**row, "response": "I cannot"}) == ""
    assert evaluate_calls.label({**row, "form": "json"}) == ""


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("no test", "no request of split 'test'"),
        ("call", "document 'r01', metadata.call: no skill is called 'sleep'"),
        ("model", "models/d/hf: no config.json"),
        ("base", "models/base/b: no config.json"),
        ("grammar", "grammar.lark: no such file"),
        ("pulled student", "models/d/hf/model.safetensors: edited or damaged"),
        ("pulled base", "models/base/b/model.safetensors: edited or damaged"),
    ],
)
def test_what_is_missing_is_named(house, harm, told):
    if harm == "no test":
        write_corpus([document(n, "train") for n in range(3)])
    elif harm == "call":
        write_corpus([document(0), document(1, call="sleep()")])
    elif harm == "grammar":
        Path("data/d/skills/grammar.lark").unlink()
    elif harm.startswith("pulled"):
        weights = Path("models/d/hf" if harm == "pulled student" else "models/base/b", "model.safetensors")
        weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    else:
        shutil.rmtree("models/d/hf" if harm == "model" else "models/base/b")
    result = evaluated(latency_requests=0)
    assert result.exit_code == 2 and told in result.output and "Traceback" not in result.output


@pytest.fixture
def params(house):
    blocks = {
        "evaluate_calls": {"d": {**KNOBS, "latency_requests": 1}},
        "collect": {"d": {"base_url": "http://x"}},
    }
    write_json(Path("params.yaml"), blocks)  # JSON is YAML


ROWS = [
    {"user": "weather in Rome 1", "answer": "weather(location='Rome 1')"},
    {"input": "hm", "output": "other()"},
    {"input": "sleep", "target": "sleep()"},
]


def rows_scored(*arguments, rows: str = ""):
    write_text(Path("rows.json"), rows or json.dumps(ROWS))
    return run(evaluate_rows.cli, "d", "--rows=rows.json", "--out=out/scores.json", *arguments)


def test_rows_of_any_file_are_scored(params):
    result = rows_scored()
    assert (
        result.exit_code == 0 and "2 of 3 rows scored; row 3 is the first left out: no skill" in result.output
    )
    found = read_json(Path("out/scores.json"))
    assert list(found["systems"]) == SYSTEMS[:3] and found["file"] == "rows.json"
    assert found["systems"]["student_grammar"]["valid_call"]["mean"] == 1
    assert [row["user"] for row in found["predictions"]] == ["weather in Rome 1", "hm"]
    assert list(found["predictions"][0]) == ["user", "gold", *SYSTEMS[:3]]
    assert found["left_out"][0]["row"] == 3
    assert set(MEASURES) <= found["systems"]["base"].keys() >= {"per_skill", "confusion"}


def test_some_systems_alone(params):
    shutil.rmtree("models/base/b")
    assert rows_scored("--systems=student_grammar").exit_code == 0
    assert list(read_json(Path("out/scores.json"))["systems"]) == ["student_grammar"]


@pytest.mark.parametrize(
    ("arguments", "rows", "told"),
    [
        ([], '[{"user": "a"}]', "rows.json, row 1: expected"),
        ([], '[{"user": "a", "answer": "sleep()"}]', "no row with a call of d"),
        (["--systems=sudent"], "", "none is called 'sudent'"),
        (["--systems="], "", "--systems: none is called ''; expected some of base, student"),
        (["--out=models"], "", "--out: models is a folder"),
        (["--out=rows.json/x/y.json"], "", "rows.json is no folder"),
        (["--teacher"], "", "params.yaml, prompt: no block for 'd'"),
    ],
)
def test_bad_rows_end_with_two(params, arguments, rows, told):
    result = rows_scored(*arguments, rows=rows)
    assert result.exit_code == 2 and told in result.output and not Path("out").exists()


def test_the_embedded_teacher_labels_rows(params):
    blocks = read_json(Path("params.yaml"))
    blocks["collect"] = {"d": {}}
    blocks["prompt"] = {"d": {"template": "prompts/d/teacher.md", "task": "skills"}}
    write_json(Path("params.yaml"), blocks)
    write_text(Path("prompts/d/teacher.md"), "Say anything about {{ document.text }}")
    assert rows_scored("--systems=student").exit_code == 0
    found = read_json(Path("out/scores.json"))
    assert list(found["systems"]) == ["student", "teacher"]
    assert not Path("data/teacher").exists() and not Path("data/d/requests.jsonl").exists()


@pytest.fixture
def chain(house):
    """The graph, and params in which the dataset has a block for each stage of its kind."""
    graph = re.sub(r"(?m)^  - prompts/.*\n", "", (ROOT / "dvc.yaml").read_text())
    write_text(Path("dvc.yaml"), graph)
    write_text(Path("params.yaml"), "".join(f"{stage}:\n  d: {{}}\n" for stage in CHAIN))


def test_the_page_of_a_dataset_of_skills(chain):
    evaluated()
    write_json(
        Path("reports/d/figures/candidates.json"),
        {"offered": {"file": 30, "teacher": 70}, "candidates": 80, "left_out": {"near duplicate": 20}},
    )
    decisions = {"accept": 40, "edit": 2, "reject": 8, "unreviewed": 30}
    corpus = {"documents": 60, "splits": {"test": 12, "train": 48}, "decisions": decisions}
    write_json(Path("reports/d/figures/corpus.json"), corpus)
    assert invoke(report, ["d"]).exit_code == 0
    page = Path("reports/d/report.html").read_text()
    assert re.findall("<h2>(.*?)</h2>", page) == [
        "From briefs to data",
        "How good the calls are",
        "Calls by skill",
        "Which skills are mixed up",
        "Requests it never saw",
        "Mistakes and leaks",
        "What it took",
        "Where it comes from",
    ]
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import|https?://""", page)
    assert "decided by people" in page and "40 accept, 2 edit, 8 reject, 30 unreviewed" in page
    assert "left out: 20 near duplicate" in page and "+ grammar" in page
    assert "Milliseconds a request" in page and "stand-in for an LLM" in page
    for name in SKILLS:
        assert f"<code>{name}</code>" in page
    invoke(report, ["d"])
    assert Path("reports/d/report.html").read_text() == page


def test_a_page_with_few_figures_has_few_sections(chain):
    evaluated(latency_requests=0)
    (Path("reports/d/figures/calls.json")).unlink()
    invoke(report, ["d"])
    page = Path("reports/d/report.html").read_text()
    assert "How good the calls are" in page and "Calls by skill" not in page and "Milliseconds" not in page
    assert "pages" not in page.split("</style>")[1]
