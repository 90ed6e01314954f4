"""Training rows as token arrays.

Reads data/DATASET/litgpt/{train,val}.json and the tokenizer of models/base/BASE. Writes to
data/DATASET/tokens/ ids, labels (both flat) and offsets. Every row is prompt (in the base's chat template if
it has one) + answer + EOS, whole: one longer than `max_length` is an error, or is dropped and counted, never
cut. Warns where the answers fall to pieces, as they do in a language that the base has not learnt.
"""

from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, npy_array
from stages.core.messages import say
from stages.core.rows import records
from stages.core.tokenizer import TextCodec
from stages.engines.load import context_of
from stages.knobs import TokenizeKnobs

SPLITS = ("train", "val")
IGNORE = -100
AT_ONCE = 256  # rows tokenised together
MOST_PIECES = 0.7  # tokens a character of a language that a base knows: 0.2 to 0.4, of code 0.5
ARRAYS = {"ids": "int32", "labels": "int32", "offsets": "int64"}  # ids and labels flat, offsets rows + 1


def run(dataset: str, knobs: TokenizeKnobs) -> dict:
    base = layout.base_model(knobs.base)
    codec = TextCodec(base)
    context = context_of(base)
    if knobs.max_length > context:
        raise UserError(
            f"params.yaml, tokenize.{dataset}.max_length: {knobs.max_length} is more than the context of "
            f"{knobs.base}, {context} tokens"
        )
    metrics: dict[str, dict] = {}
    counts: dict[str, int] = {}
    with atomic_directory(layout.tokens(dataset), producer="tokenize", rows=counts) as directory:
        for split in SPLITS:
            with ExitStack() as stack:
                append = {
                    name: stack.enter_context(npy_array(directory / f"{split}.{name}.npy", dtype))
                    for name, dtype in ARRAYS.items()
                }
                source = layout.litgpt_data(dataset) / f"{split}.json"
                metrics[split] = encode(source, codec, knobs, append)
            counts[f"{split}.offsets.npy"] = metrics[split]["rows"]
    pieces = tokens_per_character(layout.litgpt_data(dataset) / "train.json", codec)
    if pieces > MOST_PIECES:
        say(
            f"tokenize {dataset}: warning: {pieces:.1f} tokens for each character of the answers: "
            f"{knobs.base} has hardly seen their language; take a base that has (docs/guide/base.md)"
        )
    return metrics


def tokens_per_character(source: Path, codec: TextCodec) -> float:
    """How many tokens the answers in the first rows of `source` have for each of their characters."""
    texts = [row["output"] for _, row in islice(records(source), AT_ONCE)]
    return sum(map(len, codec.answers(texts))) / max(sum(map(len, texts)), 1)


def encode(source: Path, codec: TextCodec, knobs: TokenizeKnobs, append: dict[str, Callable]) -> dict:
    """Add the rows of `source`, batch by batch, to the ARRAYS (-100 on the prompt); returns an accounting.

    `append` has, for each of ARRAYS, the function that adds values to it.
    """
    dropped, total = 0, 0
    kept_prompts, kept_answers = array("i"), array("i")
    append["offsets"]([0])
    numbered = records(source)
    while batch := list(islice(numbered, AT_ONCE)):
        for number, row in batch:
            for name in ("id", "instruction", "output"):
                if not isinstance(row.get(name), str) or not row[name].strip():
                    raise UserError(f"{source}, row {number}: field '{name}' must be text that is not blank")
        rows = [row for _, row in batch]
        prompts = codec.prompts([row["instruction"] for row in rows])
        answers = codec.answers([row["output"] for row in rows])
        ids, labels, offsets = [], [], []
        for row, prompt, answer in zip(rows, prompts, answers, strict=True):
            if not prompt or len(answer) < 2:
                raise UserError(f"{source}: row {row['id']!r} has a prompt or an answer without any token")
            if len(prompt) + len(answer) > knobs.max_length:
                if knobs.overlong == "error":
                    size = f"{len(prompt)} prompt + {len(answer)} answer tokens"
                    raise UserError(
                        f"{source}: row {row['id']!r} has {size}, "
                        f"over max_length {knobs.max_length}; shorten the prompt template (`words` filter), "
                        "raise max_length, or set overlong: drop"
                    )
                dropped += 1
                continue
            assert answer[-1] == codec.eos_id
            ids += prompt + answer
            labels += [IGNORE] * len(prompt) + answer
            offsets.append(total + len(ids))
            kept_prompts.append(len(prompt))
            kept_answers.append(len(answer))
        total += len(ids)
        for name, values in (("ids", ids), ("labels", labels), ("offsets", offsets)):
            append[name](values)
    return {
        "rows": len(kept_prompts),
        "dropped_overlong": dropped,
        "tokens": total,
        "target_tokens": sum(kept_answers),
        "rows_ending_in_eos": len(kept_answers),
        "prompt_tokens": histogram(kept_prompts),
        "answer_tokens": histogram(kept_answers),
    }


def histogram(values: Sequence[int], bins: int = 20) -> dict:
    """Smallest, mean and largest value, and counts in equal bins whose `edges` are whole numbers."""
    if not values:
        return {"min": 0, "mean": 0.0, "max": 0, "edges": [], "counts": []}
    width = max(1, -(-max(values) // bins))
    counts = [0] * (max(values) // width + 1)
    for value in values:
        counts[value // width] += 1
    edges = [width * place for place in range(len(counts) + 1)]
    mean = round(sum(values) / len(values), 2)
    return {"min": min(values), "mean": mean, "max": max(values), "edges": edges, "counts": counts}
