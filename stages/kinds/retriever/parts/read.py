"""Read tasks from files of people: of which task and split a file is, what its texts and places mean.

A file's split is in its name (train, val or dev, test); other rows are split by a hash of their group. A
corpus (corpus.* or documents.*) is that of the files beside it and in folders below.
"""

import re
from collections import Counter, defaultdict
from pathlib import Path
from string import Formatter

from stages.core.errors import UserError
from stages.core.rows import as_text, ending
from stages.kinds.retriever.knobs import TasksKnobs
from stages.kinds.retriever.parts.input_rows import InputRow, input_row
from stages.kinds.retriever.parts.made import Splits, Task, key_id, split_rows
from stages.kinds.retriever.parts.rows import TASKS, Row
from stages.sources.data_files import READERS, data_files, rows_of

PREFIX = "llm-embedder:"  # of upstream's paths, for its --data_root
CORPORA = ("corpus", "documents")
SPLIT_NAMES = dict.fromkeys(("val", "dev", "valid", "validation"), "val") | {
    "train": "train",
    "test": "test",
}
TASK_NAMES = {name: name for name in TASKS} | {"conversation": "convsearch"}  # as upstream's scripts call it
OWN_CANDIDATES = ("chat", "lrlm")  # tasks whose rows need no pos: a language model's scores say what is good


class Corpus:
    """Keys that rows name by their ids or by their places in the file, from 0."""

    def __init__(self, file: Path, template: str, before: str) -> None:
        """Raises UserError for a row without a column of the template, an empty text, an id that is used."""
        self.file, self.before = file, before
        self.texts: dict[str, str] = {}
        columns = [name for _, name, _, _ in Formatter().parse(template) if name]
        for number, (where, row) in enumerate(rows_of([file])):
            missing = next((name for name in columns if as_text(row.get(name)) is None), None)
            if missing is not None:
                raise UserError(
                    f"{where}: key_template {template!r} names '{missing}', of which the row has no text; "
                    f"it has {', '.join(row) or 'none'}: set key_template, like '{{text}}'"
                )
            text = template.format_map({name: as_text(row[name]) for name in columns}).strip()
            given = as_text(next((row[name] for name in ("id", "_id", "docid") if name in row), number))
            if not text or given is None:
                raise UserError(
                    f"{where}: {'its text is empty' if given else 'its id is no text'}; correct the row"
                )
            self.texts.setdefault(before + given, text)
            if len(self.texts) <= number:
                raise UserError(
                    f"{where}: the id {given!r} is that of a row above, too; give each row its own"
                )
        if not self.texts:
            raise UserError(
                f"{file}: zero rows; put the texts there that queries should find, or delete the file"
            )
        self.ids = list(self.texts)
        self.by_text = {text: name for name, text in reversed(self.texts.items())}

    def resolve(self, where: str, field: str, place: int | str) -> str:
        """The id of what a row names. Raises UserError where there is none."""
        if isinstance(place, int) and 0 <= place < len(self.ids):
            return self.ids[place]
        if isinstance(place, str) and self.before + place in self.texts:
            return self.before + place
        raise UserError(
            f"{where}: field '{field}' names {place!r}, which is not in {self.file} ({len(self.ids):,} rows, "
            "counted from 0, or their ids); correct it"
        )


class Reader:
    """What is gathered while files are read: keys and rows of each task, counts of what was found."""

    def __init__(self) -> None:
        self.keys: dict[str, dict[str, str]] = defaultdict(dict)
        self.rows: dict[str, dict[Path, list[Row]]] = defaultdict(dict)
        self.found: Counter = Counter()

    def read(self, file: Path, inside: Path, corpus: Corpus | None, default: str) -> None:
        """Take in a file; `inside` is its path in the folder. Raises UserError for a row that is wrong."""
        words = re.split(r"[/._-]", inside.as_posix().lower())
        task = next((TASK_NAMES[word] for word in reversed(words) if word in TASK_NAMES), None)
        rows: list[Row] = []
        seen: dict[str, str] = {}
        for number, (where, fields) in enumerate(rows_of([file])):
            row = input_row(where, fields)
            if row.task and row.task != task and rows:
                raise UserError(
                    f"{where}: is of the task {row.task}, the rows above of {task}; put each task "
                    "into a file of its own"
                )
            task = row.task or task or default
            name = row.query_id or str(number)
            if name in seen:
                raise UserError(
                    f"{where}: the id {name!r} is that of {seen[name]}, too; give each row its own"
                )
            seen[name] = where
            rows.append({"id": name, **self.resolved(where, task, row, corpus)})
        if not rows:
            raise UserError(f"{file}: zero rows; put rows there or delete the file")
        self.rows[task][inside] = rows
        if corpus:
            self.keys[task] |= corpus.texts

    def resolved(self, where: str, task: str, row: InputRow, corpus: Corpus | None) -> dict:
        """The row with ids of keys in place of texts. Raises UserError where nothing says what is good."""
        pos = self.named(where, task, "pos", row.pos, row.pos_index, corpus)
        neg = self.named(where, task, "neg", row.neg or row.history, row.neg_index, corpus)
        if not pos and not (neg and (row.history or row.teacher_scores or task in OWN_CANDIDATES)):
            raise UserError(
                f"{where}: field 'pos' is missing; say what the query should find: pos (texts), pos_index "
                "(places in a corpus), or a history"
            )
        scored = list(zip([*pos, *neg], row.teacher_scores or [0.0] * (len(pos) + len(neg)), strict=True))
        unique = dict(reversed(scored))  # the first of a name counts
        positives = list(dict.fromkeys(pos))
        negatives = [name for name in dict.fromkeys(neg) if name not in set(positives)]
        self.found["texts that stand twice in a row, or in pos and neg: the first is kept"] += len(
            scored
        ) - len(unique)
        made: dict = {"query": row.query, "pos": positives}
        if not positives:
            made["among"] = negatives
        if negatives:
            made["neg"] = negatives
        if row.teacher_scores:
            made["teacher_scores"] = [unique[name] for name in [*positives, *negatives]]
            self.found["rows whose teacher_scores are all equal"] += len(set(made["teacher_scores"])) == 1
        answers = [answer.strip() for answer in row.answers if answer.strip()]
        optional = {"answers": answers, "context": row.context, "last": row.last}
        made |= {name: value for name, value in optional.items() if value}
        return made | {"group": row.group or (positives or negatives)[0]}

    def named(
        self, where: str, task: str, field: str, texts: list[str], places: list, corpus: Corpus | None
    ) -> list[str]:
        """Ids of keys: by their places where there is a corpus, else by their texts."""
        if corpus and places:
            ids = [corpus.resolve(where, f"{field}_index", place) for place in places]
            differ = sum(corpus.texts[name] != text for name, text in zip(ids, texts, strict=False))
            self.found[f"texts in {field} that are not those of the corpus at {field}_index"] += differ
            return ids
        if places and not texts:
            raise UserError(
                f"{where}: field '{field}_index' names rows of a corpus, and there is none; put corpus.jsonl "
                f"into the folder, or give the texts as `{field}`"
            )
        ids = [(corpus.by_text.get(text) if corpus else None) or key_id(text) for text in texts]
        self.keys[task] |= dict(zip(ids, texts, strict=True))
        return ids


def read_tasks(knobs: TasksKnobs) -> tuple[dict[str, Task], Counter]:
    """The tasks in the files at `path`, and counts of what was found in their rows. Raises UserError."""
    root, reader = Path(knobs.path), Reader()
    files, found = source_files(knobs)
    several = len(found) > 1
    corpora = {
        folder: Corpus(file, knobs.key_template, f"{folder.relative_to(root)}/" if several else "")
        for folder, file in found.items()
    }
    for file in files:
        corpus = next((corpora[folder] for folder in file.parents if folder in corpora), None)
        reader.read(file, file.relative_to(root) if file != root else Path(file.name), corpus, knobs.task)
    tasks = {task: Task(reader.keys[task], placed(task, own, knobs)) for task, own in reader.rows.items()}
    return tasks, reader.found


def placed(task: str, files: dict[Path, list[Row]], knobs: TasksKnobs) -> Splits:
    """The rows of each split; where a task has several files, their ids begin with its name.

    Raises UserError where none is left to train on.
    """
    given: dict[str, list[Row]] = defaultdict(list)
    for inside, rows in files.items():
        words = re.split(r"[._-]", inside.name.lower())
        split = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "train")
        before = f"{inside.as_posix().removesuffix(ending(inside))}/" if len(files) > 1 else ""
        given[split] += [{**row, "id": before + row["id"]} for row in rows]
    shares = [
        0 if name in given else share
        for name, share in (("val", knobs.val_share), ("test", knobs.test_share))
    ]
    splits = split_rows(given["train"], *shares)
    if given["train"] and not splits["train"]:
        raise UserError(
            f"{knobs.path}: no row of {task} is left for train: {len(given['train']):,} rows have a positive "
            "or a query in common, and are held out together; add rows, or set val_share and test_share to 0"
        )
    for name in ("val", "test"):
        splits[name] += given[name]
    return splits


def source_files(knobs: TasksKnobs) -> tuple[list[Path], dict[Path, Path]]:
    """(files of rows, {folder: corpus of the files in it}). Raises UserError where there are none."""
    root = Path(knobs.path)
    if root.is_file():
        if knobs.corpus or knobs.files:
            raise UserError(
                f"{root}: is a file; set `path` to the folder that holds `corpus` and `files`, too"
            )
        return [root], {}
    if not root.is_dir():
        raise UserError(f"{root}: no such file or folder; set `path` to where your rows are")
    present = [file for file in data_files(root, "**/*") if ending(file) in READERS]
    corpora = [file for file in present if file.name.split(".")[0] in CORPORA]
    rows = [inside(root, name) for name in knobs.files] or [file for file in present if file not in corpora]
    if not rows:
        raise UserError(f"{root}: no file of rows ({', '.join(READERS)}) in it; put your rows there")
    if knobs.corpus:
        return [file for file in rows if file != inside(root, knobs.corpus)], {
            root: inside(root, knobs.corpus)
        }
    by_folder = {file.parent: file for file in corpora}
    if len(by_folder) < len(corpora):
        raise UserError(
            f"{corpora[0].parent}: holds two corpora; set `corpus` to the one, or delete the other"
        )
    return rows, by_folder


def inside(root: Path, name: str) -> Path:
    """The file that a knob names, as upstream names it, too. Raises UserError where it is not there."""
    path = root / name.removeprefix(PREFIX)
    renamed = root / name.removeprefix(PREFIX).replace("conversation/", "convsearch/", 1)
    if not (path.is_file() or renamed.is_file()):
        raise UserError(f"{path}: no such file; correct its name in `files` or `corpus`")
    return path if path.is_file() else renamed
