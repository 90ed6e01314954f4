"""Tiny seeded Hugging Face models with a real tokenizer, saved to disk: what tests use in place of a hub."""

import atexit
import copy
import shutil
import tempfile
from collections.abc import Callable
from contextlib import chdir
from functools import cache, wraps
from pathlib import Path

KINDS = ("pythia", "llama", "mistral", "qwen2", "qwen3", "phi", "phi3")
BOS, EOS = "<|begin|>", "<|end|>"
WORDS = """how to compute the singular value decomposition of a matrix in numpy return an array with same
shape as given input sort values along axis plot a line histogram with colors read csv file into data
frame select rows columns by label group join merge reshape pivot table sparse random forest
classifier fit transform predict scores cross validation split train test interpolate curve optimize
minimum function gradient solve linear system graph shortest path nodes edges distance nearest
neighbors cluster kernel convolution filter signal fourier transform query document page parameter
default none true false optional int float str list dict tuple index series rolling window mean
variance standard deviation median quantile sample seed distribution probability density normal
convert date time zone format string parse replace strip lower upper count unique missing nan fill
drop duplicate"""


def tiny_tokenizer(vocab: int = 512, bos: bool = False):
    """A byte-level BPE tokenizer (transformers, fast) trained on `WORDS`; `bos` adds BOS before any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([WORDS, *WORDS.split("\n"), *(" " + word for word in WORDS.split())], trainer)
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, core.token_to_id(BOS))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=BOS, eos_token=EOS)
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
    return tokenizer


@cache
def tokenizer_folder() -> str:
    """A directory with the files of `tiny_tokenizer`, one for all tests of a process."""
    directory = tempfile.mkdtemp(prefix="tiny-tokenizer-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def made_once(make: Callable) -> Callable:
    """Decorates a function that fills the working directory: asked for the same again, its files are copied.

    They must depend on the arguments alone, and hold no absolute paths.
    """
    made: dict[str, tuple[str, object]] = {}

    @wraps(make)
    def copied(*arguments, **options):
        key = repr((arguments, sorted(options.items())))
        if key not in made:
            directory = tempfile.mkdtemp(prefix="made-once-")
            atexit.register(shutil.rmtree, directory, ignore_errors=True)
            with chdir(directory):
                made[key] = directory, make(*arguments, **options)
        directory, result = made[key]
        shutil.copytree(directory, ".", dirs_exist_ok=True)
        return copy.deepcopy(result)

    return copied


def tiny_config(kind: str, tied: bool = False, vocab: int = 512):
    """The transformers config of a model with 2 layers, 32 wide, context 256 and `vocab` tokens."""
    from transformers import (
        GPTNeoXConfig,
        LlamaConfig,
        MistralConfig,
        Phi3Config,
        PhiConfig,
        Qwen2Config,
        Qwen3Config,
    )

    shape = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    grouped = {**shape, "intermediate_size": 64, "num_key_value_heads": 2, "pad_token_id": None}
    if kind == "pythia":
        return GPTNeoXConfig(**shape, intermediate_size=128, rotary_pct=0.25, use_parallel_residual=not tied)
    if kind == "llama":
        return LlamaConfig(**grouped, rms_norm_eps=1e-5)
    if kind == "mistral":
        return MistralConfig(**grouped, sliding_window=200)
    if kind == "phi":  # with a head's bias, and heads of which half is turned
        return PhiConfig(**shape, intermediate_size=128, partial_rotary_factor=0.5)
    if kind == "phi3":
        return Phi3Config(**grouped, sliding_window=None)
    if kind == "qwen2":
        return Qwen2Config(**grouped)
    if kind == "qwen3":
        return Qwen3Config(**grouped, head_dim=16)
    raise ValueError(f"kind must be one of {KINDS}, not {kind!r}")


def tiny_model(
    directory: Path, kind: str = "pythia", tied: bool = False, vocab: int = 512, seed: int = 0
) -> Path:
    """Save a seeded random model of `kind` and its tokenizer in `directory`; returns it.

    Weights are larger than at a usual start (biases and norms are random too), so that a mistake in any of
    them shows in the logits. A tied pythia has serial residuals, Llama adds BOS. There is a manifest, as in
    what stages write.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    from stages.core.files import write_manifest

    directory = Path(directory)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(kind, tied, vocab), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.dim() > 1 else 0.2))
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=1)
    model.save_pretrained(directory)
    tiny_tokenizer(vocab, bos=kind == "llama").save_pretrained(directory)
    write_manifest(directory, "test", {})
    return directory


def tiny_rows(count: int, seed: int = 0) -> list[dict]:
    """Rows as in data/<d>/litgpt/*.json: word salad prompts of 6–41 words, one to four lines of answer."""
    import random

    choose, words = random.Random(seed), WORDS.split()
    rows = []
    for number in range(count):
        prompt = " ".join(choose.choices(words, k=choose.randint(5, 40)))
        lines = [" ".join(choose.choices(words, k=4)) for _ in range(choose.randint(1, 4))]
        answer = "\n".join(lines)
        prompt = f"{prompt}\nqueries:"
        rows.append({"id": f"r{number:05d}", "instruction": prompt, "input": "", "output": answer})
    return rows


def tiny_dataset(dataset: str, train: int = 40, val: int = 8) -> None:
    """Write data/`dataset`/litgpt/{train,val,test}.json and its student.md in the working directory."""
    import json

    prompt = Path("prompts") / dataset / "student.md"
    prompt.parent.mkdir(parents=True, exist_ok=True)
    prompt.write_text("{{ document.title }}\n{{ document.text }}\nqueries:\n")
    directory = Path("data") / dataset / "litgpt"
    directory.mkdir(parents=True, exist_ok=True)
    for place, (split, count) in enumerate({"train": train, "val": val, "test": 4}.items()):
        rows = tiny_rows(count, seed=place)
        (directory / f"{split}.json").write_text(json.dumps(rows), encoding="utf-8")
