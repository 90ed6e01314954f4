"""Answers about articles that nothing was learnt from: five folds by article of LocalRQA's Faire.

Most articles of its held-out rows have training rows as well. Here each fold holds out a fifth of the
articles, by hash: a student learns from the training rows of the others, and answers the fold's rows of
eval and test. So each of the held-out rows is answered once, by a student that has read nothing about its
article but what is retrieved. All else is as `make faire_rag` has it: passages and retrieval over the whole
corpus, settings, and prompts. Validation rows, which choose the weights, are eval's of the other folds.

Figures are token F1 and ROUGE-L of all folds together with 95% intervals by article, paired differences, and
the means of each fold. A fold is a process of its own, takes minutes, and is not made again where DIRECTORY
has its figures; so folds can be run one by one. Prints null where the data are not there.

    python -m benchmarks.rag_folds [--data data/sources/faire] [--folder CLONE] [--keep DIRECTORY] [--fold 0]
                                   [--rows 0]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import chdir
from pathlib import Path

from stages.core.hashing import stable_integer, stable_unit
from stages.core.processes import leave_idle_cores

ROOT = Path(__file__).resolve().parent.parent
DATASET, FOLDS, RESAMPLES = "faire_rag", 5, 1000
STAGES = "passages retrieved convert_rag tokenize finetune merge export answer".split()
PAIRS = (("trained", "untrained"), ("trained", "first_words"))
MEASURES = ("f1", "rouge_l")


def fold_of(row: dict) -> int:
    return stable_integer("fold", row["gold_docs"][0]["metadata"]["source"]) % FOLDS


def write_fold(data: Path, folder: Path, fold: int, most: int) -> None:
    """The files of a fold, LocalRQA's; `most` training rows, lowest hash first, or 0 for all.

    Rows that are not learnt from and not asked give their passages alone, as those without answers do.
    """
    from stages.core.files import read_jsonl, write_jsonl

    rows = {split: read_jsonl(data / f"{split}_w_qa.jsonl") for split in ("train", "eval", "test")}
    training = [row for row in rows["train"] if fold_of(row) != fold]
    training.sort(key=lambda row: stable_unit("row", row["question"]))
    made = {
        "train": training[: most or None],
        "eval": [row for row in rows["eval"] if fold_of(row) != fold],
        "test": [row for split in ("eval", "test") for row in rows[split] if fold_of(row) == fold],
    }
    for split, own in made.items():
        write_jsonl(folder / f"{split}_w_qa.jsonl", own)
    kept = [row for own in made.values() for row in own]
    rest = [
        {"questions": [], "gold_docs": row["gold_docs"], "hard_neg_docs": row["hard_neg_docs"]}
        for own in rows.values()
        for row in own
        if row not in kept
    ]
    for split in ("train", "eval", "test"):
        rest += read_jsonl(data / f"{split}_w_q.jsonl")
    write_jsonl(folder / "train_w_q.jsonl", rest)
    (folder / "docs.jsonl").symlink_to(data / "docs.jsonl")


def run_fold(data: Path, clone: Path, fold: int, most: int) -> None:
    """All stages up to the answers, in the current folder; writes figures.json, a row for each answer."""
    from stages.core.files import write_json
    from stages.kinds.rag.knobs import EvaluateRagKnobs
    from stages.kinds.rag.parts.rows import read_all, read_found, read_passages, read_questions
    from stages.kinds.rag.parts.scoring import QuestionSet, Scores, simple
    from stages.params import STAGES as KNOWN
    from stages.params import Params, knobs_of

    Path("models").mkdir(exist_ok=True)
    for link, place in (("models/base", clone / "models/base"), ("models/shipped", ROOT / "models/shipped")):
        Path(link).symlink_to(place)
    Path("prompts").symlink_to(ROOT / "prompts")
    Path("data/sources/faire").mkdir(parents=True)
    Path("data/.work").symlink_to(Path("../work").resolve())  # vectors of passages are the same
    write_fold(data, Path("data/sources/faire"), fold, most)
    params, seconds = Params(), {}
    params.add(Path("prompts", DATASET, "params.yaml"))
    params.blocks["answer"][DATASET]["latency_questions"] = 0
    for stage in STAGES:
        began = time.perf_counter()
        KNOWN[stage].load().run(DATASET, knobs_of(DATASET, stage, params.blocks))
        seconds[stage] = round(time.perf_counter() - began)
    questions = {row["id"]: row for row in read_questions(DATASET, "test")}
    asked = QuestionSet(questions, read_found(DATASET, "test"), read_passages(DATASET))
    answers = [*read_all(DATASET), *simple(asked, questions, "test", read_questions(DATASET, "train"))]
    scores = Scores(asked, answers, EvaluateRagKnobs())
    rows = [
        [
            system,
            context,
            f"{fold}-{name}",
            questions[name]["source"],
            *(own[measure] for measure in MEASURES),
        ]
        for context, systems in scores.values.items()
        for system, values in systems.items()
        for name, own in values.items()
    ]
    counts = {"train": len(read_questions(DATASET, "train")), "test": len(questions)}
    write_json(Path("figures.json"), {"rows": rows, "seconds": seconds, "questions": counts})


def together(folds: dict[int, dict]) -> dict:
    """Intervals over the rows of all folds, and each fold's means, by context and system."""
    import numpy as np

    from stages.evaluation.ranking import table

    by_context: dict[str, dict[str, dict[str, list]]] = defaultdict(lambda: defaultdict(dict))
    for own in folds.values():
        for system, context, name, source, *values in own["rows"]:
            by_context[context][system][name] = [source, *values]
    found = {}
    for context, systems in by_context.items():
        names = list(systems["trained"])
        values = {system: np.array([own[name][1:] for name in names]) for system, own in systems.items()}
        sources = [systems["trained"][name][0] for name in names]
        found[context] = {"questions": len(names), **table(values, MEASURES, PAIRS, sources, RESAMPLES, 1)}
        fold = np.array([int(name.split("-")[0]) for name in names])
        found[context]["trained_by_fold"] = {
            str(one): values["trained"][fold == one].mean(axis=0).round(4).tolist() for one in folds
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT / "data/sources/faire")
    parser.add_argument("--folder", type=Path, default=ROOT, help="a clone with models/base")
    parser.add_argument("--keep", type=Path, help="where the folds are kept")
    parser.add_argument("--fold", type=int, choices=range(FOLDS), help="make this one alone")
    parser.add_argument("--rows", type=int, default=0, help="training rows of a fold; 0: all")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    leave_idle_cores()
    data, clone = given.data.resolve(), given.folder.resolve()
    if given.alone:
        run_fold(data, clone, given.fold, given.rows)
        return
    if not (data / "docs.jsonl").is_file():
        print(json.dumps({"benchmark": "rag_folds", "folds": None}))
        return
    with tempfile.TemporaryDirectory() as scratch:
        keep = (given.keep or Path(scratch)).resolve()
        (keep / "work").mkdir(parents=True, exist_ok=True)
        for fold in range(FOLDS) if given.fold is None else [given.fold]:
            folder = keep / f"fold-{fold}"
            if (folder / "figures.json").is_file():
                continue
            with tempfile.TemporaryDirectory(dir=keep) as place, chdir(place):
                command = [sys.executable, "-m", "benchmarks.rag_folds", "--alone", "--fold", str(fold)]
                command += ["--data", str(data), "--folder", str(clone), "--rows", str(given.rows)]
                subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
                folder.mkdir()
                Path("figures.json").rename(folder / "figures.json")
        files = {fold: keep / f"fold-{fold}" / "figures.json" for fold in range(FOLDS)}
        folds = {fold: json.loads(file.read_text("utf-8")) for fold, file in files.items() if file.is_file()}
    told = {name: [own[name] for own in folds.values()] for name in ("questions", "seconds")}
    print(json.dumps({"benchmark": "rag_folds", "folds": list(folds), **told, **together(folds)}))


if __name__ == "__main__":
    main()
