"""Turn accepted answers into training rows.

Reads `data/<dataset>/responses.jsonl`, the corpus and `prompts/<dataset>/student.md`; writes
`data/<dataset>/litgpt/`: `train.json`, `val.json`, `test.json` in litgpt's JSON format (the instruction is
the whole student prompt: the prompt style is `Default`), `rejects.jsonl` with a reason for each answer not
used, and a manifest. Each response ends in exactly one of the four. Outputs hold only lines that the kind of
task does not reject, as it writes them. Several answers about a document give several rows.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, iter_jsonl, json_array, jsonl
from stages.core.messages import say
from stages.core.prompts import Template, render
from stages.core.records import Document, Response
from stages.kinds import registry
from stages.kinds.answers import answer_of, document_of, read_responses
from stages.kinds.kind import Task
from stages.knobs import ConvertKnobs

SPLITS = ("train", "val", "test")


class Verdict(NamedTuple):
    """What the student is to write, its lines, why other lines were dropped, why all of it was, or None."""

    output: str
    kept: list[str]
    dropped: list[str]
    reason: str | None


def judge(response: Response, document: Document, task: Task, min_lines: int) -> Verdict:
    """What becomes of an answer: the part that the student is to learn, or why it is not used."""
    if not response["accepted"]:
        return Verdict("", [], [], response["outcome"])
    try:
        answer = answer_of(response, task)
    except ValueError:
        return Verdict("", [], [], "not in the form that was asked for")
    fitting = task.fit(answer, document)
    lines, kept = task.flat(answer), task.flat(fitting)
    lost = dict.fromkeys(lines).keys() - kept
    dropped = [task.reject(line, document) or task.left_out or "left out" for line in lost]
    reason = None
    if not lines:
        reason = "parses to nothing"
    elif len(kept) < min_lines:
        reason = f"fewer than {min_lines} well-formed lines"
    return Verdict(task.output(fitting), kept, dropped, reason)


def rejected(response: Response, reason: str) -> dict:
    problem = {"problem": response["problem"]} if response.get("problem") else {}
    return {"id": response["id"], "reason": reason, **problem, "response": response["response"]}


def joined(responses: Path, corpus: Path) -> Iterator[tuple[Response, Document | None]]:
    """Each response with its document, or None where `corpus` has none of that id in SPLITS.

    Both files are read side by side. A document is held until the last response about it: in their usual
    order, by id, that is one at a time, and neither file need fit into memory.
    """
    left = Counter(document_of(row) for row in read_responses(responses))
    held: dict[str, Document] = {}
    rows = iter_jsonl(corpus, ("id", "title", "text", "metadata", "split"))
    rest = (row for row in rows if row["id"] in left and row["split"] in SPLITS)
    for response in read_responses(responses):
        name = document_of(response)
        while name not in held and (row := next(rest, None)):
            held[row["id"]] = row
        left[name] -= 1
        yield response, held.get(name) if left[name] else held.pop(name, None)


def run(dataset: str, knobs: ConvertKnobs) -> dict:
    source, corpus = layout.responses(dataset), layout.corpus(dataset) / "documents.jsonl"
    template, task = Template(layout.prompt(dataset, "student")), registry.task(knobs.task)
    accepted: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    lines_dropped: Counter[str] = Counter()
    lines_kept = total = 0
    usable: Counter[str] = Counter()  # answers to train with, by what they are about
    files: dict[str, int] = {}
    with atomic_directory(layout.litgpt_data(dataset), "convert", files) as target, ExitStack() as stack:
        add = {split: stack.enter_context(json_array(target / f"{split}.json")) for split in SPLITS}
        reject = stack.enter_context(jsonl(target / "rejects.jsonl"))
        for total, (response, document) in enumerate(joined(source, corpus), start=1):
            if document is None:
                raise UserError(
                    f"{source}, row {total}: document '{document_of(response)}' is not in {corpus}, "
                    "or of a split that is not asked about; run the prompt stage again"
                )
            verdict = judge(response, document, task, knobs.min_lines)
            lines_dropped.update(verdict.dropped)
            subject = task.subject(document)
            if subject is not None and document["split"] == "train":
                usable[subject] += verdict.reason is None
            if verdict.reason is not None:
                reasons[verdict.reason] += 1
                reject(rejected(response, verdict.reason))
                continue
            lines_kept += len(verdict.kept)
            accepted[document["split"]] += 1
            row = {"id": response["id"], "instruction": render(template, document)}
            add[document["split"]]({**row, "input": "", "output": verdict.output})
        assert accepted.total() + reasons.total() == total, "rows were lost between responses and outputs"
        if not accepted["train"]:
            told = ", ".join(f"{reason}: {count:,}" for reason, count in sorted(reasons.items()))
            raise UserError(
                f"{source}: no answer can be used for training, of {total:,} ({told or 'no response at all'})"
            )
        files |= {**{f"{split}.json": accepted[split] for split in SPLITS}, "rejects.jsonl": reasons.total()}
    for subject in sorted(subject for subject, count in usable.items() if not count):
        say(
            f"convert {dataset}: no answer about '{subject}' can be used, so the student will not learn it "
            f"(the reasons are in {layout.litgpt_data(dataset)}/rejects.jsonl)"
        )
    return {
        "responses": total,
        "accepted": {split: accepted[split] for split in SPLITS},
        "rejected": dict(sorted(reasons.items())),
        "lines": {
            "kept": lines_kept,
            "dropped": lines_dropped.total(),
            "reasons": dict(sorted(lines_dropped.items())),
        },
    }
