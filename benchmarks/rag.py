"""The kind `rag` beside what people use in its place, on the same rows of pydoc_rag, on a CPU, in one run.

training  rows as `convert_rag` makes them, on SmolLM2-135M with its own tokenizer: ours beside TRL's
          SFTTrainer, by benchmarks.finetune, which says how.
answers   held-out questions with the passages that are found for them, greedy: the engine that `answer`
          asks, all questions at once and one at a time, beside LocalRQA's way, `model.generate` one at a
          time, which is given token ids, in bfloat16 and in float32. Loading is not counted, the first
          prompt is asked once before.
scoring   F1, precision, recall, ROUGE-1, -2, -L and BLEU of 10,000 answers, beside SQuAD's script,
          `rouge_score` and sacrebleu, asked row by row. With --evaluate METRICS, the folder `metrics` of a
          clone of huggingface/evaluate, also beside LocalRQA's way, that package's ROUGE, a call a row, on
          EVALUATED of the rows. The package has no metrics itself, it downloads them, and its BLEU downloads
          from a second place; so sacrebleu, which is quicker, stands in for that. No two texts are equal,
          so that nothing is remembered. The figures of all have to be the same to 1e-6.

Each contestant is a process of its own. Passages and prompts are made here (20 s), of a corpus and models
that `make pydoc_rag` built: the student is asked, or, where there is none yet, its base. Sacrebleu and
`evaluate` get an environment at first use (seconds): `.venv-rag`, or where RAG_VENV points; TRL `.venv-trl`.

    python -m benchmarks.rag [--folder CLONE] [--steps 5] [--questions 24] [--evaluate METRICS]
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import chdir
from importlib import import_module
from pathlib import Path

from benchmarks.retriever import peers_python
from stages.core.processes import leave_idle_cores

ROOT = Path(__file__).resolve().parent.parent
DATASET, BASE = "pydoc_rag", "smol_chat"
STAGES = ("passages_embedded", "retrieved", "convert_rag")
PEERS = ("sacrebleu==2.6.0", "evaluate==0.4.6", "datasets==5.0.1")
NEW_TOKENS, SCORED, EVALUATED = 100, 10_000, 100
ANSWER, REFERENCE = (20, 65), (15, 65)  # words, from and to
MEASURES = ("f1", "precision", "recall", "rouge_1", "rouge_2", "rouge_l", "bleu")
VERSIONS = ("torch", "transformers", "openvino-genai", "rouge_score", "sacrebleu", "evaluate")


def build(folder: Path) -> None:
    """data/pydoc_rag up to its training rows, in the current folder; all else is borrowed from `folder`."""
    from stages.params import Params, knobs_of

    Path("data").mkdir()
    for name in ("models", "data/pydoc"):
        Path(name).symlink_to(folder / name)
    Path("prompts").symlink_to(ROOT / "prompts")
    params = Params()
    params.add(Path("prompts", DATASET, "params.yaml"))
    for stage in STAGES:
        run = import_module(f"stages.kinds.rag.{stage}").run
        run(DATASET, knobs_of(DATASET, stage, params.blocks))


def prompts(model: Path, count: int) -> list[str]:
    from stages.kinds.rag.parts.answering import held_out
    from stages.kinds.rag.parts.context import knobs_of, prompts_of
    from stages.kinds.rag.parts.rows import RETRIEVED, read_passages

    passages, made = read_passages(DATASET), prompts_of(DATASET, model)
    asked = held_out(DATASET, passages, knobs_of(DATASET).retrieve, count)[:count]
    given = [(one.question, [passages[name] for name in one.contexts[RETRIEVED]]) for one in asked]
    return [made.of(*pair).text for pair in given]


def texts() -> list[list[str]]:
    """(reference, answer): words of a passage; some of these and of another's, a tenth of them moved."""
    from stages.kinds.rag.parts.rows import read_passages

    choose, pairs = random.Random(0), []
    words = [own for one in read_passages(DATASET).values() if len(own := one["text"].split()) > ANSWER[1]]
    for number in range(SCORED):
        own, other = words[number % len(words)], words[(7 * number + 1) % len(words)]
        start, kept = choose.randrange(len(own) - REFERENCE[0]), choose.randint(*ANSWER)
        reference = own[start : start + choose.randint(*REFERENCE)]
        answer = (reference[choose.randrange(len(reference)) :] + other)[:kept]
        for place in choose.sample(range(len(answer)), len(answer) // 10):
            answer[place], answer[0] = answer[0], answer[place]
        pairs.append([f"{' '.join(reference)} {number}", " ".join(answer)])
    return pairs


# Contestants: each takes what is given and prints its figures.


def timed(count: int, what: str, work: Callable[[], list]) -> None:
    began, cpu = time.perf_counter(), time.process_time()
    result = work()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    found = {
        f"{what}_per_second": round(count / seconds, 2),
        "cpu_ms_each": round(1000 * cpu / count, 2),
    }
    print(json.dumps({**found, "result": result}), flush=True)


def our_answers(given: dict, together: bool) -> None:
    from stages.engines.load import open_engine, resolve
    from stages.engines.protocol import Decoding

    decoding = resolve(Decoding(max_new_tokens=NEW_TOKENS))
    if not together:
        decoding = decoding.model_copy(update={"batch_size": 1})
    engine, asked = open_engine(Path(given["model"]), decoding), given["prompts"]

    def said(rows: list[str]) -> list[list]:
        made = sorted(engine.generate(rows, decoding, [0] * len(rows)))
        return [[one.text, one.generated_tokens] for one in made]

    said(asked[:1])
    parts = [asked] if together else [[one] for one in asked]
    timed(len(asked), "answers", lambda: [row for part in parts for row in said(part)])


def generated_answers(given: dict, precision: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from stages.core.tokenizer import TextCodec
    from stages.engines.protocol import Decoding

    torch.set_num_threads(Decoding().threads)
    codec = TextCodec(Path(given["model"]))
    asked = [torch.tensor([ids]) for ids in codec.prompts(given["prompts"])]
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=getattr(torch, precision)).eval()
    greedy = {"do_sample": False, "num_beams": 1, "max_new_tokens": NEW_TOKENS, "pad_token_id": codec.eos_id}

    @torch.inference_mode()
    def said(ids: torch.Tensor) -> list:
        made = model.generate(ids, attention_mask=torch.ones_like(ids), **greedy)[0, ids.shape[1] :].tolist()
        return [codec.decode([token for token in made if token != codec.eos_id]), len(made)]

    said(asked[0])
    timed(len(asked), "answers", lambda: [said(ids) for ids in asked])


def our_scores(pairs: list[list[str]]) -> None:
    import numpy as np

    from stages.evaluation.overlap import bleu, bleu_counts, overlaps

    def scored() -> list:
        rows = [list(overlaps(*pair).values()) for pair in pairs]
        counts = np.array([bleu_counts(*pair) for pair in pairs])
        return [[*row, own] for row, own in zip(rows, bleu(counts).tolist(), strict=True)]

    timed(len(pairs), "rows", scored)


def squad(reference: str, answer: str) -> tuple[float, float, float]:
    """F1, precision and recall as in SQuAD's script, version 1.1."""
    import string

    def normalised(text: str) -> list[str]:
        kept = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", kept).split()

    own, wanted = normalised(answer), normalised(reference)
    common = (Counter(own) & Counter(wanted)).total()
    if not common:
        return 0.0, 0.0, 0.0
    precision, recall = common / len(own), common / len(wanted)
    return 2 * precision * recall / (precision + recall), precision, recall


def their_scores(given: dict) -> None:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    bleu = BLEU(smooth_method="none", effective_order=False)

    def rouge(reference: str, answer: str) -> list[float]:
        return [own.fmeasure for own in scorer.score(reference, answer).values()]

    asked, count = (evaluate_rouge(given["metrics"]), EVALUATED) if given["evaluate"] else (rouge, SCORED)

    def row(reference: str, answer: str) -> list[float]:
        own = bleu.sentence_score(answer, [reference]).score / 100
        return [*squad(reference, answer), *asked(reference, answer), own]

    pairs = given["pairs"][:count]
    timed(len(pairs), "rows", lambda: [row(*pair) for pair in pairs])


def evaluate_rouge(metrics: str) -> Callable[[str, str], list[float]]:
    import evaluate

    rouge = evaluate.load(f"{metrics}/rouge")

    def asked(reference: str, answer: str) -> list[float]:
        own = rouge.compute(predictions=[answer], references=[reference])
        return [float(own[name]) for name in ("rouge1", "rouge2", "rougeL")]

    return asked


CONTESTANTS: dict[str, Callable] = {
    "answers, ours": lambda given: our_answers(given, together=True),
    "answers, ours one at a time": lambda given: our_answers(given, together=False),
    "answers, generate bfloat16": lambda given: generated_answers(given, "bfloat16"),
    "answers, generate float32": lambda given: generated_answers(given, "float32"),
    "scoring, ours": lambda given: our_scores(given["pairs"]),
    "scoring, row by row": lambda given: their_scores({**given, "evaluate": False}),
    "scoring, evaluate": lambda given: their_scores({**given, "evaluate": True}),
}


# What is made of their figures


def contestant(name: str, given: Path, python: str) -> dict:
    """Figures of one contestant, from a process of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [python, "-m", "benchmarks.rag", "--contestant", name, str(given)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    shown = {key: value for key, value in found.items() if key != "result"}
    print(f"  {name}: {shown}", file=sys.stderr, flush=True)
    return found


def training(folder: Path, steps: int) -> dict:
    """Of benchmarks.finetune: tokens a second of ours and TRL's, and how many times as fast ours is."""
    command = [sys.executable, "-m", "benchmarks.finetune", "--base", str(folder / "models/base" / BASE)]
    command += ["--rows", str(Path("data", DATASET, "litgpt").resolve()), "--steps", str(steps)]
    command += ["--contestants", "ours trl trl:padding_free"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def answers(folder: Path, given: Path, count: int) -> dict:
    from stages.engines.load import prepare, resolve
    from stages.engines.protocol import Decoding

    student = folder / "models" / DATASET / "hf"
    model = student if student.is_dir() else folder / "models/base" / BASE
    decoding = resolve(Decoding())
    prepare(model, decoding)
    given.write_text(json.dumps({"model": str(model), "prompts": prompts(model, count)}), encoding="utf-8")
    names = [name for name in CONTESTANTS if name.startswith("answers")]
    ran = {name.partition(", ")[2]: contestant(name, given, sys.executable) for name in names}
    ours = ran["ours"]
    return {
        "model": model.parent.name,
        "questions": count,
        "precision": decoding.precision,
        **against(ran, "answers_per_second"),
        "same": {name: shared(ours["result"], own["result"]) for name, own in ran.items() if name != "ours"},
        "tokens": {name: sum(tokens for _, tokens in own["result"]) for name, own in ran.items()},
        **{name: without(own) for name, own in ran.items()},
    }


def scoring(given: Path, metrics: Path | None) -> dict:
    python = peers_python("rag", PEERS)
    given.write_text(json.dumps({"pairs": texts(), "metrics": metrics and str(metrics)}), encoding="utf-8")
    names = ["ours", *["row by row"] * bool(python), *["evaluate"] * bool(python and metrics)]
    ran = {
        name: contestant(f"scoring, {name}", given, sys.executable if name == "ours" else str(python))
        for name in names
    }
    for name in names[1:]:
        for own, theirs in zip(ran["ours"]["result"], ran[name]["result"], strict=False):
            apart = dict(zip(MEASURES, (abs(a - b) for a, b in zip(own, theirs, strict=True)), strict=True))
            if max(apart.values()) > 1e-6:
                raise SystemExit(f"scoring: {name} found something else: {apart}")
    rates = {name: without(own) for name, own in ran.items()}
    return {"rows": SCORED, **against(ran, "rows_per_second"), **rates}


def against(ran: dict[str, dict], rate: str) -> dict[str, dict[str, float]]:
    """How many times as fast as each other ours is, by the clock and by CPU time."""
    ours, others = ran["ours"], {name: own for name, own in ran.items() if name != "ours"}
    cpu = "cpu_ms_each"
    return {
        "faster": {name: round(ours[rate] / own[rate], 2) for name, own in others.items()},
        "cpu_faster": {name: round(own[cpu] / ours[cpu], 2) for name, own in others.items()},
    }


def shared(ours: list, theirs: list) -> float:
    """Share of the answers that are the same text: numbers of 16 bits tie now and then."""
    pairs = zip(ours, theirs, strict=True)
    return round(sum(a[0].strip() == b[0].strip() for a, b in pairs) / len(ours), 3)


def without(figures: dict) -> dict:
    return {name: value for name, value in figures.items() if name != "result"}


def versions(python: str | None) -> Iterator[tuple[str, str]]:
    code = f"from importlib.metadata import version\nfor name in {VERSIONS}: print(name, version(name))"
    if python:
        told = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
        for line in told.splitlines():
            name, number = line.split()
            yield name, number
    from benchmarks.finetune import TRL

    yield "training, TRL's environment", ", ".join(TRL)
    yield "python", sys.version.split()[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=ROOT, help="a clone with data/pydoc and models")
    parser.add_argument(
        "--steps", type=int, default=5, help="of training, 8 rows each; the first two not timed"
    )
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument(
        "--evaluate", type=Path, metavar="METRICS", help="the metrics of huggingface/evaluate"
    )
    parser.add_argument("--contestant", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    leave_idle_cores()
    if given.contestant:
        name, data = given.contestant
        CONTESTANTS[name](json.loads(Path(data).read_text(encoding="utf-8")))
        return
    folder, metrics = given.folder.resolve(), given.evaluate and given.evaluate.resolve()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch, chdir(scratch):
        build(folder)
        data = Path("given.json").resolve()
        found = {
            "training": training(folder, given.steps),
            "answers": answers(folder, data, given.questions),
            "scoring": scoring(data, metrics),
        }
    told = {"load": round(load, 1), "versions": dict(versions(peers_python("rag", PEERS)))}
    print(json.dumps({"benchmark": "rag", **told, **found}))


if __name__ == "__main__":
    main()
