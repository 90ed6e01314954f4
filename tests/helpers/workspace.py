"""What the graph tests share: a stage's imports, read from its code, and a tiny project to run DVC in."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

from ruamel.yaml import YAML

from stages import params
from stages.core.hashing import sha256_file
from stages.kinds.academic.knobs import STAGES as ACADEMIC
from stages.kinds.rag.knobs import STAGES as RAG
from stages.kinds.retriever.knobs import STAGES as RETRIEVER
from tests.helpers.tiny import WORDS, tiny_model

ROOT = Path(__file__).parents[2]
# The stages that only datasets of skills take part in, only retrievers, only those of rag, only of papers.
OF_SKILLS = ("skills", "corpus_briefs", "candidates", "corpus_skills", "evaluate_calls")
OF_RETRIEVERS = tuple(stage.name for stage in RETRIEVER)
OF_RAG = tuple(stage.name for stage in RAG)
OF_PAPERS = tuple(stage.name for stage in ACADEMIC)
SUBJECTS = (
    "matrix histogram frame index series variance quantile kernel filter signal cluster graph".split(),
    "curve gradient system path nodes edges query document table forest classifier median".split(),
)
PRICES = {"version": "none", "models": {"embedded": {"input": 0, "output": 0}}}
NO_NETWORK = """
import socket
def refuse(self, address, *rest):
    if self.family != socket.AF_UNIX:
        raise OSError(f"the network is off: {address}")
socket.socket.connect = socket.socket.connect_ex = refuse
"""


def copy_graph(directory: Path) -> None:
    """The prompts, the params and the graph of the project, to be read or spoilt there."""
    shutil.copytree(ROOT / "prompts", directory / "prompts")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, directory / name)


class Workspace:
    """A copy of the project in which two tiny datasets, alpha and beta, share the base model `tiny`."""

    def __init__(self, directory: Path):
        self.directory = directory

    @classmethod
    def create(cls, directory: Path, teacher_url: str) -> "Workspace":
        listed = _sh("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines()
        for name in listed:
            left_out = name == "dvc.lock" or name.startswith("models/shipped/small/")
            if (ROOT / name).is_file() and not left_out:
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, directory / name)
        made = cls(directory)
        for dataset, subjects in zip(("alpha", "beta"), SUBJECTS, strict=True):
            for subject in subjects:
                made.add_document(dataset, subject)
            prompts = directory / "prompts" / dataset
            prompts.mkdir()
            (prompts / "teacher.md").write_text("# System\nWrite queries.\n# User\n{{ document.text }}\n")
            (prompts / "student.md").write_text("{{ document.title }}\nqueries of this page\n")
            (prompts / "eval_rows.jsonl").write_text("")
        tiny_model(directory / "models/shipped/tiny")
        made.write_params(tiny_params(teacher_url))
        _sh("git", "init", "-q", "-b", "main", cwd=directory)
        made.commit("a project with two tiny datasets")
        return made

    def use_packages(self, *names: str) -> dict:
        """The project's own blocks of `base_package`, with the wheels that set-up has fetched."""
        own = YAML(typ="safe").load(ROOT / "params.yaml")["base_package"]
        folder = self.directory / "data/packages"
        folder.mkdir(parents=True)
        for wheel in (ROOT / "data/packages").glob("*.whl"):
            (folder / wheel.name).symlink_to(wheel)
        return {name: own[name] for name in names}

    def add_document(self, dataset: str, subject: str) -> None:
        """A document and a query that was observed for it."""
        folder = self.directory / "sources" / dataset
        folder.mkdir(parents=True, exist_ok=True)
        text = " ".join(
            random.Random(subject).sample(WORDS.split(), 10)
        )  # no near-duplicates: one split each
        document = {"id": subject, "title": f"numpy {subject}", "text": f"{text} {subject}"}
        query = {"query": f"compute {subject} in numpy", "document_id": subject}
        for name, row in (("documents", document), ("queries", query)):
            with open(folder / f"{name}.jsonl", "a") as stream:
                stream.write(json.dumps(row) + "\n")

    def params(self) -> dict:
        """The blocks of all files: {stage: {dataset: knobs}}."""
        with chdir(self.directory):
            return params.blocks()

    def chain(self, dataset: str) -> list[str]:
        """The stages of a dataset, in the order that they run."""
        with chdir(self.directory):
            return [stage.name for stage in params.stages_of(dataset, params.blocks())]

    def write_params(self, blocks: dict) -> None:
        """Write prices and bases to params.yaml, each dataset's blocks to a file that dvc.yaml lists."""
        yaml, shared = YAML(typ="safe"), {"prices": PRICES}
        own: dict[str, dict] = {}
        for stage, datasets in blocks.items():
            if stage in params.STAGES and params.STAGES[stage].block:  # tests add kinds of their own
                continue
            if stage in params.BASE_STAGES:
                shared |= {stage: datasets} if datasets else {}
                continue
            for dataset, knobs in datasets.items():
                own.setdefault(dataset, {})[stage] = {dataset: knobs}
        yaml.dump(shared, self.directory / "params.yaml")
        for dataset, stages in own.items():
            (self.directory / "prompts" / dataset).mkdir(exist_ok=True)
            yaml.dump(stages, self.directory / "prompts" / dataset / "params.yaml")
        graph = (self.directory / "dvc.yaml").read_text()
        lines = "".join(f"  - prompts/{dataset}/params.yaml\n" for dataset in own)
        graph = re.sub(r"(?m)^  - prompts/.*\n", "", graph).replace("\nstages:\n", f"\n{lines}stages:\n", 1)
        (self.directory / "dvc.yaml").write_text(graph)

    def lock(self) -> dict:
        return YAML(typ="safe").load(self.directory / "dvc.lock")["stages"]

    def commit(self, message: str) -> None:
        _sh("git", "add", "-A", cwd=self.directory)
        _sh("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", message, cwd=self.directory)

    def start(self, *command: str, **env: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=self.directory,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, **env: str) -> str:
        process = self.start(*command, **env)
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output
        return output

    def repro(self, *targets: str, **env: str) -> list[str]:
        """Run `dvc repro`; returns the stages that ran, in order."""
        return ran(self.run("dvc", "repro", *targets, **env))

    def status(self) -> list[str]:
        """The stages that `dvc status` calls changed."""
        return list(json.loads(self.run("dvc", "status", "--json")))

    def output(self, path: str) -> str:
        """The md5 of an output, by dvc.lock."""
        outs = (out for stage in self.lock().values() for out in stage["outs"])
        return next(out["md5"] for out in outs if out["path"] == path)

    def clone(self, directory: Path) -> "Workspace":
        _sh("git", "clone", "-q", str(self.directory), str(directory), cwd=self.directory)
        return Workspace(directory)

    def hashes(self, path: str) -> dict[str, str]:
        """sha256 of each file under `path`."""
        found = (self.directory / path).rglob("*")
        return {f.name: sha256_file(f) for f in sorted(found) if f.is_file()}


def ran(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


def _sh(*command: str, cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def tiny_params(teacher_url: str) -> dict:
    decoding = {"engine": "transformers", "shards": 4, "workers": 1, "max_new_tokens": 8, "batch_size": 4}
    finetune = {"base": "tiny", "lora_r": 2, "epochs": 1, "batch_size": 4, "micro_batch_size": 4}
    shares = {"val_share": 0.2, "test_share": 0.2}
    own = {
        "prompt": {"model": "embedded"},  # and its template, for each dataset
        "collect": {"base_url": teacher_url, "api_key_env": "TEACHER_KEY"},
        "convert": {"min_lines": 2},
        "tokenize": {"base": "tiny", "max_length": 128},
        "finetune": finetune,
        "merge": {"base": "tiny"},
        "export": {"base": "tiny", "parity_tolerance": 0.01},
        "generate": decoding,
        "baseline": {**decoding, "base": "tiny"},
        "filter": {"round_trip_by": "models/shipped/bm25"},
        "map": {"encoder": "models/shipped/tfidf", "dims": 4},
        "pack": {},
        "xc": {"models": ["plt"], "tower": "models/shipped/tfidf", "bootstrap": 20},  # and its eval_rows
        "evaluate": {"pages": 10, "bootstrap": 20},  # and its eval_rows
        "report": {},
    }
    datasets = ("alpha", "beta")
    beta = list(own)[: list(own).index("finetune")]  # beta ends before the slow stages
    blocks: dict[str, dict] = {stage: {} for stage in params.STAGES} | {
        "base": {"tiny": {"path": "models/shipped/tiny", "chat": False}},
        "corpus": {d: {"source": "folder", "path": f"sources/{d}", **shares} for d in datasets},
        **{
            stage: {dataset: dict(knobs) for dataset in datasets if dataset == "alpha" or stage in beta}
            for stage, knobs in own.items()
        },
    }
    for dataset in datasets:
        blocks["prompt"][dataset]["template"] = f"prompts/{dataset}/teacher.md"
    for stage in ("evaluate", "xc"):
        blocks[stage]["alpha"]["eval_rows"] = "prompts/alpha/eval_rows.jsonl"
    return blocks
