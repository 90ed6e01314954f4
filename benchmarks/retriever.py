"""The kind `retriever` beside what people use in its place, on the same rows and lengths, on a CPU.

training  our trainer beside SentenceTransformerTrainer with MultipleNegativesRankingLoss: same groups, steps,
          rate and temperature, no dropout. The peer computes in float32, in bfloat16 autocast, and in that
          with rows sorted by length, so that a step has little padding; ours takes rows as they come. A row
          counts with all its tokens, whoever computes them, padding never. The clock starts after the second
          step. One function scores each model on groups it has not seen; no loss may be further than
          LOSS_SPREAD from ours.
scoring   by SmolLM2-135M, beside transformers with padded batches of 4 and logits of all tokens, in bfloat16,
          as ours, and float32. Prompts are those of `lrlm` (some 190 tokens, none begins like another) and
          `icl` (short; some share a key). Our scores are at most SCORE_SPREAD, on average, from float32's.
mining    `mine`, dense, beside mine_hard_negatives in float32 and in bfloat16 autocast, as ours; loading and
          encoding included. At least SAME_NEGATIVES of the negatives are the peer's.
bm25      our index beside rank_bm25's BM25Okapi over the same tokens, tokenising of queries included. At
          least SAME_FIRST of the queries have the same first hit.

Rows are real text of pinned packages: operations of botocore, source code, docstrings. Each contestant is a
process of its own, in turns (`--rounds`); its best round counts. `faster`: how many times as fast as each
peer ours is, by the clock; `cpu_faster`: by the CPU time of what is timed, which other work on the machine
disturbs less. Peers get an environment at first use (seconds): `.venv-retriever`, or where RETRIEVER_VENV
points. It borrows all but `datasets` and `rank_bm25` from ours. Where these cannot be had, the figures of
those who need them are null.

    python -m benchmarks.retriever [--rounds 1] [--only training]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from stages.core.hashing import stable_integer
from stages.core.processes import leave_idle_cores
from stages.kinds.retriever.knobs import MineKnobs, ScoreKnobs, TrainRetrieverKnobs

ROOT = Path(__file__).resolve().parent.parent
MINILM, SMOL = ROOT / "models/base/minilm", ROOT / "models/base/smol"
PEERS = ("datasets==5.0.1", "rank-bm25==0.2.2")
STEPS, BATCH, GROUP, LENGTH, HELD_OUT = 8, 16, 4, 128, 64
RATE, TEMPERATURE = 5e-5, 0.05
PROMPT_ROWS = {"lrlm": 8, "icl": 24}  # of up to 8 keys each
QUERIES, KEYS, HITS, NEGATIVES = 400, 1500, 200, 16  # of mining; BM25 has all queries and keys
LOSS_SPREAD = 0.05  # of our loss: bfloat16, and another order of the rows
SCORE_SPREAD = 0.04  # nats; transformers' own in bfloat16 are .025 off
SAME_NEGATIVES, SAME_FIRST = 0.95, 0.9

Contestant = Callable[[dict, str], None]  # takes rows and its name, which is its style; prints figures


def tool_rows(part: str) -> dict:
    """Operations of services as keys, and examples as queries.

    For training, with the pages after the right one as negatives: mostly of the same service.
    """
    from stages.kinds.retriever.parts.embedded import tool_task

    keys, splits = tool_task(400)
    rows = [row for own in splits.values() for row in own]
    rows.sort(key=lambda row: stable_integer("benchmark", row["id"]))
    if part == "mining":
        keys = dict(list(keys.items())[:KEYS])
        rows = [row for row in rows if row["pos"][0] in keys][:QUERIES]
    if part == "training":
        rows = rows[: STEPS * BATCH + HELD_OUT]
        names = list(keys)
        for row in rows:
            place = names.index(row["pos"][0])
            row["neg"] = [names[(place + step) % len(names)] for step in range(1, GROUP)]
    return {"keys": keys, "rows": rows}


def prompts() -> dict:
    """Token ids [what others may begin with, the rest, the answer] of each prompt."""
    from stages.core.tokenizer import TextCodec
    from stages.kinds.retriever.parts.embedded import icl_task, lrlm_task
    from stages.kinds.retriever.parts.prompts import Prompts, answer_of, candidates

    found: list[Sequence] = []
    for name, task in {"lrlm": lrlm_task, "icl": icl_task}.items():
        keys, splits = task(300)
        wording = Prompts(name, TextCodec(SMOL), ScoreKnobs(base="smol"))
        for row in splits["train"][: PROMPT_ROWS[name]]:
            named = [key for part in candidates(row, 8) for key in part]
            found += wording.of(row, [keys[key] for key in named], answer_of(row, 1) or "")
    return {"prompts": found}


class Clock:
    """From when it is made to `report`, which prints figures, and the `result` that is compared."""

    def __init__(self) -> None:
        self.began, self.cpu = time.perf_counter(), time.process_time()

    def report(self, what: str, count: int, result: list) -> None:
        seconds, cpu = time.perf_counter() - self.began, time.process_time() - self.cpu
        found = {f"{what}_per_second": round(count / seconds, 1), "cpu_ms_each": round(1000 * cpu / count, 3)}
        found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps({**found, "result": result}), flush=True)


def texts_of(row: dict, keys: dict[str, str]) -> list[str]:
    """The query of a group, its positive and its negatives."""
    return [row["query"], keys[row["pos"][0]], *(keys[name] for name in row["neg"])]


def meter_of(model, rows: list[dict], keys: dict[str, str]):
    """The clock of a training on groups in this order."""
    from benchmarks.finetune_peers.meter import Meter

    def tokens(part: list[dict]) -> int:
        texts = [text for row in part for text in texts_of(row, keys)]
        return sum(map(len, model.tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"]))

    meter = Meter([tokens(rows[at : at + BATCH]) for at in range(0, len(rows), BATCH)])
    meter.watch(model)
    return meter


def held_out_loss(model, given: dict) -> float:
    """InfoNCE over groups that nothing was trained on, in float32, by sentence-transformers' own encoding."""
    import torch

    model.eval()
    losses, rows = [], given["rows"][STEPS * BATCH :]
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        texts = [text for row in part for text in texts_of(row, given["keys"])]
        made = model.encode(texts, normalize_embeddings=True, convert_to_tensor=True).float()
        queries, keys = made.view(len(part), GROUP + 1, -1).split([1, GROUP], 1)
        scores = queries.flatten(0, 1) @ keys.flatten(0, 1).T / TEMPERATURE
        losses.append(torch.nn.functional.cross_entropy(scores, torch.arange(len(part)) * GROUP).item())
    return sum(losses) / len(losses)


def train_ours(given: dict, name: str) -> None:
    import numpy as np

    from stages.kinds.retriever.parts import trainer
    from stages.retrieval.transformer import open_model
    from stages.student.encoding import prepare
    from stages.student.fabric import make_fabric
    from stages.student.loop import Loop

    def as_they_come(batches: trainer.Batches, step: int) -> tuple[int, int, np.ndarray]:
        return 0, 0, np.arange(step * BATCH, (step + 1) * BATCH)

    trainer.Batches.at = as_they_come
    loss = {"distill": "none", "contrastive_weight": 1, "cos_temperature": TEMPERATURE, "negative": "first"}
    size = {"batch_size": BATCH, "group": GROUP, "query_max_length": LENGTH, "key_max_length": LENGTH}
    run = {"lr": RATE, "max_steps": STEPS, "warmup": 0, "schedule": "constant", "rows": "", "base": ""}
    run["precision"] = "32-true" if "fp32" in name else "bf16-mixed"
    knobs = TrainRetrieverKnobs.model_validate({**loss, **size, **run})
    model, rows = open_model(str(MINILM), "base"), given["rows"][: STEPS * BATCH]
    model.max_seq_length = LENGTH
    meter = meter_of(model, rows, given["keys"])
    task = trainer.TaskRows("tool", knobs, given["keys"], rows, [], Counter())
    fabric = make_fabric(knobs)
    prepare(model)
    training = trainer.Retrieving(fabric, model, [task], knobs)
    Loop("benchmark", fabric, model, knobs, STEPS, Path("work")).run(training.gradients, training.validate)
    meter.report(held_out_loss(model, given))


def train_theirs(given: dict, name: str) -> None:
    import sentence_transformers as st
    import torch
    from datasets import Dataset
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from torch.utils.data import BatchSampler, SequentialSampler

    from stages.student.encoding import prepare

    rows, keys = given["rows"][: STEPS * BATCH], given["keys"]
    if "sorted" in name:
        rows = sorted(rows, key=lambda row: sum(map(len, texts_of(row, keys))))
        blocks = [rows[at : at + BATCH] for at in range(0, len(rows), BATCH)]
        rows = [row for place in torch.randperm(len(blocks)).tolist() for row in blocks[place]]
    names = ["anchor", "positive", *(f"negative_{number}" for number in range(1, GROUP))]
    columns = dict(zip(names, zip(*(texts_of(row, keys) for row in rows), strict=True), strict=True))
    model = st.SentenceTransformer(str(MINILM))
    model.max_seq_length = LENGTH
    prepare(model)  # no dropout

    def as_they_come(data, batch_size: int, **_) -> BatchSampler:
        return BatchSampler(SequentialSampler(data), batch_size, drop_last=True)

    run = {"max_steps": STEPS, "learning_rate": RATE, "lr_scheduler_type": "constant", "weight_decay": 0.01}
    size = {"per_device_train_batch_size": BATCH, "batch_sampler": as_they_come, "bf16": "bf16" in name}
    quiet = {"save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True}
    given_to = st.SentenceTransformerTrainingArguments("theirs", use_cpu=True, **run, **size, **quiet)
    loss = MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)
    meter, data = meter_of(model, rows, keys), Dataset.from_dict(columns)
    st.SentenceTransformerTrainer(model, given_to, train_dataset=data, loss=loss).train()
    meter.report(held_out_loss(model, given))


def score_ours(given: dict, _: str) -> None:
    from stages.kinds.retriever.parts.lm_scoring import LanguageModel, Prompt, score_prompts

    rows = [Prompt(*map(tuple, parts)) for parts in given["prompts"]]
    model = LanguageModel(SMOL)
    score_prompts(model, rows[:4])
    clock = Clock()
    scores = score_prompts(model, rows)
    clock.report("tokens", sum(len(row.before) + len(row.answer) for row in rows), scores)


def score_theirs(given: dict, name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if name == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(SMOL, dtype=dtype).eval()

    @torch.inference_mode()
    def score(rows: list) -> list[float]:
        width = max(sum(map(len, parts)) for parts in rows)
        ids, mask, labels = (torch.full((len(rows), width), fill) for fill in (0, 0, -100))
        for place, (shared, own, answer) in enumerate(rows):
            before, size = len(shared) + len(own), len(shared) + len(own) + len(answer)
            ids[place, :size] = torch.tensor([*shared, *own, *answer])
            mask[place, :size] = 1
            labels[place, before:size] = torch.tensor(answer)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        targets, nll = labels[:, 1:], torch.nn.functional.cross_entropy
        losses = nll(logits.transpose(1, 2), targets, reduction="none")
        return (-losses.sum(1) / (targets != -100).sum(1)).tolist()

    rows = given["prompts"]
    score(rows[:4])
    clock = Clock()
    scores = [one for start in range(0, len(rows), 4) for one in score(rows[start : start + 4])]
    clock.report("tokens", sum(len(part) for parts in rows for part in parts), scores)


def mine_ours(given: dict, _: str) -> None:
    from stages.kinds.retriever.parts.mining import mined
    from stages.kinds.retriever.parts.rows import Keys
    from stages.retrieval.vectors import Vectors

    wanted = {"by": "dense", "tasks": ["tool"], "max_length": LENGTH, "hits": HITS, "negatives": NEGATIVES}
    models = {"encoder": str(MINILM), "reranker": str(ROOT / "models/shipped/none")}
    rows, keys, knobs = given["rows"], given["keys"], MineKnobs.model_validate({**wanted, **models})
    clock = Clock()
    mined(Keys("tool", keys), rows, knobs, Vectors())
    clock.report("queries", len(rows), [[keys[key] for key in row["neg"]] for row in rows])


def mine_theirs(given: dict, name: str) -> None:
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    rows, keys = given["rows"], given["keys"]
    pairs = {"query": [row["query"] for row in rows], "positive": [keys[row["pos"][0]] for row in rows]}
    wanted = {"range_max": HITS, "num_negatives": NEGATIVES, "output_format": "n-tuple", "verbose": False}
    clock = Clock()
    model = SentenceTransformer(str(MINILM))
    model.max_seq_length = LENGTH
    with torch.autocast("cpu", torch.bfloat16) if name == "bf16" else nullcontext():
        found = mine_hard_negatives(Dataset.from_dict(pairs), model, corpus=list(keys.values()), **wanted)
    chosen = {row["query"]: [row[f"negative_{n}"] for n in range(1, NEGATIVES + 1)] for row in found}
    clock.report("queries", len(rows), [chosen.get(query, []) for query in pairs["query"]])


def bm25_ours(given: dict, _: str) -> None:
    from stages.retrieval.bm25 import Bm25
    from stages.retrieval.ranking import by_bm25

    queries, index = [row["query"] for row in given["rows"]], Bm25(list(given["keys"].values()))
    clock = Clock()
    hits = by_bm25(index, queries, HITS)
    clock.report("queries", len(queries), hits.keys[:, 0].tolist())


def bm25_theirs(given: dict, _: str) -> None:
    import numpy as np
    from rank_bm25 import BM25Okapi

    from stages.core.text import tokens
    from stages.retrieval.bm25 import K1, STOPWORDS_EN, B

    queries, stop = [row["query"] for row in given["rows"]], frozenset(STOPWORDS_EN)
    pages = [[token for token in tokens(text) if token not in stop] for text in given["keys"].values()]
    index, found, clock = BM25Okapi(pages, k1=K1, b=B), [], Clock()
    for query in queries:
        scores = index.get_scores([token for token in tokens(query) if token not in stop])
        best = np.argpartition(-scores, HITS)[:HITS]
        found.append(int(best[np.argsort(-scores[best], kind="stable")[0]]))
    clock.report("queries", len(queries), found)


CONTESTANTS: dict[str, tuple[Contestant, Contestant, str]] = {
    "training": (train_ours, train_theirs, "ours ours_fp32 fp32 bf16 bf16_sorted"),
    "scoring": (score_ours, score_theirs, "ours bf16 fp32"),
    "mining": (mine_ours, mine_theirs, "ours fp32 bf16"),
    "bm25": (bm25_ours, bm25_theirs, "ours rank_bm25"),
}


def apart(part: str, ran: dict[str, dict]) -> dict[str, float]:
    """How far results are from each other; exits where they are no results of one task."""
    found = {name: figures.pop("result", figures.get("val_loss")) for name, figures in ran.items()}
    ours, told = found["ours"], {}
    for name, theirs in found.items():
        if part == "training":
            told[name], most = abs(theirs / ours - 1), LOSS_SPREAD
        elif part == "scoring":
            pairs = list(zip(theirs, found["fp32"], strict=True))
            told[name], most = sum(abs(a - b) for a, b in pairs) / len(pairs), SCORE_SPREAD
        else:
            pairs = list(zip(theirs, ours, strict=True))
            same = [len({*a} & {*b}) / len(b) if part == "mining" else a == b for a, b in pairs]
            told[name], most = 1 - sum(same) / len(same), 1 - {"mining": SAME_NEGATIVES}.get(part, SAME_FIRST)
        if told[name] > most:
            raise SystemExit(f"{part}: {name} found something else: {told}, expected no more than {most}")
    return {name: round(value, 4) for name, value in told.items()}


def peers_python(name: str = "retriever", packages: Sequence[str] = PEERS) -> str | None:
    """The interpreter of a benchmark's peers, in an environment that borrows all else from ours.

    It is made where there is none: `.venv-NAME`, or where NAME_VENV points. None without network.
    """
    venv = Path(os.environ.get(f"{name.upper()}_VENV") or ROOT / f".venv-{name}")
    python, made = venv / "bin" / "python", venv / "complete"
    if not made.is_file():
        print(f"making {venv} with {', '.join(packages)}, once", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        (site,) = venv.glob("lib/*/site-packages")
        (site / "ours.pth").write_text(sysconfig.get_path("purelib"))
        if subprocess.run([python, "-m", "pip", "install", "-qq", *packages]).returncode:
            print("peers that need them are left out", file=sys.stderr, flush=True)
            return None
        made.touch()
    return str(python)


def run(python: str, part: str, name: str, data: Path) -> dict:
    """One contestant's figures, from a process and a folder of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [python, "-m", "benchmarks.retriever", "--contestant", part, name, str(data)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{part}, {name}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    shown = {key: value for key, value in found.items() if key != "result"}
    print(f"  {part}, {name}: {shown}", file=sys.stderr, flush=True)
    return found


def compare(part: str, rounds: int, python: str | None) -> dict:
    ran: dict[str, dict] = {}
    names = CONTESTANTS[part][2].split()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.json"
        data.write_text(json.dumps(prompts() if part == "scoring" else tool_rows(part)), encoding="utf-8")
        for name in names * rounds:
            own = name.startswith("ours") or part == "scoring"
            if interpreter := sys.executable if own else python:
                found = run(interpreter, part, name, data)
                if name not in ran or faster(found, ran[name]) > 1:
                    ran[name] = found
    differences, ours = apart(part, ran), ran["ours"]
    peers = [name for name in ran if not name.startswith("ours")]
    ratios = {
        "faster": {name: round(faster(ours, ran[name]), 2) for name in peers},
        "cpu_faster": {name: round(1 / faster(ours, ran[name], "cpu_ms"), 2) for name in peers},
        "apart": differences,
    }
    print(f"{part}: {ratios}", file=sys.stderr, flush=True)
    return {**ratios, **{name: ran.get(name) for name in names}}


def faster(one: dict, other: dict, unit: str = "_per_second") -> float:
    """The ratio of a figure of two contestants."""
    figure = next(name for name in one if unit in name)
    return one[figure] / other[figure]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=CONTESTANTS)
    parser.add_argument("--contestant", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    leave_idle_cores()
    if given.contestant:
        part, name, data = given.contestant
        ours, theirs, _ = CONTESTANTS[part]
        contestant = ours if name.startswith("ours") else theirs
        contestant(json.loads(Path(data).read_text(encoding="utf-8")), name)
        return
    parts = [given.only] if given.only else list(CONTESTANTS)
    python = peers_python() if parts != ["scoring"] else None
    found = {part: compare(part, given.rounds, python) for part in parts}
    print(json.dumps({"benchmark": "retriever", **found}))


if __name__ == "__main__":
    main()
