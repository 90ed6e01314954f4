"""Turn accepted answers into training rows.

Reads `data/<dataset>/responses.jsonl`, the corpus and `prompts/<dataset>/student.md`; writes
`data/<dataset>/litgpt/`: `train.json`, `val.json`, `test.json` in litgpt's JSON format (the instruction is
the whole student prompt: the prompt style is `Default`), `rejects.jsonl` with a reason for each answer not
used, and a manifest. Each response ends in exactly one of the four. Outputs hold well-formed lines only.
Several answers about a document give several rows.
"""

from collections import Counter

from pydantic import Field

from stages.support import layout
from stages.support.cli import Knobs, stage
from stages.support.errors import UserError
from stages.support.files import atomic_directory, iter_jsonl, write_json, write_jsonl
from stages.support.prompts import Template
from stages.tasks.answers import document_of, lines_of
from stages.tasks.queries import render, well_formed

SPLITS = ("train", "val", "test")
FIELDS = ("id", "accepted", "outcome", "response")


class ConvertKnobs(Knobs):
    min_lines: int = Field(2, ge=1, description="least well-formed lines an answer must have to be used")


def judge(response: dict, min_lines: int) -> tuple[list[str], int, str | None]:
    """(well-formed lines, lines that were not, reason for rejecting the answer or None)."""
    if not response["accepted"]:
        return [], 0, response["outcome"]
    try:
        lines = lines_of(response)
    except ValueError:
        return [], 0, "not in the form that was asked for"
    good = [line for line in lines if well_formed(line)]
    reason = None
    if not lines:
        reason = "parses to nothing"
    elif len(good) < min_lines:
        reason = f"fewer than {min_lines} well-formed lines"
    return good, len(lines) - len(good), reason


def rejected(response: dict, reason: str) -> dict:
    problem = {"problem": response["problem"]} if response.get("problem") else {}
    return {"id": response["id"], "reason": reason, **problem, "response": response["response"]}


@stage("convert", ConvertKnobs)
def command(dataset: str, knobs: ConvertKnobs) -> dict:
    source = layout.responses(dataset)
    corpus = layout.corpus(dataset) / "documents.jsonl"
    documents = {row["id"]: row for row in iter_jsonl(corpus, ("id", "title", "text", "metadata", "split"))}
    template = Template(layout.prompt(dataset, "student"))
    rows: dict[str, list[dict]] = {split: [] for split in SPLITS}
    rejects, reasons, lines_kept, lines_dropped, total = [], Counter(), 0, 0, 0
    for total, response in enumerate(iter_jsonl(source, FIELDS), start=1):
        document = documents.get(document_of(response))
        if document is None:
            raise UserError(
                f"{source}, row {total}: document '{document_of(response)}' is not in {corpus}; "
                "run the prompt stage again"
            )
        good, dropped, reason = judge(response, knobs.min_lines)
        lines_dropped += dropped
        if reason is not None:
            reasons[reason] += 1
            rejects.append(rejected(response, reason))
            continue
        lines_kept += len(good)
        row = {
            "id": response["id"],
            "instruction": render(template, document),
            "input": "",
            "output": "\n".join(good),
        }
        rows[document["split"]].append(row)
    counts = {split: len(rows[split]) for split in SPLITS}
    assert sum(counts.values()) + len(rejects) == total, "rows were lost between responses and outputs"
    if not counts["train"]:
        told = (
            ", ".join(f"{reason}: {count:,}" for reason, count in sorted(reasons.items()))
            or "no response at all"
        )
        raise UserError(f"{source}: no answer can be used for training, of {total:,} ({told})")
    files = {**{f"{split}.json": counts[split] for split in SPLITS}, "rejects.jsonl": len(rejects)}
    with atomic_directory(layout.litgpt_data(dataset), "convert", files) as target:
        for split in SPLITS:
            write_json(target / f"{split}.json", rows[split])
        write_jsonl(target / "rejects.jsonl", rejects)
    return {
        "responses": total,
        "accepted": counts,
        "rejected": dict(sorted(reasons.items())),
        "lines": {"kept": lines_kept, "dropped": lines_dropped},
    }


if __name__ == "__main__":
    command()
