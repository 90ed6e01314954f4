"""A tiny seeded T5 with a Unigram tokenizer, and a dataset of the kind rag for it: made here, no hub."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

from stages.core.files import write_jsonl, write_manifest
from stages.student.formats.seq2seq import save_seq2seq
from tests.helpers.tiny import WORDS

VOCABULARY = 320
STUDENT = """Answer the question from the passages.
{% for passage in document.metadata.passages %}
{{ passage.title }}: {{ passage.text | oneline }}
{% endfor %}
Question: {{ document.text | oneline }}
Answer:
"""


def tiny_t5_tokenizer() -> T5Tokenizer:
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    core.train_from_iterator([*WORDS.split("\n"), *STUDENT.split("\n")], trainer)
    vocab = json.loads(core.to_str())["model"]["vocab"]
    return T5Tokenizer(vocab=[tuple(entry) for entry in vocab], extra_ids=4)


def tiny_t5(directory: Path, seed: int = 0, dropout: float = 0.1, tied: bool = False) -> Path:
    """Save a T5 of 2 + 2 layers, 32 wide, gated, and its tokenizer; returns it."""
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        dropout_rate=dropout,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=tied,
        decoder_start_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.flip(0).clone())
    save_seq2seq(model, Path(directory))
    tiny_t5_tokenizer().save_pretrained(directory)
    return Path(directory)


def tiny_rag(dataset: str, questions: int = 12) -> None:
    """Passages, questions and what was retrieved for them, and student.md, in the working directory."""
    words, folder = WORDS.split(), Path("data") / dataset
    passages = [
        {
            "id": f"p{n}",
            "title": words[n],
            "text": " ".join(words[n : n + 5 + n % 7]),
            "source": f"d{n}",
            "seq": 0,
            "start": 0,
            "end": 1,
        }
        for n in range(24)
    ]
    (folder / "passages").mkdir(parents=True)
    write_jsonl(folder / "passages/passages.jsonl", passages)
    for split, count in {"train": questions, "val": 4, "test": 3}.items():
        rows = [
            {
                "id": f"{split}{n}",
                "question": f"what is {words[n]}",
                "answer": " ".join(words[n + 1 : n + 4]),
                "gold": [f"p{n}"],
                "source": f"d{n}",
            }
            for n in range(count)
        ]
        write_jsonl(folder / f"passages/{split}.jsonl", rows)
        found = [
            {"id": row["id"], "passages": [f"p{(7 * n + k) % 24}" for k in range(1 + n % 4)], "scores": []}
            for n, row in enumerate(rows)
        ]
        write_jsonl(folder / f"retrieved/{split}.jsonl", found)
    write_manifest(folder / "passages", "test", {})
    prompt = Path("prompts") / dataset / "student.md"
    prompt.parent.mkdir(parents=True)
    prompt.write_text(STUDENT)


def some_prompts(*lengths: int, seed: int = 0) -> list[list[int]]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (n,), generator=random).tolist() for n in lengths]
