"""Make training rows of questions and passages: what a student reads, and what it is to write.

Reads data/DATASET/passages/, data/DATASET/retrieved/, prompts/DATASET/student.md and the tokenizer of
models/base/BASE. Writes data/DATASET/litgpt/ as the stage convert does, and context.json in it: the knobs, so
that answering makes prompts alike. Nothing of question, history or answer is cut; how many passages were cut
or left out is counted. An answer of more than `answer_length` tokens is a reject.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, json_array, jsonl, read_object, verify_manifest, write_json
from stages.core.hashing import stable_integer, stable_unit
from stages.core.prompts import Template
from stages.core.tokenizer import TextCodec
from stages.kinds.rag import places
from stages.kinds.rag.knobs import ConvertRagKnobs
from stages.kinds.rag.parts.context import Prompts, gold_first
from stages.kinds.rag.parts.questions import coverage
from stages.kinds.rag.parts.rows import Question, read_found, read_passages, read_questions
from stages.retrieval.passages import Passage


def run(dataset: str, knobs: ConvertRagKnobs) -> dict:
    passages = read_passages(dataset)
    verify_manifest(places.retrieved(dataset))
    depth = read_object(places.retrieved(dataset) / places.RETRIEVER)["depth"]
    if knobs.retrieve > depth:
        raise UserError(
            f"convert_rag.{dataset}: retrieve is {knobs.retrieve}, and retrieved.depth {depth}; raise depth"
        )
    template = Template(layout.prompt(dataset, "student"))
    prompts = Prompts(template, TextCodec(layout.base_model(knobs.base)), knobs)
    counts: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    files: dict[str, int] = {}
    covered = 0.0
    with atomic_directory(layout.litgpt_data(dataset), "convert_rag", files) as target, ExitStack() as stack:
        reject = stack.enter_context(jsonl(target / "rejects.jsonl"))
        for split in ("train", "val", "test"):
            add = stack.enter_context(json_array(target / f"{split}.json"))
            found = read_found(dataset, split)
            for row in read_questions(dataset, split):
                answer = prompts.codec.disarmed(row["answer"])
                tokens = len(prompts.codec.answers([answer])[0])
                if tokens > knobs.answer_length:
                    reason = "answer longer than answer_length"
                    rejected[reason] += 1
                    reject({"id": row["id"], "reason": reason, "tokens": tokens, "response": row["answer"]})
                    continue
                prompt = prompts.of(row, shown(row, found[row["id"]]["passages"], passages, knobs))
                add({"id": row["id"], "instruction": prompt.text, "input": "", "output": answer})
                accepted[split] += 1
                counts["passages"] += len(prompt.passages)
                counts["passages_cut"] += prompt.cut
                counts["passages_dropped"] += prompt.dropped
                covered += coverage(row["answer"], prompt.text)
                counts["without_gold"] += not set(row["gold"]) & set(prompt.passages)
            files[f"{split}.json"] = accepted[split]
        files["rejects.jsonl"] = rejected.total()
        if not accepted["train"]:
            raise UserError(
                f"convert_rag.{dataset}: no row to train with: all answers have more than "
                f"{knobs.answer_length} tokens; raise answer_length"
            )
        write_json(target / places.CONTEXT, knobs.model_dump())
    answered = round(covered / accepted.total(), 4)  # of the words of answers, in their prompts
    return {"accepted": dict(accepted), "rejected": dict(rejected), "answer_in_prompt": answered, **counts}


def shown(
    row: Question, found: Sequence[str], passages: Mapping[str, Passage], knobs: ConvertRagKnobs
) -> list[Passage]:
    """The passages of a training prompt, in order.

    mode sft: gold ones alone. swr: gold ones, then others up to `retrieve`; in rows that do without gold
    (`gold`; RAFT, Zhang et al. 2024) others alone.
    """
    chosen = list(row["gold"])
    if knobs.mode == "swr":
        others = row.get("hard", []) if knobs.negatives == "hard" else found
        without = knobs.gold == "share" and stable_unit("gold", knobs.seed, row["id"]) >= knobs.gold_share
        if knobs.gold == "when_retrieved":
            without = not set(row["gold"]) & set(found[: knobs.retrieve])
        chosen = gold_first(row, others, knobs.retrieve)
        if without:
            chosen = [name for name in others if name not in row["gold"]][: knobs.retrieve] or chosen
    if knobs.order == "shuffled":
        chosen.sort(key=lambda name: stable_integer("order", knobs.seed, row["id"], name))
    elif knobs.order == "rank":
        rank = {name: number for number, name in enumerate(found)}
        chosen.sort(key=lambda name: rank.get(name, len(rank)))
    return [passages[name] for name in chosen]
