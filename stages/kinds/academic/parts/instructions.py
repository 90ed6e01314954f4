"""Instruction rows that people bring: David & Goliath's Synthetic Academic Instruct (SAI), and Alpaca's.

SAI is a CSV with a row for each paragraph, and JSON lines of the same rows, of which only `text` is left: the
whole prompt with its answer. Both are read into fields by where the markers stand: a paragraph may hold the
like of them.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from stages.core.errors import UserError
from stages.core.rows import ending, kind_of, records
from stages.core.tables import read_table
from stages.kinds.written import answers

INSTRUCTION = re.compile(r"\s*Below is an instruction.*?\n### Instruction:[^\n]*\n\nText: ", re.S)
INPUT, RESPONSE = "\n### Input: ", "\n### Response: "
# What the original's script put into the whole text, paragraph included.
REPLACED = (("Human:", "### Input:"), ("Assistant:", "### Response:"))
COLUMNS = ("page", "para_num", "text", "pdf_name", "text_synthetic")
ALPACA = ("instruction", "input", "output")
BENCHMARK = "question"  # a column of the original's benchmarks and results, which nobody trains on


class Instruction(NamedTuple):
    """A question about a text, its answer, and the paper that the text is of, or "". `id` says where."""

    id: str
    text: str
    question: str
    answer: str
    paper: str


class Rejected(NamedTuple):
    id: str
    reason: str


Found = Iterator[Instruction | Rejected]


def files_of(path: Path) -> list[Path]:
    """The files with rows: `path` itself, or those in the folder, CSV first. Raises UserError for none."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    inside = sorted(path.iterdir()) if path.is_dir() else [path]
    tables = [file for file in inside if ending(file) == ".csv" and BENCHMARK not in read_table(file)[0]]
    files = tables + [file for file in inside if ending(file) in (".json", ".jsonl")]
    if not files:
        raise UserError(
            f"{path}: no rows to train with: expected a CSV with the columns {', '.join(COLUMNS)}, JSON "
            f"lines with the field text, or JSON with {', '.join(ALPACA)}; a CSV with a column "
            f"{BENCHMARK!r} is a benchmark, for the stage chunks"
        )
    return files


def read(path: Path, counts: Counter[str]) -> tuple[list[Instruction], list[Rejected]]:
    """The rows of all files, each once, and those of no use; `counts` gets the rows by file and repeats."""
    kept: dict[tuple[str, str], Instruction] = {}
    rejected: list[Rejected] = []
    by_whole: dict[str, Instruction] = {}  # rows of a CSV by the text that JSON has of them
    ids: set[str] = set()
    for file in files_of(path):
        for row in sai_table(file, by_whole) if ending(file) == ".csv" else json_rows(file, by_whole):
            counts[file.name] += 1
            if isinstance(row, Rejected):
                rejected.append(row)
            elif (key := (row.text, row.question)) in kept:
                counts["repeated"] += 1
            elif row.id in ids:
                raise UserError(
                    f"{file}: two rows are '{row.id}' (pdf_name#page.para_num); number them apart"
                )
            else:
                kept[key] = row
                ids.add(row.id)
    return list(kept.values()), rejected


def sai_table(file: Path, by_whole: dict[str, Instruction]) -> Found:
    """The rows of the original's CSV. Texts that semicolons broke into cells, three of them, are mended."""
    names, rows = read_table(file, mend=lambda cells: [*cells[:2], ";".join(cells[2:-2]), *cells[-2:]])
    if missing := [name for name in COLUMNS if name not in names]:
        raise UserError(f"{file}: no column {missing[0]!r}; expected {', '.join(COLUMNS)}")
    for number, cells in rows:
        paper = cells["pdf_name"].strip()
        place = f"{paper}#{cells['page'].strip()}.{cells['para_num'].strip()}"
        row = parsed(place, cells["text_synthetic"], paper, cells["text"])
        if row is None:
            raise UserError(
                f"{file}, row {number}: field 'text_synthetic': expected 'Below is an instruction …', with "
                "'### Instruction:', the row's text, '### Input:' and '### Response:' in this order"
            )
        by_whole[cells["text_synthetic"].strip()] = row
        yield row if row.answer and row.question else Rejected(place, "no question or no answer")


def json_rows(file: Path, by_whole: Mapping[str, Instruction]) -> Found:
    """Rows of JSON: of SAI where they have a `text`, else of Alpaca; those of no input are rejects."""
    for number, record in records(file):
        names = ("text",) if "text" in record else ALPACA
        for name in names:
            if not isinstance(record.get(name), str):
                found = kind_of(record[name]) if name in record else "no such field"
                raise UserError(f"{file}, row {number}: field '{name}': expected a text, found {found}")
        place = f"{file.name}#{number}"
        if "text" in record:
            row = by_whole.get(record["text"].strip()) or parsed(place, record["text"])
            if row is None:
                raise UserError(
                    f"{file}, row {number}: field 'text': expected 'Below is an instruction …', with "
                    "'### Instruction:', 'Text:', '### Input:' and '### Response:' in this order"
                )
        else:
            question, text, answer = (record[name].strip() for name in ALPACA)
            row = Instruction(place, text, question, as_said(answer), "")
            if not text:
                yield Rejected(place, "no input")
                continue
        yield row if row.answer and row.question else Rejected(place, "no question or no answer")


def parsed(place: str, whole: str, paper: str = "", text: str | None = None) -> Instruction | None:
    """The fields of a whole row of SAI, or None where it is none.

    With its `text` known, the question begins behind that, whatever it holds; else at the last marker, since
    a paragraph of a paper has one sooner than a question does.
    """
    head = INSTRUCTION.match(whole)
    if head is None:
        return None
    if text is not None:
        shown = text
        for old, new in REPLACED:  # of the copy that is compared alone: `text` stays as it was written
            shown = shown.replace(old, new)
        end = head.end() + len(shown)
        if not whole.startswith(shown + INPUT, head.end()):
            return None
    else:
        end = whole.rfind(INPUT)
    middle = whole.find(RESPONSE, end)
    if end < head.end() or middle < 0:
        return None
    shown = whole[head.end() : end] if text is None else text
    question, answer = whole[end + len(INPUT) : middle], whole[middle + len(RESPONSE) :]
    return Instruction(place, shown.strip(), question.strip(), as_said(answer), paper)


def as_said(answer: str) -> str:
    """An answer as those of a teacher are read; "" for one without any letter."""
    return next((text for _, text in answers(answer)), "")
