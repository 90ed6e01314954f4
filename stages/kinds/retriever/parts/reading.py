"""Read tasks from files of people: rows, of which task and split a file is, what texts and places mean.

A row is LLM-Embedder's, `{query, pos, neg?, answers?}`, or a question about documents. A file's split is in
its name (train, val or dev, test); other rows are split by a hash of their group. A corpus (corpus.* or
documents.*) is that of the files beside it and in folders below.
"""

import re
from collections import Counter, defaultdict
from pathlib import Path
from string import Formatter
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    Field,
    FiniteFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)

from stages.core.errors import UserError
from stages.core.rows import as_text, ending
from stages.kinds.retriever.knobs import TaskName, TasksKnobs
from stages.kinds.retriever.parts.made import key_id, split_rows
from stages.kinds.retriever.parts.rows import TASKS, Row, Split, Splits, Task
from stages.sources.data_files import READERS, data_files, rows_of

SHOWN = 60  # characters of a value in a message: texts may have a megabyte


def _written(value: Any) -> Any:
    return value if as_text(value) is None else as_text(value)


def _with_letters(text: str) -> str:
    if "\0" in text or not text.strip():
        raise ValueError("holds a NUL character" if "\0" in text else "is empty")
    return text.replace("\r\n", "\n").strip()


def _several(value: Any) -> Any:
    """One text or number is a list of one, as in a column of a table; null and an empty cell of none."""
    return [] if value in (None, "") else value if isinstance(value, list) else [value]


Word = Annotated[str, BeforeValidator(_written)]
Text = Annotated[Word, AfterValidator(_with_letters)]
Texts = Annotated[list[Text], BeforeValidator(_several)]
Words = Annotated[list[Word], BeforeValidator(_several)]
Places = Annotated[list[StrictInt | StrictStr], BeforeValidator(_several)]


class InputRow(BaseModel):
    """A query and what it should find. Fields beside these, as upstream's `pos_scores`, are ignored."""

    query: Text = Field(validation_alias=AliasChoices("query", "question"), description="what is asked")
    query_id: Word = Field("", validation_alias=AliasChoices("query_id", "qid", "id"), description="an id")
    task: TaskName | None = Field(
        None, description="one of the six tasks; `task` in params says of which it is"
    )
    pos: Texts = Field([], description="texts that the query should find")
    neg: Texts = Field([], description="texts that it should not find")
    history: Texts = Field([], description="earlier exchanges that it chooses from")
    pos_index: Places = Field([], description="rows of the corpus from 0, or its ids")
    document_id: Words = Field([], description="ids of the corpus, also numbers; stands for pos_index")
    neg_index: Places = Field([], description="rows of the corpus from 0, or its ids")
    teacher_scores: Annotated[list[FiniteFloat], BeforeValidator(_several)] = Field(
        [], description="a number for each text of pos, then of neg or history"
    )
    answers: Words = Field([], validation_alias=AliasChoices("answers", "answer"), description="texts")
    context: str = Field("", description="text between a key and the query")
    last: str = Field("", description="the last turn of the query alone")
    group: Word = Field("", description="the same for rows that are held out together")


def input_row(where: str, fields: dict) -> InputRow:
    """The row of a file; `where` is file and number. Raises UserError with the field, and what is due."""
    try:
        row = InputRow.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name, found = str(first["loc"][0]), f", found {str(first['input'])[:SHOWN]!r}"
        why = (
            "is missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ") + found
        )
        expected = InputRow.model_fields[name if name in InputRow.model_fields else "query"].description
        raise UserError(f"{where}: field '{name}': {why}; expected {expected}: correct the row") from None
    row.pos_index = row.pos_index or [*row.document_id]
    if row.history and (row.pos or row.neg):
        raise UserError(f"{where}: has `history` beside pos or neg, which it stands for; delete one of them")
    for name in ("pos", "neg"):
        texts, places = getattr(row, name), getattr(row, f"{name}_index")
        if texts and places and len(texts) != len(places):
            raise UserError(
                f"{where}: {len(texts)} texts in {name}, {len(places)} places in {name}_index; give as many"
            )
    row.neg = row.neg or row.history
    count = len(row.pos or row.pos_index) + len(row.neg or row.neg_index)
    if row.teacher_scores and len(row.teacher_scores) != count:
        raise UserError(
            f"{where}: field 'teacher_scores': {len(row.teacher_scores)} numbers for {count} texts; expected "
            "one for each text of pos, then of neg or history: correct it or delete the field"
        )
    return row


PREFIX = "llm-embedder:"  # of upstream's paths, for its --data_root
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "test": "test",
    "eval": "test",
    **dict.fromkeys(("val", "dev", "valid", "validation"), "val"),
}
TASK_NAMES = {name: name for name in TASKS} | {"conversation": "convsearch"}  # as upstream's scripts call it
BY_SCORES = ("chat", "lrlm")  # tasks whose rows need no pos: a language model's scores say what is good


class Corpus:
    """Keys that rows name by their ids or by their places in the file, from 0."""

    def __init__(self, file: Path, template: str, before: str) -> None:
        """Raises UserError for a row without a column of the template, an empty text, an id that is used."""
        self.file, self.before = file, before
        self.texts: dict[str, str] = {}
        columns = [name for _, name, _, _ in Formatter().parse(template) if name]
        for number, (where, row) in enumerate(rows_of([file])):
            cells = {name: as_text(row.get(name)) for name in columns}
            if missing := [name for name, cell in cells.items() if cell is None]:
                raise UserError(
                    f"{where}: key_template {template!r} names '{missing[0]}', which is no text here; use "
                    f"columns that the row has ({', '.join(row)}), like '{{text}}'"
                )
            text = template.format_map(cells).strip()
            given = as_text(next((row[name] for name in ("id", "_id", "docid") if name in row), number))
            if not text or not given:
                raise UserError(
                    f"{where}: its {'id' if text else 'text'} is empty or no text; correct the row"
                )
            self.texts.setdefault(before + given, text)
            if len(self.texts) <= number:
                raise UserError(f"{where}: the id {given!r} is that of a row above, too; change one of them")
        self.ids = list(self.texts)
        self.by_text = {text: name for name, text in reversed(self.texts.items())}

    def resolve(self, where: str, field: str, place: int | str) -> str:
        """The id of what a row names. Raises UserError where there is none."""
        name = self.before + place if isinstance(place, str) else None
        if isinstance(place, int) and 0 <= place < len(self.ids):
            name = self.ids[place]
        if name not in self.texts:
            raise UserError(
                f"{where}: {place!r}, named as {field}, is not in {self.file}; give an id of it, or a "
                f"number of its {len(self.ids):,} rows, from 0"
            )
        return name


class Reader:
    """What is gathered while files are read: keys and rows of each task, counts of what was found."""

    def __init__(self) -> None:
        self.keys: dict[str, dict[str, str]] = defaultdict(dict)
        self.rows: dict[str, dict[Path, list[Row]]] = defaultdict(dict)
        self.found: Counter = Counter()

    def read(self, file: Path, inside: Path, corpus: Corpus | None, default: str) -> None:
        """Take in a file; `inside` is its path in the folder. Raises UserError for a row that is wrong."""
        words = re.split(r"[/._-]", inside.as_posix().lower())
        task = next((TASK_NAMES[word] for word in reversed(words) if word in TASK_NAMES), default)
        rows: dict[str, Row] = {}
        for number, (where, fields) in enumerate(rows_of([file])):
            row = input_row(where, fields)
            if row.task and row.task != task and rows:
                raise UserError(
                    f"{where}: is of the task {row.task}, rows above of {task}; give each a file of its own"
                )
            task, name = row.task or task, row.query_id or str(number)
            if name in rows:
                raise UserError(f"{where}: the id {name!r} is that of a row above, too; change one of them")
            labelled = self.resolved(where, task, row, corpus)
            measured = bool(row.answers) and split_of(inside) != "train"  # by the answers in what is found
            if not labelled["pos"] and "among" not in labelled and not measured:
                raise UserError(
                    f"{where}: field 'pos' is missing; expected what the query should find: pos (texts), "
                    "pos_index (rows of a corpus), or a history"
                )
            rows[name] = {"id": name, **labelled}
        if not rows:
            raise UserError(f"{file}: zero rows; put rows there or delete the file")
        self.rows[task][inside] = list(rows.values())
        self.keys[task] |= corpus.texts if corpus else {}

    def resolved(self, where: str, task: str, row: InputRow, corpus: Corpus | None) -> dict:
        """The row with ids of keys in place of texts; with `among` where only scores say what is good."""
        pos, neg = (self.named(where, task, field, row, corpus) for field in ("pos", "neg"))
        unique = list(dict.fromkeys([*pos, *neg]))  # a key that stands twice counts where it comes first
        self.found["keys that a row names again"] += len(pos + neg) - len(unique)
        positives, negatives = unique[: len(set(pos))], unique[len(set(pos)) :]
        scored = zip(pos + neg, row.teacher_scores, strict=True) if row.teacher_scores else ()
        score = dict(reversed(list(scored)))
        by_scores = row.history or row.teacher_scores or task in BY_SCORES
        optional = {
            "teacher_scores": [score[name] for name in unique] if score else [],
            "among": negatives if not pos and by_scores else [],
            "neg": negatives,
            "answers": [answer.strip() for answer in row.answers if answer.strip()],
            "context": row.context,
            "last": row.last,
        }
        given = {name: value for name, value in optional.items() if value}
        return {"query": row.query, "pos": positives, **given, "group": row.group or [*unique, row.query][0]}

    def named(self, where: str, task: str, field: str, row: InputRow, corpus: Corpus | None) -> list[str]:
        """Ids of a field's keys: by their places where there is a corpus, else by their texts."""
        texts, places = getattr(row, field), getattr(row, f"{field}_index")
        if corpus and places:
            ids = [corpus.resolve(where, field, place) for place in places]
            differ = sum(corpus.texts[name] != text for name, text in zip(ids, texts, strict=False))
            self.found[f"texts of {field} unlike the corpus's at {field}_index, which counts"] += differ
            return ids
        if places and not texts:
            raise UserError(
                f"{where}: names {places[0]!r} of a corpus as {field}, and there is none; put it into the "
                f"folder as corpus.jsonl, or give texts as {field}"
            )
        ids = [(corpus.by_text.get(text) if corpus else None) or key_id(text) for text in texts]
        self.keys[task] |= dict(zip(ids, texts, strict=True))
        return ids


def tasks_of_files(knobs: TasksKnobs) -> tuple[dict[str, Task], Counter]:
    """The tasks in the files at `path`, and counts of what was found in their rows. Raises UserError."""
    root, reader = Path(knobs.path), Reader()
    files, corpus_files = source_files(knobs)
    corpora = {}
    for folder, file in corpus_files.items():
        before = f"{folder.relative_to(root)}/" if len(corpus_files) > 1 else ""
        corpora[folder] = Corpus(file, knobs.key_template, before)
    for file in files:
        corpus = next((corpora[folder] for folder in file.parents if folder in corpora), None)
        reader.read(file, file.relative_to(root if file != root else root.parent), corpus, knobs.task)
    tasks = {task: Task(reader.keys[task], placed(task, own, knobs)) for task, own in reader.rows.items()}
    return tasks, reader.found


def split_of(file: Path) -> Split:
    """The split that a file's name says, as `nq-test.json`."""
    words = re.split(r"[._-]", file.name.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "train")


def placed(task: str, files: dict[Path, list[Row]], knobs: TasksKnobs) -> Splits:
    """The rows of each split; where a task has several files, their ids begin with its name.

    Raises UserError where none is left to train on.
    """
    given: dict[Split, list[Row]] = defaultdict(list)
    for inside, rows in files.items():
        before = f"{inside.as_posix().removesuffix(ending(inside))}/" if len(files) > 1 else ""
        given[split_of(inside)] += [{**row, "id": before + row["id"]} for row in rows]
    shares = [0 if split in given else getattr(knobs, f"{split}_share") for split in ("val", "test")]
    others = given.pop("train", [])
    splits = split_rows(others, *shares)
    if others and not splits["train"]:
        raise UserError(
            f"{knobs.path}: no row of {task} is left for train: all {len(others):,} share positives "
            "or queries, and are held out together; add rows, or set val_share and test_share to 0"
        )
    return {split: own + given[split] for split, own in splits.items()}


def source_files(knobs: TasksKnobs) -> tuple[list[Path], dict[Path, Path]]:
    """(files of rows, {folder: corpus of the files in it}). Raises UserError where there are none."""
    root = Path(knobs.path)
    if root.is_file() and not (knobs.corpus or knobs.files):
        return [root], {}
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; set `path` to the folder that holds your rows")
    present = [file for file in data_files(root, "**/*") if ending(file) in READERS]
    corpora = [file for file in present if file.name.split(".")[0] in ("corpus", "documents")]
    if knobs.corpus:
        corpora = [named_file(root, knobs.corpus)]
    by_folder = {root if knobs.corpus else file.parent: file for file in corpora}
    if len(by_folder) < len(corpora):
        raise UserError(f"{root}: a folder in it holds two corpora; set `corpus` to one of them")
    rows = [named_file(root, name) for name in knobs.files] or [
        file for file in present if file not in corpora
    ]
    if not rows:
        raise UserError(f"{root}: no file of rows ({', '.join(READERS)}) in it; put your rows there")
    return rows, by_folder


def named_file(root: Path, name: str) -> Path:
    """The file that a knob names, as upstream names it, too. Raises UserError where it is not there."""
    name = name.removeprefix(PREFIX)
    for path in (root / name, root / name.replace("conversation/", "convsearch/", 1)):
        if path.is_file():
            return path
    raise UserError(f"{root / name}: no such file; correct its name in `files` or `corpus`")
