"""The generate stage: rows depend on no shard or worker, a killed run goes on, readers refuse."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stages.baseline import run as baseline
from stages.core import files, layout
from stages.core.errors import UserError
from stages.core.hashing import model_fingerprint, sha256_json, shard_of, stable_integer, stable_unit
from stages.core.shards import iter_generated, shard_name
from stages.generate import plan, work
from stages.generate import run as generate
from stages.kinds import registry
from stages.knobs import BaselineKnobs, GenerateKnobs
from tests.helpers.completions import completions, decoding
from tests.helpers.shards import read_generated, write_generated
from tests.helpers.tiny import WORDS, tiny_model

pytestmark = pytest.mark.slow  # loads models

DECODING = {
    "engine": "transformers",
    "temperature": 1.0,
    "top_p": 0.9,
    "n": 2,
    "max_new_tokens": 8,
    "batch_size": 16,
    "threads": 1,
}


def document(number: int, split: str = "train") -> dict:
    words = WORDS.split()
    text = " ".join(words[(7 * number + i * i) % len(words)] for i in range(5 + number % 30))
    return {
        "id": f"doc-{number:03d}",
        "title": f"page {number}",
        "text": text,
        "metadata": {},
        "split": split,
    }


def write_corpus(documents: list[dict]) -> None:
    with files.atomic_directory(Path("data/d/corpus"), "corpus") as directory:
        files.write_jsonl(directory / "documents.jsonl", documents)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "hf", "llama")


@pytest.fixture
def house(tmp_path, monkeypatch, model):
    """A repository with a tiny student and twenty pages, four of them held out."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, "models/d/hf")
    files.write_text(Path("prompts/d/student.md"), "{{ document.title }} {{ document.text }}")
    write_corpus([document(i, "test" if i % 5 == 0 else "train") for i in range(20)])
    return tmp_path


@pytest.fixture
def student():
    with completions() as running:
        yield running


def shard_bytes() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("data/d/generated").iterdir()}


def scratch_files() -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path("data/.work").glob("generate-d-*/*.jsonl")}


@pytest.mark.slow
def test_rows_are_the_same_whatever_the_shards_and_workers(house):
    found, metrics = [], []
    for shards, workers in ((1, 1), (8, 2)):
        shutil.rmtree("data/.work", ignore_errors=True)
        metrics.append(generate("d", GenerateKnobs(**DECODING, shards=shards, workers=workers)))
        found.append(read_generated(Path("data/d/generated")))
        names = sorted(path.name for path in Path("data/d/generated").glob("*.parquet"))
        assert names == [shard_name(i) for i in range(shards)]
    assert found[0] == found[1] and metrics[0] == metrics[1]
    assert [(row["document_id"], row["sample"]) for row in found[0]] == [
        (f"doc-{i:03d}", sample) for i in range(20) for sample in range(2)
    ]
    assert len({row["text"] for row in found[0]}) > 30  # samples differ
    assert metrics[0]["documents"] == 20 and metrics[0]["rows"] == 40
    assert metrics[0]["generated_tokens"] == sum(row["generated_tokens"] for row in found[0])
    for row in found[0]:
        assert row["logprob"] < 0 and len(row["line_logprobs"]) == len(row["text"].split("\n"))


def test_held_out_documents_are_those_that_prompt_asks_for(house, student):
    generate("d", GenerateKnobs(**decoding(student), shards=4, share=0, test_documents=2))
    held_out = (f"doc-{i:03d}" for i in range(0, 20, 5))
    first = sorted(held_out, key=lambda name: stable_integer("prompt", name))[:2]
    assert {row["document_id"] for row in read_generated(Path("data/d/generated"))} == {*first}


def test_a_new_document_renews_its_shard_alone_and_share_is_by_hash(house, capfd, student):
    knobs = GenerateKnobs(**decoding(student), shards=4, share=0.5)
    generate("d", knobs)
    before, bytes_before = scratch_files(), shard_bytes()
    chosen = {row["document_id"] for row in read_generated(Path("data/d/generated"))}
    assert chosen == {
        f"doc-{i:03d}" for i in range(20) if i % 5 == 0 or stable_unit("share", f"doc-{i:03d}") < 0.5
    }
    capfd.readouterr()
    generate("d", knobs)
    assert "4 shards, 4 of them made before" in capfd.readouterr().err
    assert scratch_files() == before and shard_bytes() == bytes_before

    write_corpus([*(document(i, "test" if i % 5 == 0 else "train") for i in range(20)), document(20, "test")])
    generate("d", knobs)
    assert "4 shards, 3 of them made before" in capfd.readouterr().err
    after = scratch_files()
    assert len(after) == 4 and len(before.items() & after.items()) == 3
    changed = {name for name, content in shard_bytes().items() if bytes_before[name] != content}
    assert changed == {shard_name(shard_of("doc-020", 4)), "manifest.json"}

    other = Path("data/.work/generate-d-" + "0" * 16)
    other.mkdir()
    (kept := Path("data/.work/generate-d-e-" + "0" * 16)).mkdir()
    files.write_text(Path("prompts/d/student.md"), "{{ document.title }}: {{ document.text }}")
    generate("d", knobs)
    assert not other.exists() and kept.exists()
    assert not scratch_files().keys() & after.keys()


def test_only_documents_that_may_be_written_for_are(house, monkeypatch):
    def written_for(share: float) -> list[str]:
        rows = list(work("d", layout.model("d", "hf"), GenerateKnobs(**DECODING, share=share)))
        assert len({seed for row in rows for seed in row["seeds"]}) == 2 * len(rows)
        return [row["document_id"] for row in rows]

    monkeypatch.setattr("stages.generate.BLOCK", 4)
    splits = ["train", "val", "test", "xc_test", "empty", "train", "test"]
    write_corpus([document(i, split) for i, split in enumerate(splits)])
    assert written_for(1.0) == [f"doc-{i:03d}" for i in (0, 1, 2, 5, 6)]
    assert written_for(0.0) == ["doc-002", "doc-006"]
    write_corpus([document(i, split) for i, split in enumerate(splits[3:5])])
    with pytest.raises(UserError, match="no held-out document and none by share"):
        generate("d", GenerateKnobs(**DECODING))


@pytest.mark.slow
def test_rows_saved_without_log_probabilities_are_not_read_and_the_task_parses(house, monkeypatch):
    from stages.engines import load, protocol
    from stages.engines.jobs import items

    model, knobs = layout.model("d", "hf"), GenerateKnobs(**{**DECODING, "n": 1}, shards=1, task="categories")
    asked = protocol.Decoding(**knobs.model_dump(include=set(protocol.Decoding.model_fields)))
    decoding = load.resolve(asked)
    before = [model_fingerprint(model), decoding.model_dump(), load.engine_versions(decoding)]
    scratch, job = plan("generate", "d", model, knobs)
    stale = Path(f"data/.work/generate-d-{sha256_json(before)[:16]}/{items.finished_name(job.items[0])}")
    own = list(items.todo(scratch, job.items[0].key))
    numbers = {"finish_reason": "stop", "prompt_tokens": 1, "generated_tokens": 1}
    saved = [{"document_id": row.document_id, "sample": 0, "text": "stale", **numbers} for row in own]
    files.write_jsonl(stale, saved)
    task = replace(registry.task("categories"), parse=lambda text: ["categories"])
    monkeypatch.setattr(registry, "task", lambda name: task)
    generate("d", knobs)
    assert not stale.exists()
    rows = read_generated(Path("data/d/generated"))
    assert len(rows) == 20 and all(row["queries"] == ["categories"] for row in rows)
    assert all(row["text"] != "stale" and row["logprob"] < 0 for row in rows)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(house, monkeypatch):
    knobs = {**DECODING, "max_new_tokens": 64, "batch_size": 2, "shards": 2}
    generate("d", GenerateKnobs(**knobs))
    whole, metrics = shard_bytes(), None
    shutil.rmtree("data/d/generated")
    shutil.rmtree("data/.work")

    flags = [part for key, value in {**knobs, "workers": 2}.items() for part in (f"--{key}", str(value))]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-m", "stages", "generate", "d", *flags]
    running = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while sum(_lines(path) for path in Path("data/.work").glob("generate-d-*/*.part")) < 4:
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    _settled()  # the workers end by themselves when their parent is gone
    assert not Path("data/d/generated").exists()
    saved = {path: path.read_bytes() for path in Path("data/.work").glob("generate-d-*/*.part")}
    rows = sum(content.count(b"\n") for content in saved.values())
    assert 4 <= rows < 40
    torn = next(iter(saved))
    torn.write_bytes(saved[torn] + b'{"document_id": "doc-0')

    monkeypatch.setattr("stages.generate.prune", lambda scratch, used: None)
    metrics = generate("d", GenerateKnobs(**knobs))
    assert shard_bytes() == whole and metrics["rows"] == 40
    parts = Path("data/.work").glob("generate-d-*/*.part")
    assert sum(map(_lines, parts)) == 40  # what was finished was not made again


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def _settled() -> None:
    """Wait until nothing writes to scratch any more."""
    last, since = None, time.monotonic()
    while time.monotonic() - since < 1.5:
        now = {path: path.stat().st_size for path in Path("data/.work").glob("generate-d-*/*.part")}
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(0.1)


@pytest.mark.slow
def test_the_baseline_writes_for_held_out_pages_only_and_openvino_is_the_default(house, model):
    shutil.copytree(model, "models/base/tiny")
    knobs = BaselineKnobs(base="tiny", shards=2, max_new_tokens=8)
    metrics = baseline("d", knobs)
    rows = read_generated(Path("data/d/baseline"))
    assert [row["document_id"] for row in rows] == ["doc-000", "doc-005", "doc-010", "doc-015"]
    assert metrics["documents"] == 4 and knobs.engine == "openvino"
    assert files.read_json(Path("data/d/baseline/manifest.json"))["producer"] == "baseline"


def test_answers_are_held_to_the_grammar_beside_the_corpus(house):
    knobs = GenerateKnobs(**DECODING | {"shards": 2, "grammar": True})
    with pytest.raises(UserError, match=r"corpus/grammar\.lark: no such file"):
        plan("generate", "d", layout.model("d", "hf"), knobs)
    with files.atomic_directory(Path("data/d/corpus"), "corpus") as directory:
        files.write_jsonl(directory / "documents.jsonl", [document(i, "test") for i in range(3)])
        files.write_text(directory / "grammar.lark", 'start: "cat" | "dog"')
    generate("d", knobs)
    rows = read_generated(Path("data/d/generated"))
    assert len(rows) == 6 and {row["text"] for row in rows} <= {"cat", "dog"}


def test_what_the_user_can_mend_is_said_before_anything_is_made(house):
    def refused(match: str, **knobs) -> None:
        with pytest.raises(UserError, match=match):
            generate("d", GenerateKnobs(**{**DECODING, **knobs}))
        assert not Path("data/d/generated").exists() and not list(Path("data/.work").glob("*/*"))

    refused("'doc-0.*its prompt has .* tokens.*context of 256.*lower max_new_tokens", max_new_tokens=250)
    refused("samples at temperature 0", temperature=0)
    files.write_text(Path("prompts/d/student.md"), "{{ document.body }}")
    refused("prompts/d/student.md: .*body")
    tokenizer = Path("models/d/hf/tokenizer_config.json")
    tokenizer.write_text(tokenizer.read_text().replace("<", "["))
    refused("models/d/hf/tokenizer_config.json: edited or damaged")
    shutil.rmtree("models/d/hf")
    refused("models/d/hf: no config.json")


def test_an_undefined_knob_and_a_missing_model_end_with_code_2(house):
    for arguments, said in ((["--engine", "magic"], "engine"), (["--engine", "vllm"], "vllm")):
        command = [sys.executable, "-m", "stages", "generate", "d", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ended.returncode == 2 and said in ended.stderr.splitlines()[-1]
        assert "Traceback" not in ended.stderr


# Readers: what they refuse


@pytest.fixture
def shards(tmp_path):
    """Three sound shards of thirty rows, and a way to sign a directory again after an edit."""
    rows = [
        {
            "document_id": f"doc-{i // 2:03d}",
            "sample": i % 2,
            "text": f"line {i}\nother",
            "queries": [f"line {i}", "other"],
            "finish_reason": "stop",
            "prompt_tokens": 5,
            "generated_tokens": 3,
            "logprob": -1.5 - i / 10,
            "line_logprobs": [-0.5, None] if i % 3 else None,
        }
        for i in range(30)
    ]
    write_generated(tmp_path / "generated", rows, 3, "generate")
    return tmp_path / "generated", rows


def sign(directory: Path) -> None:
    import pyarrow.parquet as pq

    counts = {path.name: pq.read_metadata(path).num_rows for path in directory.glob("*.parquet")}
    files.write_manifest(directory, "generate", counts)


def test_sound_shards_are_read_and_written_the_same_in_any_order(shards, tmp_path):
    directory, rows = shards
    assert read_generated(directory) == rows
    some = list(iter_generated(directory, ["text"]))
    assert some == [{key: row[key] for key in ("document_id", "sample", "text")} for row in rows]
    write_generated(tmp_path / "again", rows[::-1], 3, "generate")
    for path in directory.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def edited(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)


def missing(path: Path) -> None:
    path.unlink()


def duplicated(path: Path) -> None:
    shutil.copy(path.with_name(shard_name(0)), path)


@pytest.mark.parametrize("harm", [torn, edited, missing, duplicated])
@pytest.mark.parametrize("signed", [False, True])
def test_a_harmed_shard_is_refused_by_its_name(shards, harm, signed):
    directory, _ = shards
    harm(directory / shard_name(1))
    if signed and harm in (missing, duplicated):
        sign(directory)
    with pytest.raises(UserError, match=shard_name(1)):
        read_generated(directory)


def test_a_copy_beside_the_shards_is_refused(shards):
    directory, _ = shards
    shutil.copy(directory / shard_name(1), directory / shard_name(3))
    with pytest.raises(UserError, match=f"{shard_name(3)}: not listed"):
        read_generated(directory)


def rewritten(directory: Path, shard: int, rows: list[dict]) -> None:
    """Put `rows` in a shard with everything else, its checksum and count included, in order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = directory / shard_name(shard)
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), path)
    sign(directory)


def test_a_repeated_row_and_a_row_of_another_shard_are_refused(shards):
    directory, rows = shards
    own = [row for row in rows if shard_of(row["document_id"], 3) == 2]
    rewritten(directory, 2, [*own, own[0]])
    with pytest.raises(UserError, match=f"{shard_name(2)}: .*occurs twice"):
        read_generated(directory)
    rewritten(directory, 2, own[::-1])
    with pytest.raises(UserError, match=f"{shard_name(2)}: .*in the wrong place"):
        read_generated(directory)
    stranger = next(row for row in rows if shard_of(row["document_id"], 3) == 0)
    rewritten(directory, 2, [*own, {**stranger, "sample": 9}])
    with pytest.raises(UserError, match=f"{shard_name(2)}: document .* belongs to {shard_name(0)}"):
        read_generated(directory)


def test_a_shard_of_other_columns_is_refused(shards):
    import pyarrow.parquet as pq

    directory, _ = shards
    path = directory / shard_name(1)
    pq.write_table(pq.read_table(path).drop_columns(["logprob", "line_logprobs"]), path)
    sign(directory)
    with pytest.raises(UserError, match=f"{shard_name(1)}: its columns are .*, not a shard's"):
        next(iter_generated(directory, ["text"]))


def test_a_wrong_row_count_and_a_file_that_is_no_parquet_are_refused(shards):
    directory, _ = shards
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"][shard_name(0)]["rows"] += 1
    files.write_json(directory / "manifest.json", manifest)
    with pytest.raises(UserError, match=f"{shard_name(0)}: .* rows, its manifest says"):
        read_generated(directory)
    (directory / shard_name(0)).write_text("PAR1 and nothing else PAR1")
    files.write_manifest(directory, "generate", {})
    with pytest.raises(UserError, match=f"{shard_name(0)}: not a whole Parquet file"):
        read_generated(directory)
