"""Rows of retrieval tasks and a tiny encoder: what tests of the kind retriever use in place of its stages."""

import json
import random
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import numpy as np
import torch

from stages.core.files import read_jsonl, write_jsonl
from stages.kinds.retriever.parts.rows import SPLITS, Row, Task, write_tasks
from tests.helpers.tiny import WORDS, tiny_tokenizer

SIZES = {"train": 24, "val": 6, "test": 6}


def tiny_encoder(directory: Path, seed: int = 0, dims: int = 32, chat: bool = False) -> Path:
    """Save a sentence-transformers directory with a seeded random BERT of two layers; returns it.

    chat: with a chat template, which its texts then go through.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel

    plain = Path(f"{directory}-plain")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=512,
            hidden_size=dims,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=128,
            initializer_range=0.2,
        )
        BertModel(config).save_pretrained(plain)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.model_max_length = 64
    if not chat:
        tokenizer.chat_template = None
    tokenizer.save_pretrained(plain)
    parts = [Transformer(str(plain)), Pooling(dims), Normalize()]
    SentenceTransformer(modules=parts, device="cpu").save_pretrained(str(directory), create_model_card=False)
    return Path(directory)


def tiny_keys(count: int, seed: int = 0) -> dict[str, str]:
    """{id: text}: texts of 3 to 30 words."""
    choose, words = random.Random(seed), WORDS.split()
    return {f"k{n:03d}": " ".join(choose.choices(words, k=choose.randint(3, 30))) for n in range(count)}


def tiny_rows(task: str, split: str, keys: dict[str, str], count: int, negatives: int = 6) -> list[Row]:
    """Queries of words of their positive. convsearch and tool have no scores, chat and lrlm no pos."""
    choose, rows = random.Random(f"{task} {split}"), []
    for number in range(count):
        drawn = choose.sample(sorted(keys), negatives + 1)
        pos = [] if task in ("chat", "lrlm") else drawn[:1]
        neg = drawn if not pos else drawn[1:]
        query = " ".join(keys[drawn[0]].split()[: choose.randint(2, 8)]) + f" {number}"
        row: Row = {
            "id": f"{task}-{split}-{number:03d}",
            "query": query,
            "pos": pos,
            "neg": neg,
            "group": "g",
        }
        if task not in ("convsearch", "tool"):
            row["teacher_scores"] = [round(choose.uniform(-3, 0), 3) for _ in drawn]
        rows.append(row)
    return rows


def scored_rows(dataset: str, *tasks: str, sizes: dict[str, int] = SIZES, part: str = "scored") -> Path:
    """Write data/DATASET/PART with rows of these tasks (default: qa) in the working directory."""
    folder, made = Path("data") / dataset / part, {}
    for place, task in enumerate(tasks or ("qa",)):
        keys = tiny_keys(40, seed=place)
        made[task] = Task(
            keys, {split: tiny_rows(task, split, keys, sizes.get(split, 0)) for split in SPLITS}
        )
    write_tasks(folder, "test", made)
    return folder


def read_keys(task: Path) -> dict[str, str]:
    """{id: text} of a task's folder."""
    return {key["id"]: key["text"] for key in read_jsonl(task / "keys.jsonl")}


def read_rows(task: Path, split: str) -> list[Row]:
    return read_jsonl(task / f"{split}.jsonl")


def edit_rows(folder: Path, task: str, change, split: str = "train") -> None:
    """Rewrite a split of a task with `change` made to each row, and the manifest."""
    from stages.core.files import write_manifest

    file = folder / task / f"{split}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        change(row)
    write_jsonl(file, rows)
    write_manifest(folder, "test", {})


@contextmanager
def place_to_train(directory: Path) -> Iterator[Path]:
    """`directory` as the working directory, with the encoder models/base/t and the rows of dataset `d`."""
    with chdir(directory):
        tiny_encoder(Path("models/base/t"))
        scored_rows("d", "qa", "chat", "tool")
        yield directory


class ByLength:
    """In place of a cross-encoder: shorter texts are better."""

    device = torch.device("cpu")

    def predict(self, pairs, **_):
        return np.array([-float(len(text)) for _, text in pairs])
