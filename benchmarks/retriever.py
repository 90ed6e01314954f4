"""The kind `retriever` beside what people use in its place, on the same rows and lengths, on a CPU.

training  our trainer beside SentenceTransformerTrainer with MultipleNegativesRankingLoss: the same groups,
          steps, rate and temperature, no dropout. The peer computes in float32, in bfloat16 autocast, and in
          bfloat16 with rows sorted by length, so that a step has little padding; ours takes them as they
          come. A row counts with all its tokens, whoever computes them; padding never counts. The clock
          starts after the second step. Each model is scored by one function on groups it has not seen: the
          benchmark fails if a loss is further than LOSS_SPREAD from ours.
scoring   prompts of `lrlm` (192 tokens on average; none has its beginning in common with another) and of
          `icl` (short ones, of which some share a key), by SmolLM2-135M in bfloat16, beside transformers:
          padded batches of 4, logits of all tokens, in bfloat16 and float32. The benchmark fails if our
          scores are further than SCORE_SPREAD, on average, from those of transformers in float32.
mining    `mine`, dense, beside mine_hard_negatives, in float32 and in bfloat16 autocast as ours; model
          loading and encoding included. It fails where less than SAME_NEGATIVES of the negatives are theirs.
bm25      our index beside rank_bm25's BM25Okapi, over the same tokens, tokenising of queries included.
          It fails where less than SAME_FIRST of the queries have the same first hit.

Rows are real text of pinned packages: operations of botocore, code and docstrings. Each contestant is a
process on its own, in turns (`--rounds`); its best round counts. Peers get an environment at first use
(seconds): `.venv-retriever`, or where RETRIEVER_VENV points, which borrows all but `datasets` and `rank_bm25`
from ours. Where these cannot be had, their figures are null.

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
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from stages.core.processes import leave_idle_cores

ROOT = Path(__file__).resolve().parent.parent
MINILM, SMOL = ROOT / "models/base/minilm", ROOT / "models/base/smol"
PEERS = ("datasets==5.0.1", "rank-bm25==0.2.2")
STEPS, BATCH, GROUP, LENGTH, HELD_OUT = 8, 16, 4, 128, 64
RATE, TEMPERATURE = 5e-5, 0.05
PROMPT_ROWS = {"lrlm": 5, "icl": 12}  # of 8 keys each
QUERIES, KEYS, HITS, NEGATIVES = 400, 1500, 200, 16  # of mining; BM25 has all
LOSS_SPREAD = 0.05  # of our loss: bfloat16, and another order of the rows
SCORE_SPREAD = 0.03  # nats
SAME_NEGATIVES, SAME_FIRST = 0.95, 0.9


# What is measured: rows


def made(part: str) -> dict:
    """The rows of a part of this benchmark."""
    return prompts() if part == "scoring" else tool_rows(part)


def tool_rows(part: str) -> dict:
    """Operations of services as keys, and examples as queries; in training with the pages next to the right
    one as negatives, which are of the same service.
    """
    from stages.core.hashing import stable_integer
    from stages.core.tokenizer import TextCodec
    from stages.kinds.retriever.parts.operations import tool_task

    keys, splits = tool_task(400)
    rows = [row for own in splits.values() for row in own]
    rows.sort(key=lambda row: stable_integer("benchmark", row["id"]))
    rows = rows[: {"training": STEPS * BATCH + HELD_OUT, "mining": QUERIES}.get(part)]
    if part == "mining":
        named = {name for row in rows for name in row["pos"]}
        others = [name for name in keys if name not in named]
        keys = {name: keys[name] for name in (*sorted(named), *others[: KEYS - len(named)])}
    if part == "training":
        names, count = list(keys), TextCodec(MINILM).tokenizer.encode
        for row in rows:
            place = names.index(row["pos"][0])
            row["neg"] = [names[(place + step) % len(names)] for step in range(1, GROUP)]
            texts = [row["query"], *(keys[name] for name in (*row["pos"], *row["neg"]))]
            row["tokens"] = sum(min(len(count(text).ids), LENGTH) for text in texts)
    return {"keys": keys, "rows": rows}


def prompts() -> dict:
    """Token ids [what others may begin with, the rest, the answer] of each prompt."""
    from stages.core.tokenizer import TextCodec
    from stages.kinds.retriever.knobs import ScoreKnobs
    from stages.kinds.retriever.parts.prompts import Prompts, answer_of, candidates
    from stages.kinds.retriever.parts.source_code import icl_task, lrlm_task

    found: list[Sequence] = []
    for name, task in {"lrlm": lrlm_task, "icl": icl_task}.items():
        keys, splits = task(300)
        wording = Prompts(name, TextCodec(SMOL), ScoreKnobs(base="smol"))
        for row in splits["train"][: PROMPT_ROWS[name]]:
            named = [key for part in candidates(row, 8) for key in part]
            found += wording.of(row, [keys[key] for key in named], answer_of(row, 1) or "")
    return {"prompts": found}


# Contestants: each prints its figures, and `result`, which is compared


def report(rate: str, count: int, began: float, result: list) -> None:
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({rate: round(count / seconds, 1), "peak_mib": peak, "result": result}), flush=True)


def held_out_loss(model, given: dict) -> float:
    """InfoNCE over groups that nothing was trained on, in float32, by sentence-transformers' own encoding."""
    import torch

    model.eval()
    losses, rows = [], given["rows"][STEPS * BATCH :]
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        keys = [given["keys"][name] for row in part for name in (*row["pos"][:1], *row["neg"])]
        texts = [row["query"] for row in part] + keys
        made = model.encode(
            texts, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False
        ).float()
        scores = made[: len(part)] @ made[len(part) :].T / TEMPERATURE
        losses.append(torch.nn.functional.cross_entropy(scores, torch.arange(len(part)) * GROUP).item())
    return sum(losses) / len(losses)


def train_ours(given: dict, precision: str) -> None:
    from collections import Counter

    import numpy as np

    from benchmarks.finetune_peers.meter import Meter
    from stages.kinds.retriever.knobs import TrainRetrieverKnobs
    from stages.kinds.retriever.parts import trainer
    from stages.kinds.retriever.parts.batches import Batch, Batches
    from stages.retrieval.transformer import open_model

    def as_they_come(batches: Batches, step: int) -> tuple[int, Batch]:
        return 0, Batch(np.zeros(BATCH, dtype=int), np.arange(step * BATCH, (step + 1) * BATCH))

    trainer.Batches.at = as_they_come
    knobs = TrainRetrieverKnobs(
        rows="bench",
        base=str(MINILM),
        distill="none",
        contrastive_weight=1,
        cos_temperature=TEMPERATURE,
        negative="first",
        group=GROUP,
        batch_size=BATCH,
        query_max_length=LENGTH,
        key_max_length=LENGTH,
        lr=RATE,
        max_steps=STEPS,
        precision=precision,
    )
    model, rows = open_model(str(MINILM), "base"), given["rows"][: STEPS * BATCH]
    model.max_seq_length = LENGTH
    meter = Meter([sum(row["tokens"] for row in rows[at : at + BATCH]) for at in range(0, len(rows), BATCH)])
    meter.watch(model)
    task = trainer.TaskRows("tool", knobs, given["keys"], rows, [], len(rows), Counter())
    trainer.train(model, [task], knobs, Path("work"))
    meter.report(held_out_loss(model, given))


def train_theirs(given: dict, style: str) -> None:
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from torch.utils.data import BatchSampler, SequentialSampler

    from benchmarks.finetune_peers.meter import Meter

    rows, keys = given["rows"][: STEPS * BATCH], given["keys"]
    if "sorted" in style:
        rows = sorted(rows, key=lambda row: row["tokens"])
        blocks = [rows[at : at + BATCH] for at in range(0, len(rows), BATCH)]
        rows = [row for place in torch.randperm(len(blocks)).tolist() for row in blocks[place]]
    columns = {"anchor": [row["query"] for row in rows], "positive": [keys[row["pos"][0]] for row in rows]}
    columns |= {f"negative_{n}": [keys[row["neg"][n]] for row in rows] for n in range(GROUP - 1)}
    model = SentenceTransformer(str(MINILM))
    model.max_seq_length = LENGTH
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    meter = Meter([sum(row["tokens"] for row in rows[at : at + BATCH]) for at in range(0, len(rows), BATCH)])
    meter.watch(model)
    arguments = SentenceTransformerTrainingArguments(
        output_dir="theirs",
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        warmup_steps=1,
        weight_decay=0.01,
        bf16="bf16" in style,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        batch_sampler=lambda data, batch_size, **_: BatchSampler(SequentialSampler(data), batch_size, True),
    )
    loss = MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)
    SentenceTransformerTrainer(model, arguments, train_dataset=Dataset.from_dict(columns), loss=loss).train()
    meter.report(held_out_loss(model, given))


def score_ours(given: dict, precision: str) -> None:
    from stages.kinds.retriever.parts.lm_scoring import LanguageModel, Prompt, score_prompts

    rows = [Prompt(*map(tuple, parts)) for parts in given["prompts"]]
    model = LanguageModel(SMOL, precision)
    score_prompts(model, rows[:4])
    began = time.perf_counter()
    scores = score_prompts(model, rows)
    report("tokens_per_second", sum(len(row.before) + len(row.answer) for row in rows), began, scores)


def score_theirs(given: dict, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(SMOL, dtype=getattr(torch, dtype)).eval()

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
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="none"
        ).view(len(rows), -1)
        return (-losses.sum(1) / (labels != -100).sum(1)).tolist()

    rows = given["prompts"]
    score(rows[:4])
    began = time.perf_counter()
    scores = [one for start in range(0, len(rows), 4) for one in score(rows[start : start + 4])]
    report("tokens_per_second", sum(len(part) for parts in rows for part in parts), began, scores)


def mine_ours(given: dict, _: str) -> None:
    from stages.kinds.retriever.knobs import MineKnobs
    from stages.kinds.retriever.mine import mined
    from stages.kinds.retriever.parts.mining import Keys
    from stages.kinds.retriever.parts.vectors import Vectors

    knobs = MineKnobs(
        encoder=str(MINILM),
        reranker=str(ROOT / "models/shipped/none"),
        max_length=LENGTH,
        hits=HITS,
        negatives=NEGATIVES,
        tasks=["tool"],
    )
    rows, keys = given["rows"], Keys(given["keys"])
    began = time.perf_counter()
    mined("tool", keys, rows, knobs, Vectors())
    report(
        "queries_per_second", len(rows), began, [[given["keys"][key] for key in row["neg"]] for row in rows]
    )


def mine_theirs(given: dict, dtype: str) -> None:
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    rows, keys = given["rows"], given["keys"]
    pairs = {"query": [row["query"] for row in rows], "positive": [keys[row["pos"][0]] for row in rows]}
    began = time.perf_counter()
    model = SentenceTransformer(str(MINILM))
    model.max_seq_length = LENGTH
    with torch.autocast("cpu", torch.bfloat16) if dtype == "bf16" else nullcontext():
        found = mine_hard_negatives(
            Dataset.from_dict(pairs),
            model,
            corpus=list(keys.values()),
            range_max=HITS,
            num_negatives=NEGATIVES,
            output_format="n-tuple",
            verbose=False,
        )
    chosen = {row["query"]: [row[f"negative_{n}"] for n in range(1, NEGATIVES + 1)] for row in found}
    report("queries_per_second", len(rows), began, [chosen.get(query, []) for query in pairs["query"]])


def bm25_ours(given: dict, _: str) -> None:
    from stages.retrieval.bm25 import Bm25
    from stages.retrieval.ranking import by_bm25

    queries, index = [row["query"] for row in given["rows"]], Bm25(list(given["keys"].values()))
    began = time.perf_counter()
    hits = by_bm25(index, queries, HITS)
    report("queries_per_second", len(queries), began, hits.keys[:, 0].tolist())


def bm25_theirs(given: dict, _: str) -> None:
    import numpy as np
    from rank_bm25 import BM25Okapi

    from stages.core.text import tokens
    from stages.retrieval.bm25 import K1, STOPWORDS_EN, B

    def read(text: str) -> list[str]:
        return [token for token in tokens(text) if token not in STOPWORDS_EN]

    queries = [row["query"] for row in given["rows"]]
    index = BM25Okapi([read(text) for text in given["keys"].values()], k1=K1, b=B)
    began, found = time.perf_counter(), []
    for query in queries:
        scores = index.get_scores(read(query))
        best = np.argpartition(-scores, HITS)[:HITS]
        found.append(int(best[np.argsort(-scores[best], kind="stable")[0]]))
    report("queries_per_second", len(queries), began, found)


CONTESTANTS: dict[str, dict[str, tuple[Callable[[dict, str], None], str]]] = {
    "training": {
        "ours": (train_ours, "bf16-mixed"),
        "ours_fp32": (train_ours, "32-true"),
        "fp32": (train_theirs, "fp32"),
        "bf16": (train_theirs, "bf16"),
        "bf16_sorted": (train_theirs, "bf16 sorted"),
    },
    "scoring": {
        "ours": (score_ours, "bf16-true"),
        "bf16": (score_theirs, "bfloat16"),
        "fp32": (score_theirs, "float32"),
    },
    "mining": {"ours": (mine_ours, ""), "fp32": (mine_theirs, "fp32"), "bf16": (mine_theirs, "bf16")},
    "bm25": {"ours": (bm25_ours, ""), "rank_bm25": (bm25_theirs, "")},
}


# Who ran how fast, and whether all found the same


def agreement(part: str, best: dict[str, dict]) -> dict[str, float]:
    """How far results are from each other; exits where they are no results of the same task."""
    ours, told, allowed = best["ours"], {}, True
    results = {name: found.pop("result", found.get("val_loss")) for name, found in best.items()}
    mine = results.pop("ours")
    if part == "scoring":
        exact = results["fp32"]
        for name, scores in {"ours": mine, **results}.items():
            told[name] = sum(abs(a - b) for a, b in zip(scores, exact, strict=True)) / len(exact)
        allowed = told["ours"] <= SCORE_SPREAD
    for name, theirs in results.items() if part != "scoring" else ():
        if part == "training":
            told[name] = theirs / ours["val_loss"] - 1
            allowed &= abs(told[name]) <= LOSS_SPREAD
        else:
            pairs = list(zip(mine, theirs, strict=True))
            alike = [len(set(a) & set(b)) / NEGATIVES if part == "mining" else a == b for a, b in pairs]
            told[name] = sum(alike) / len(alike)
            allowed &= told[name] >= (SAME_NEGATIVES if part == "mining" else SAME_FIRST)
    told = {name: round(value, 4) for name, value in told.items()}
    if not allowed:
        raise SystemExit(f"{part}: results differ: {told}")
    return told


def peers_python() -> str | None:
    """The interpreter of the peers' environment, which is made where there is none; None without network."""
    venv = Path(os.environ.get("RETRIEVER_VENV") or ROOT / ".venv-retriever")
    python = venv / "bin" / "python"
    if not list(venv.glob("lib/*/site-packages/rank_bm25.py")):
        print(f"making {venv} with {', '.join(PEERS)}, once", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        (site,) = venv.glob("lib/*/site-packages")
        (site / "ours.pth").write_text(sysconfig.get_path("purelib"))
        if subprocess.run([python, "-m", "pip", "install", "-qq", *PEERS]).returncode:
            print("peers that need them are left out", file=sys.stderr, flush=True)
            return None
    return str(python)


def run(python: str, part: str, name: str, data: Path) -> dict:
    """One contestant's figures, from a process and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [python, "-m", "benchmarks.retriever", "--contestant", part, name, str(data)],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "HF_HUB_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
            },
            cwd=folder,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise SystemExit(f"{part}, {name}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    shown = {key: value for key, value in found.items() if key != "result"}
    print(f"  {part}, {name}: {shown}", file=sys.stderr, flush=True)
    return found


def compare(part: str, rounds: int, python: str | None) -> dict:
    rate = "queries_per_second" if part in ("mining", "bm25") else "tokens_per_second"
    best: dict[str, dict | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.json"
        data.write_text(json.dumps(made(part)), encoding="utf-8")
        for _ in range(rounds):
            for name, (contestant, _) in CONTESTANTS[part].items():
                needs_peers = "theirs" in contestant.__name__ and part != "scoring"
                interpreter = python if needs_peers else sys.executable
                found = run(interpreter, part, name, data) if interpreter else None
                if found and found[rate] > (best.get(name) or {rate: 0})[rate]:
                    best[name] = found
                best.setdefault(name, None)
    ran = {name: found for name, found in best.items() if found}
    apart = agreement(part, ran)
    peers = [found[rate] for name, found in ran.items() if not name.startswith("ours")]
    ratio = round(ran["ours"][rate] / max(peers), 2) if peers else None
    print(f"{part}: {ratio} times the best peer; {apart}", file=sys.stderr, flush=True)
    return {"ratio": ratio, "apart": apart, **best}


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
        contestant, style = CONTESTANTS[part][name]
        contestant(json.loads(Path(data).read_text(encoding="utf-8")), style)
        return
    parts = [given.only] if given.only else list(CONTESTANTS)
    python = peers_python() if parts != ["scoring"] else None
    print(
        json.dumps(
            {"benchmark": "retriever", **{part: compare(part, given.rounds, python) for part in parts}}
        )
    )


if __name__ == "__main__":
    main()
