"""Make training rows of instruction rows that somebody has, in place of a teacher's answers.

Reads the files at `path` (docs/kinds/academic.md) and prompts/DATASET/student.md, which shows the text and
`metadata.question`. Writes data/DATASET/litgpt/ as the stage convert does. All rows of a paper are in one
split; of rows that name none each is its own. Held out are `test_share` of the papers, or rows, rounded down,
in the order of a hash.
"""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, json_array, jsonl
from stages.core.hashing import stable_integer
from stages.core.messages import say
from stages.core.prompts import Template, render
from stages.evaluation.unanswered import says_not
from stages.kinds.academic.knobs import InstructKnobs
from stages.kinds.academic.parts.instructions import Instruction, Rejected, files_of, read
from stages.kinds.academic.parts.split import shortest_kept

SPLITS = ("train", "val", "test")


def run(dataset: str, knobs: InstructKnobs) -> dict:
    template, counts = Template(layout.prompt(dataset, "student")), Counter[str]()
    rows, rejected = read(Path(knobs.path), counts)
    repeated = counts.pop("repeated", 0)
    least = shortest_kept([row.text for row in rows], knobs.shortest)
    rejected += [Rejected(row.id, "a text of the shortest") for row in rows if len(row.text) < least]
    split_of = splits([row for row in rows if len(row.text) >= least], knobs)
    rows = sorted((row for row in rows if row in split_of), key=lambda row: row.id)
    accepted = Counter(split_of.values())
    if not accepted["train"]:
        raise UserError(f"{knobs.path}: no row is left to train with, of {counts.total():,}")
    if nameless := sum(not row.paper for row in rows):
        say(f"instruct {dataset}: {nameless:,} rows name no paper, so rows of one paper may be in two splits")
    files: dict[str, int] = {"rejects.jsonl": len(rejected)}
    with atomic_directory(layout.litgpt_data(dataset), "instruct", files) as target, ExitStack() as stack:
        add = {split: stack.enter_context(json_array(target / f"{split}.json")) for split in SPLITS}
        reject = stack.enter_context(jsonl(target / "rejects.jsonl"))
        for row in rows:
            document = {
                "id": row.id,
                "title": row.paper,
                "text": row.text,
                "metadata": {"pdf": row.paper, "question": row.question},
                "split": split_of[row],
            }
            prompt = render(template, document)
            add[split_of[row]]({"id": row.id, "instruction": prompt, "input": "", "output": row.answer})
        for one in rejected:
            reject(one._asdict())
        files |= {f"{split}.json": accepted[split] for split in SPLITS}
    return {
        "rows": dict(counts),
        "repeated": repeated,
        "papers": len({row.paper for row in rows} - {""}),
        "unanswerable": sum(says_not(row.answer) for row in rows),
        "accepted": {split: accepted[split] for split in SPLITS},
        "rejected": dict(sorted(Counter(one.reason for one in rejected).items())),
    }


def splits(rows: list[Instruction], knobs: InstructKnobs) -> dict[Instruction, str]:
    """The split of each row that takes part: `limit` of those of train, few of which say nothing."""
    groups = sorted(
        {row.paper or row.id for row in rows}, key=lambda group: stable_integer("instruct", group)
    )
    test = int(len(groups) * knobs.test_share)
    val = test + max(1, int(len(groups) * knobs.val_share))
    split_of_group = {
        group: "test" if place < test else "val" if place < val else "train"
        for place, group in enumerate(groups)
    }
    split_of = {row: split_of_group[row.paper or row.id] for row in rows}
    train = [row for row in rows if split_of[row] == "train"]
    train.sort(key=lambda row: stable_integer("limit", row.id))
    silent = [row for row in train if says_not(row.answer)]
    telling = [row for row in train if not says_not(row.answer)]
    total = round(len(telling) / (1 - knobs.unanswerable))
    total = min(knobs.limit or total, total)
    silent = silent[: round(knobs.unanswerable * total)]
    taken = {*silent, *telling[: total - len(silent)]}
    return {row: split for row, split in split_of.items() if split != "train" or row in taken}


def check_source(knobs: InstructKnobs) -> None:
    """Raises UserError where there are no rows, before a base model is fetched."""
    files_of(Path(knobs.path))
