"""Scoring: the formula against plain transformers, prompts cut to fit, scores that are kept, a server."""

import math
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from stages.core.errors import UserError
from stages.core.files import read_jsonl, write_manifest
from stages.core.stage import valid
from stages.kinds.retriever import score as stage
from stages.kinds.retriever.knobs import ScoreKnobs
from stages.kinds.retriever.parts.lm_scoring import LanguageModel, Prompt, Server, score_prompts, text_prompt
from stages.kinds.retriever.parts.prompts import Prompts, answer_of, candidates
from stages.kinds.retriever.parts.rows import Task, write_tasks
from stages.student.fast.prefixes import QUERIES
from stages.student.formats import from_hf
from tests.helpers.completions import answering
from tests.helpers.tiny import WORDS, tiny_model

ROOT = Path(__file__).parents[3]
KEY = "sort values of an array along axis"
TEXTS = [(f"{KEY}\nread csv file {'frame ' * (n % 9)}", f"return {'mean ' * (1 + n % 4)}") for n in range(24)]


def base_model(folder: Path, kind: str, name: str) -> Path:
    directory = folder / name
    directory.mkdir(parents=True)
    from_hf.import_base(tiny_model(folder / f"hf-{name}", kind), directory, chat=True)
    write_manifest(directory, "base", {})
    return directory


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: base_model(folder, kind, kind) for kind in ("llama", "pythia", "qwen3")}


@pytest.fixture(scope="module")
def llama(bases) -> LanguageModel:
    return LanguageModel(bases["llama"], "32-true", 256)


def plain_score(directory: Path, prompt: Prompt) -> float:
    """The formula, word for word: transformers, one prompt at a time."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.inference_mode():
        logprobs = model(torch.tensor([prompt.before + prompt.answer])).logits[0].log_softmax(-1)
    start = len(prompt.before) - 1
    return sum(float(logprobs[start + n, token]) for n, token in enumerate(prompt.answer)) / len(
        prompt.answer
    )


@pytest.mark.parametrize("kind", ["llama", "pythia", "qwen3"])
def test_the_formula_is_that_of_transformers(bases, kind):
    model = LanguageModel(bases[kind], "32-true", 256)
    assert model.plain == (kind != "qwen3")  # whose attention is litgpt's own
    prompts = [text_prompt(model.codec, *texts, shared=len(KEY)) for texts in TEXTS[:6]]
    expected = [plain_score(bases[kind], prompt) for prompt in prompts]
    assert score_prompts(model, prompts) == pytest.approx(expected, abs=1e-5)
    assert score_prompts(model, TEXTS[:6]) == pytest.approx(expected, abs=1e-5)


def test_long_prompts_and_beginnings_are_looked_at_part_by_part(bases, llama):
    words = WORDS.split()[:50]
    text = " ".join(words)
    prompts = [
        text_prompt(llama.codec, f"{text} {' '.join(words[start:])}", " of all", shared=len(text))
        for start in (0, 10)
    ]
    for prompt in prompts:  # more than a part, no multiple of it
        assert min(len(prompt.shared), len(prompt.own)) > QUERIES and len(prompt.own) % QUERIES
    expected = [plain_score(bases["llama"], prompt) for prompt in prompts]
    assert score_prompts(llama, prompts) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_a_score_depends_on_its_prompt_alone(bases, kind, precision):
    model = LanguageModel(bases[kind], precision, 256)
    prompts = [text_prompt(model.codec, *texts, shared=len(KEY)) for texts in TEXTS]
    together = score_prompts(model, prompts)
    assert score_prompts(model, prompts[::-1]) == together[::-1]
    assert [score_prompts(model, [prompt])[0] for prompt in prompts[::5]] == together[::5]


def test_a_prompt_longer_than_a_pass_has_one_of_its_own(bases, llama):
    long = (" ".join(WORDS.split()[:70]), " of all")
    small = LanguageModel(bases["llama"], "32-true", 32)
    prompt = text_prompt(small.codec, *long)
    assert len(prompt.before) > 32
    assert score_prompts(small, [long, TEXTS[0]]) == pytest.approx(score_prompts(llama, [long, TEXTS[0]]))


@pytest.mark.parametrize("texts", [("a prompt", ""), (" ".join(WORDS.split() * 4), "answer")])
def test_prompts_that_cannot_be_scored_are_told(llama, texts):
    with pytest.raises(UserError, match="prompt 2 of 2"):
        score_prompts(llama, [TEXTS[0], texts])


def test_kept_scores_are_read_and_a_torn_line_is_not(llama, tmp_path, monkeypatch):
    kept = tmp_path / "scores.txt"
    expected = score_prompts(llama, TEXTS, kept)
    lines = kept.read_text().splitlines(keepends=True)
    assert len(lines) == len({text_prompt(llama.codec, *texts).key for texts in TEXTS})  # each once
    kept.write_text("".join(lines[:4]) + lines[4][:50])
    asked = []
    batches = llama.batches
    monkeypatch.setattr(llama, "batches", lambda prompts: asked.extend(prompts) or batches(prompts))
    assert score_prompts(llama, TEXTS, kept) == expected
    assert len(asked) == len(lines) - 4
    assert sorted(kept.read_text().splitlines(keepends=True)) == sorted(lines)
    assert score_prompts(llama, TEXTS, kept) == expected
    assert len(asked) == len(lines) - 4


def knobs_of(**fields) -> ScoreKnobs:
    return ScoreKnobs(
        **{"base": "tiny", "max_length": 200, "tokens_per_batch": 256, "precision": "32-true"} | fields
    )


def made(llama, task: str, fields: dict, key: str, **knobs) -> tuple[str, str, int]:
    prompts = Prompts(task, llama.codec, knobs_of(**knobs))
    (prompt,) = prompts.of({"query": " q ", "answers": [" a "]} | fields, [key], " a ")
    decode = llama.codec.tokenizer.decode
    return decode(prompt.before, skip_special_tokens=True), decode(prompt.answer), prompts.cut


@pytest.mark.parametrize(
    "task, fields, before, answer",
    [
        ("qa", {}, "Knowledge: key\n\nQuestion: q\n\nAnswer: ", "a"),
        ("convsearch", {}, "Knowledge: key\n\nQuestion: q\n\nAnswer: ", "a"),
        ("chat", {}, "key\nSpeaker 1: q\nSpeaker 2: ", "a"),
        ("icl", {"query": "{key}"}, "key\n{key}\n", "a"),
        ("tool", {}, "Tool: key\n\nRequest: q\n\nCall: ", "a"),
        ("lrlm", {"context": "context"}, " key context q ", " a "),
    ],
)
def test_the_wording_of_a_task(llama, task, fields, before, answer):
    assert made(llama, task, fields, " key ") == (before, answer, 0)


def test_a_key_is_cut_first_and_then_the_beginning(llama):
    key = " ".join(f"w{n}" for n in range(300))
    before, _, cut = made(llama, "icl", {}, key, key_max_length=10)
    assert cut == 1 and before.endswith("\nq\n") and key.startswith(before[: -len("\nq\n")])
    for query in (" ".join(WORDS.split()[:40]), " ".join(WORDS.split())):
        prompts = Prompts("qa", llama.codec, knobs_of(max_length=80))
        (prompt,) = prompts.of({"query": query, "answers": ["mean"]}, [key], "mean")
        assert len(prompt.before) + len(prompt.answer) <= 80
        assert llama.codec.tokenizer.decode(prompt.before).endswith(f"{query[-30:]}\n\nAnswer: ")


def test_a_key_of_a_megabyte_is_not_read_whole(llama):
    started = time.monotonic()
    before, _, cut = made(llama, "icl", {}, WORDS * 2000)
    assert (cut, before.startswith(WORDS[:100]), before.endswith("\nq\n")) == (1, True, True)
    assert time.monotonic() - started < 0.5


def test_one_answer_a_row_and_blank_ones_are_none():
    row = {"id": "r", "answers": ["", " ", "one", "two"]}
    assert {answer_of(row | {"id": str(n)}, 1) for n in range(20)} == {"one", "two"}
    assert answer_of(row, 1) == answer_of(row, 1)
    assert answer_of({"id": "r", "answers": [" "]}, 1) is answer_of({"id": "r"}, 1) is None


@pytest.mark.parametrize(
    "pos, neg, keys, expected", [(1, 9, 4, (1, 3)), (5, 9, 4, (5, 2)), (0, 9, 4, (0, 4)), (1, 0, 4, (1, 0))]
)
def test_positives_are_all_scored_and_negatives_up_to_a_number(pos, neg, keys, expected):
    row = {"pos": ["p"] * pos, "neg": ["n"] * neg}
    assert tuple(map(len, candidates(row, keys))) == expected


def project(bases, rows: list[dict] | None = None) -> None:
    """data/d/mined and models/base/tiny in the working directory."""
    Path("models/base").mkdir(parents=True)
    os.symlink(bases["llama"], "models/base/tiny")
    words = WORDS.split()
    keys = {f"k{n}": " ".join(words[n : n + 12]) for n in range(9)}
    rows = rows or [
        {"id": f"r{n}", "query": words[n], "pos": ["k0"], "neg": [f"k{1 + (n + m) % 8}" for m in range(4)],
         "answers": [words[n + 3]], "group": "g"} for n in range(6)
    ]  # fmt: skip
    task = Task(keys, {"train": rows, "val": rows[:1], "test": rows[:1]})
    write_tasks(Path("data/d/mined"), "mine", {"qa": task, "tool": task})


def scored(task: str = "qa", split: str = "train") -> list[dict]:
    return read_jsonl(Path("data/d/scored") / task / f"{split}.jsonl")


def test_the_stage_scores_positives_then_negatives(bases, llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project(bases)
    figures = stage.run("d", knobs_of(keys=4))
    texts = {key["id"]: key["text"] for key in read_jsonl(Path("data/d/scored/qa/keys.jsonl"))}
    for row in scored():
        assert len(row["neg"]) == 3
        prompts = [
            f"Knowledge: {texts[key]}\n\nQuestion: {row['query']}\n\nAnswer: "
            for key in row["pos"] + row["neg"]
        ]
        expected = score_prompts(llama, [(prompt, row["answers"][0]) for prompt in prompts])
        assert row["teacher_scores"] == pytest.approx(expected, abs=1e-5)
    assert all("teacher_scores" in row for row in scored(split="val") + scored(split="test"))
    assert "teacher_scores" not in scored("tool")[0] and len(scored("tool")[0]["neg"]) == 4
    assert figures["tasks"]["qa"] == {"rows": 8, "scored": 8, "cut_keys": 0}


def test_rows_that_cannot_be_scored_pass_and_are_counted(bases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = {"query": "q", "pos": ["k0"], "neg": ["k1"], "group": "g"}
    rows = [
        {"id": "a", **row, "answers": [" "]},
        {"id": "b", **row, "answers": ["x"], "teacher_scores": [1.5, -1.0]},
        {"id": "c", **row, "answers": ["x"], "pos": [], "neg": []},
        {"id": "d", **row},
    ]
    project(bases, rows)
    counts = stage.run("d", knobs_of())["tasks"]["qa"]
    assert counts == {
        "rows": 6,
        "brought": 1,
        "without_answer": 4,
        "without_keys": 1,
        "scored": 0,
        "cut_keys": 0,
    }
    assert scored() == rows


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(bases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project(bases)
    knobs = knobs_of(tokens_per_batch=32)  # a few prompts a batch
    stage.run("d", knobs)
    whole = Path("data/d/scored/qa/train.jsonl").read_bytes()
    (kept,) = Path("data/.work").glob("scores-*.txt")
    lines = len(kept.read_text().splitlines())
    kept.unlink()
    slow = (
        "import time; from stages.kinds.retriever.parts import lm_scoring as s; add = s.Kept.add\n"
        "s.Kept.add = lambda self, scores: (add(self, scores), time.sleep(0.2))\n"
        "from stages.kinds.retriever import score; from stages.kinds.retriever.knobs import ScoreKnobs\n"
        f"score.run('d', ScoreKnobs(**{knobs.model_dump()!r}))"
    )
    command = [sys.executable, "-c", slow]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not (kept.is_file() and len(kept.read_text().splitlines()) > 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 < len(kept.read_text().splitlines()) < lines
    stage.run("d", knobs)
    assert Path("data/d/scored/qa/train.jsonl").read_bytes() == whole
    assert len(kept.read_text().splitlines()) == lines


def test_scores_of_another_model_are_not_read(bases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project(bases)
    stage.run("d", knobs_of())
    first = scored()
    Path("models/base/tiny").unlink()
    os.symlink(bases["pythia"], "models/base/tiny")
    stage.run("d", knobs_of())
    assert all(a["teacher_scores"] != b["teacher_scores"] for a, b in zip(first, scored(), strict=True))
    assert len(list(Path("data/.work").glob("scores-*.txt"))) == 2


def test_a_model_that_reads_less_than_max_length_is_told(bases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project(bases)
    with pytest.raises(UserError, match=r"score\.d: max_length 512 is more than the 256 tokens"):
        stage.run("d", knobs_of(max_length=512))


@pytest.mark.parametrize(
    "fields, problem",
    [
        ({"answer_max_length": 200}, "answer_max_length to be less"),
        ({"base_url": "http://localhost:1/v1"}, "base_url needs model"),
        ({"base_url": "http://user:secret@localhost/v1", "model": "m"}, "without user"),
        ({"api_key_env": "sk-secret"}, "NAME of an environment variable"),
    ],
)
def test_knobs_that_cannot_be_are_told_without_secrets(fields, problem):
    with pytest.raises(UserError, match=problem) as raised:
        valid(ScoreKnobs, {"base": "tiny", "max_length": 200} | fields, "params.yaml, score.d")
    assert "secret" not in str(raised.value)


@contextmanager
def echoing(reply):
    """An OpenAI-compatible server: `reply(body)` gives the log-probabilities of a prompt's tokens."""
    asked = []

    def answer(body: dict) -> dict:
        asked.append(body)
        choice = {"text": "", "finish_reason": "length", "logprobs": {"token_logprobs": reply(body)}}
        return {"choices": [choice]}

    with answering(answer) as url:
        yield url, asked


def test_a_server_scores_by_the_log_probabilities_of_the_prompt(bases, llama):
    # the specification's oracle: log-probabilities of -1 and -3 make a score of -2
    prompt = Prompt((), text_prompt(llama.codec, "a prompt", "").own, (7, 8))
    size = len(prompt.before)
    with echoing(lambda body: [None, *[-9.0] * (size - 1), -1.0, -3.0, -9.0]) as (url, asked):
        assert score_prompts(Server(bases["llama"], url, "m"), [prompt]) == [-2.0]
    assert asked[0]["prompt"] == [*prompt.before, *prompt.answer]
    assert asked[0]["echo"] and asked[0]["logprobs"] == 1


@pytest.mark.parametrize("told", [[None, -1.0], [None] * 40])
def test_a_server_that_does_not_echo_is_told(bases, told):
    message = "has to echo prompts"
    with echoing(lambda body: told) as (url, _), pytest.raises(UserError, match=message):
        score_prompts(Server(bases["llama"], url, "m"), [("a prompt", "sort values")])


def test_the_stage_asks_a_server(bases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project(bases)
    with echoing(lambda body: [None, *[-float(token) for token in body["prompt"][1:]]]) as (url, asked):
        stage.run("d", knobs_of(base_url=url, model="m"))
        first, calls = scored(), len(asked)
        assert all(score < 0 and math.isfinite(score) for row in first for score in row["teacher_scores"])
        stage.run("d", knobs_of(base_url=url, model="m"))
        assert scored() == first and len(asked) == calls
