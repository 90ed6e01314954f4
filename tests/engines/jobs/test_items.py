"""Shards as work items: attempts that do not harm each other, and storage that machines share."""

import json
import shutil
import weakref
from pathlib import Path

import pytest

from stages.core import files, layout
from stages.core.errors import UserError
from stages.core.hashing import shard_of
from stages.core.shards import write_shards
from stages.engines.jobs import items, shared
from stages.engines.protocol import Decoding, Generation
from stages.generate import generate, plan
from stages.generate import run as stage
from stages.knobs import GenerateKnobs
from tests.helpers.completions import completions, decoding, make_project, write_corpus
from tests.helpers.shards import read_generated, write_generated

pytestmark = pytest.mark.slow  # loads models

MODEL = Path("models/d/hf")


@pytest.fixture
def student(tmp_path, monkeypatch):
    """A project of 20 documents, and the server that is their student."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(shared.VARIABLE, raising=False)
    make_project(20)
    with completions() as running:
        yield running


def planned(student, **knobs):
    scratch, job = plan("generate", "d", MODEL, GenerateKnobs(**decoding(student), **knobs))
    return scratch.resolve(), job


class Engine:
    """Says the seed; `between` is called before each answer but the first."""

    def __init__(self, between=lambda: None, stop: int = 1000):
        self.between, self.stop, self.prompts = between, stop, []

    def generate(self, prompts, sampling, seeds, grammar=None):
        self.prompts += prompts
        for index in reversed(range(len(prompts))):
            if len(prompts) - index > self.stop:
                raise ConnectionError("killed")
            yield Generation(index, str(seeds[index]), "stop", 1, 1, -1.0, [-1.0])
            self.between()


def use(monkeypatch, engine: Engine) -> None:
    monkeypatch.setattr(items, "engine", lambda model, decoding: engine)


def stopped(student, monkeypatch):
    """(directory, job, its one item, the file of the 15 rows that an attempt wrote before it failed)."""
    scratch, job = planned(student, shards=1)
    (item,) = job.items
    use(monkeypatch, Engine(stop=15))
    with pytest.raises(ConnectionError):
        items.finish(scratch, item, job, MODEL)
    (part,) = scratch.glob("*.part")
    return scratch, job, item, part


def test_the_items_of_a_corpus_are_its_shards_whatever_the_block(student, monkeypatch):
    scratch, job = planned(student, shards=3)
    rows = [row for item in job.items for row in items.todo(scratch, item.key)]
    assert sorted((row.document_id, row.sample) for row in rows) == [
        (f"doc-{i:03d}", sample) for i in range(20) for sample in (0, 1)
    ]
    for item in job.items:
        own = list(items.todo(scratch, item.key))
        assert len(own) == item.rows and {shard_of(row.document_id, 3) for row in own} == {item.shard}
    monkeypatch.setattr(items, "BLOCK", 3)
    monkeypatch.setattr("stages.generate.BLOCK", 4)
    assert planned(student, shards=3) == (scratch, job)

    write_corpus(21)
    _, later = planned(student, shards=3)
    changed = {item.shard for item in later.items if item not in job.items}
    assert changed == {shard_of("doc-020", 3)}
    assert {path.stem for path in scratch.glob("*.todo")} == {item.key for item in later.items}


def test_a_failed_attempt_is_gone_on_from_and_a_torn_line_is_not_read(student, monkeypatch):
    scratch, job, item, part = stopped(student, monkeypatch)
    assert part.read_bytes().count(b"\n") == 15 and not items.is_finished(scratch, item)
    part.write_bytes(part.read_bytes()[:-9])
    engine, made = Engine(), []
    use(monkeypatch, engine)
    items.finish(scratch, item, job, MODEL, made.append)
    assert len(engine.prompts) == len(made) == 40 - 14
    keys = [(row["document_id"], row["sample"]) for row in items.rows(scratch, item)]
    assert keys == [(f"doc-{i:03d}", sample) for i in range(20) for sample in (0, 1)]
    items.finish(scratch, item, job, MODEL, made.append)
    assert len(made) == 26  # it was finished
    path = scratch / items.finished_name(item)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match="39 rows where 40 should be; delete it and run again"):
        items.rows(scratch, item)


@pytest.mark.parametrize(
    "bad",
    [
        {"text": None},
        {"finish_reason": None},
        {"generated_tokens": "x"},
        {"generated_tokens": 2**31},
        {"sample": None},
    ],
)
def test_a_row_that_cannot_be_read_back_is_made_again(student, monkeypatch, capfd, bad):
    """Versions before this one wrote what a server said."""
    scratch, job, item, part = stopped(student, monkeypatch)
    lines = part.read_text().splitlines()
    lines[3] = json.dumps(json.loads(lines[3]) | bad)
    part.write_text("\n".join(lines) + "\n")
    use(monkeypatch, engine := Engine())
    items.finish(scratch, item, job, MODEL)
    assert len(engine.prompts) == 40 - 14 and len(items.rows(scratch, item)) == 40
    assert f"{part}, row 4: not a finished row; it is made again" in capfd.readouterr().err
    path = scratch / items.finished_name(item)
    path.write_text(path.read_text().replace('"stop"', "null", 1))
    with pytest.raises(UserError, match="39 rows where 40 should be; delete it and run again"):
        items.rows(scratch, item)


def test_two_attempts_side_by_side_give_every_row_once(student, monkeypatch):
    """One that was taken for lost makes its last rows while another begins, ends, and after it."""
    scratch, job = planned(student, shards=1)
    (item,) = job.items
    seen = []

    def between():
        seen.append(items.is_finished(scratch, item))
        if len(seen) == 10:
            use(monkeypatch, Engine())
            items.finish(scratch, item, job, MODEL)
            seen.append(items.rows(scratch, item))

    use(monkeypatch, Engine(between))
    items.finish(scratch, item, job, MODEL)
    assert not any(seen[:10]) and all(seen[11:])
    assert len(list(scratch.glob("*.part"))) == 2 and not list(scratch.glob("*.whole"))
    assert items.rows(scratch, item) == seen[10] and len(seen[10]) == 40


def test_prompts_that_were_torn_on_their_way_are_refused(student):
    scratch, job = planned(student, shards=2)
    path = scratch / f"{job.items[0].key}.todo"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="torn or edited"):
        items.finish(scratch, job.items[0], job, MODEL)


@pytest.fixture(params=["memory://bucket/prefix", "in a folder"])
def place(request, student, tmp_path, monkeypatch):
    """A place elsewhere, by URL or by path; workers keep their copies in tmp_path/cache."""
    import fsspec

    home = request.param if "://" in request.param else str(tmp_path / request.param)
    monkeypatch.setenv(shared.VARIABLE, home)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for cached in (shared._job, shared._checked):
        cached.cache_clear()
    yield home
    fsspec.filesystem("memory").rm("/", recursive=True)


def run_elsewhere(monkeypatch, knobs: dict) -> None:
    """Run the stage with a runner that does in this process what workers do."""

    def run(place, todo, num_cpus, num_gpus, label):
        root = Path.cwd()
        for item in todo:
            shared.complete(place, item)
        monkeypatch.chdir(root)

    monkeypatch.setattr("stages.engines.jobs.on_ray.run_items", run)
    generate("generate", "d", MODEL, Path("data/d/generated"), GenerateKnobs(**knobs, runner="ray"))


def test_work_on_shared_storage_gives_the_bytes_of_local_work(student, place, tmp_path, monkeypatch, capfd):
    knobs = {**decoding(student), "shards": 3}
    stage("d", GenerateKnobs(**knobs))
    local = {path.name: path.read_bytes() for path in Path("data/d/generated").iterdir()}
    shutil.rmtree("data/d/generated")
    shutil.rmtree("data/.work")
    student.asked.clear()

    run_elsewhere(monkeypatch, knobs)
    assert {path.name: path.read_bytes() for path in Path("data/d/generated").iterdir()} == local
    assert set(student.asked.values()) == {1}
    kept = {path.suffix for path in tmp_path.glob("cache/retort/data/.work/*/*")}
    assert kept <= {".json"}, "a worker's copies go when the item is finished"

    shutil.rmtree("data/.work")
    capfd.readouterr()
    run_elsewhere(monkeypatch, knobs)  # what is finished there is found there
    assert "3 shards, 3 of them made before" in capfd.readouterr().err
    assert set(student.asked.values()) == {1}


def test_rows_of_a_lost_worker_are_found_at_the_place(student, place, monkeypatch):
    scratch, job = planned(student, shards=1)
    monkeypatch.setattr(shared, "EVERY_S", 0.0)
    root, found = Path.cwd(), shared.place_of(scratch)
    shared.publish(scratch, found, job)
    use(monkeypatch, Engine(stop=15))
    with pytest.raises(ConnectionError):
        shared.complete(found, job.items[0])
    shutil.rmtree(root / "cache", ignore_errors=True)  # another machine
    use(monkeypatch, engine := Engine())
    shared.complete(found, job.items[0])
    monkeypatch.chdir(root)
    shared.collect(scratch, found, job)
    assert len(engine.prompts) == 25 and len(items.rows(scratch, job.items[0])) == 40


def test_a_worker_that_is_not_like_the_maker_of_the_job_is_refused(student, place, monkeypatch):
    scratch, job = planned(student, shards=1)
    root, found = Path.cwd(), shared.place_of(scratch)
    with pytest.raises(UserError, match="sees no job.json there.*RETORT_SHARED"):
        shared.complete(found, job.items[0])
    shared.publish(scratch, found, job.model_copy(update={"versions": {"openai": "0.1"}}))
    with pytest.raises(UserError, match="engine openai is .* here and {'openai': '0.1'} where"):
        shared.complete(found, job.items[0])
    shared.publish(scratch, found, job.model_copy(update={"fingerprint": "f" * 64}))
    shared._job.cache_clear()
    with pytest.raises(UserError, match="not the model that the job was made for"):
        shared.complete(found, job.items[0])
    monkeypatch.chdir(root)
    monkeypatch.setenv(shared.VARIABLE, "nowhere://x")
    with pytest.raises(UserError, match="RETORT_SHARED=nowhere://x: Protocol not known"):
        shared.place_of(scratch)


def test_the_grammar_of_a_dataset_is_part_of_the_job_and_of_its_fingerprint(student, monkeypatch):
    knobs = GenerateKnobs(**decoding(student), grammar=True, shards=1)
    with pytest.raises(UserError, match="data/d/corpus/grammar.lark: no such file"):
        plan("generate", "d", MODEL, knobs)
    plain, _ = planned(student, shards=1)
    found = []
    for text in ("start: A", "start: B"):
        files.write_text(layout.corpus("d") / "grammar.lark", text)
        files.write_manifest(layout.corpus("d"), "corpus", {})
        scratch, job = plan("generate", "d", MODEL, knobs)
        found.append(scratch.resolve())
        assert job.grammar == text
    assert len({plain, *found}) == 3

    class Held(Engine):
        def generate(self, prompts, sampling, seeds, grammar=None):
            assert grammar == "start: B"
            return super().generate(prompts, sampling, seeds)

    use(monkeypatch, Held())
    items.finish(scratch, job.items[0], job, MODEL)


def test_what_a_runner_needs_is_no_part_of_the_fingerprint(student):
    ray = {"runner": "ray", "num_cpus": 4, "num_gpus": 1, "workers": 3}
    assert planned(student, shards=2) == planned(student, shards=2, **ray)


def test_the_baseline_reads_what_its_share_says(student):
    from stages.baseline import run as baseline
    from stages.knobs import BaselineKnobs

    shutil.copytree(MODEL, layout.base_model("tiny"))
    for share, documents in ((0.0, 4), (1.0, 20)):
        knobs = BaselineKnobs(**decoding(student), base="tiny", **({"share": share} if share else {}))
        assert baseline("d", knobs)["documents"] == documents
        assert len(read_generated(Path("data/d/baseline"))) == 2 * documents


def test_shards_are_written_one_at_a_time_with_the_same_bytes(tmp_path):
    class Part(list):
        """A list that can be watched."""

    rows = [
        {
            "document_id": f"doc-{i // 2:03d}",
            "sample": i % 2,
            "text": f"line {i}",
            "queries": [f"line {i}"],
            "finish_reason": "stop",
            "prompt_tokens": 5,
            "generated_tokens": 3,
            "logprob": -1.5,
            "line_logprobs": None,
        }
        for i in range(30)
    ]
    write_generated(tmp_path / "all", rows, 6, "generate")
    before = []

    def parts():
        for shard in range(6):
            assert all(part() is None for part in before[:-1]), "an earlier shard is still in memory"
            part = Part(row for row in reversed(rows) if shard_of(row["document_id"], 6) == shard)
            before.append(weakref.ref(part))
            yield part

    write_shards(tmp_path / "one by one", parts(), "generate", "queries")
    for path in (tmp_path / "all").iterdir():
        assert path.read_bytes() == (tmp_path / "one by one" / path.name).read_bytes()
    assert read_generated(tmp_path / "one by one") == rows


def test_decoding_survives_the_job_file(student):
    scratch, job = planned(student, shards=1)
    assert shared.read_job(str(scratch)) == job and isinstance(job.decoding, Decoding)
