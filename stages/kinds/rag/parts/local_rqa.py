"""Documents, passages and questions in the files that people bring.

Two forms. LocalRQA's own: `docs.jsonl` ({source, title, text}; may be absent) and files named after their
split, as `train_w_qa.jsonl`, of questions with answers, gold passages and hard negatives; files without
answers, as `train_w_q.jsonl`, give passages alone. Or `documents.*` ({id, title, text}) and `questions.*`
({question, answer} and `document_id` or `gold`, a text of the document), as any table.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.functional_validators import BeforeValidator

from stages.core.errors import UserError
from stages.core.rows import ending
from stages.core.stage import explain
from stages.core.text import plain_words
from stages.evaluation.people import one_spelling
from stages.kinds.rag.knobs import PassagesKnobs
from stages.kinds.rag.parts.questions import holding
from stages.kinds.rag.parts.rows import Question, Turn
from stages.retrieval.passages import Cutter, Passage, Piece, by_source, passage_of
from stages.sources.data_files import READERS, data_files, rows_of
from stages.sources.near import nearest
from stages.sources.splits import split_groups

SPLIT_NAMES = {"train": "train", "test": "test", **dict.fromkeys(("eval", "val", "dev", "valid"), "val")}
# As in a chat over OpenAI's protocol, so that served prompts and queries are those of training.
SPEAKERS = {"human": "user", "bot": "assistant", "ai": "assistant"}
PICKLES = (".pkl", ".pickle", ".pkl.gz")
SAME = 0.95  # of the words of two passages that are one but for a detail

Blank = Annotated[str, StringConstraints(strip_whitespace=True)]
Text = Annotated[Blank, StringConstraints(min_length=1)]
Rows = dict[str, list[Question]]  # by split, "" where a file's name says none


class Fields(BaseModel):
    """Base of the rows of files: further fields are left alone, and ids may be numbers."""

    model_config = ConfigDict(coerce_numbers_to_str=True)


class PieceRow(Fields):
    """A document, or a passage of one as LocalRQA has them; `fmt_content` is made of these fields."""

    source: Text = Field(validation_alias=AliasChoices("source", AliasPath("metadata", "source"), "id"))
    title: Blank = Field("", validation_alias=AliasChoices("title", AliasPath("metadata", "title")))
    text: str = Field(validation_alias=AliasChoices("text", "page_content"))

    def piece(self) -> Piece:
        return Piece(self.source, self.title, self.text)


def speaker(name: object) -> object:
    return SPEAKERS.get(own := str(name).lower(), own)


class Said(Fields):
    speaker: Annotated[Literal["user", "assistant"], BeforeValidator(speaker)]
    message: str


class PairRow(Fields):
    """LocalRQA's row. Where there are no answers, the first two are missing."""

    question: Blank | None = None
    gold_answer: Text | None = None
    gold_docs: list[PieceRow] = Field(min_length=1)
    hard_neg_docs: list[PieceRow] = []
    chat_history: list[Said] = []


class OwnRow(Fields):
    question: Text
    answer: Text
    document_id: Blank = ""
    gold: str = ""


class Files(NamedTuple):
    """The files of a folder: of documents, of LocalRQA's pairs, without answers, and of questions else."""

    documents: list[Path]
    pairs: list[Path]
    unanswered: list[Path]
    questions: list[Path]


def files_of(knobs: PassagesKnobs) -> Files:
    """Raises UserError where they are not there, and for pickles: reading one runs what is in it."""
    folder = Path(knobs.path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; set `path` to the folder that holds your files")
    present = data_files(folder, "*")
    documents = next(filter(None, (data_files(folder, one) for one in knobs.documents.split())), [])
    pickles = [file for file in documents or present if ending(file) in PICKLES]
    if pickles:
        raise UserError(
            f"{pickles[0]}: pickles are refused, as reading one runs what is in it; save the documents as "
            "JSON lines {source, title, text}"
        )
    of_form: dict[str, list[Path]] = defaultdict(list)
    for file in present:
        if split_named(file) and ending(file) in READERS:
            of_form[form_of(file)].append(file)
    pairs = of_form["pairs"]
    questions = [] if pairs else data_files(folder, "questions*.*")
    if not pairs and not (documents and questions):
        lacking = "questions.*" if documents else knobs.documents
        raise UserError(
            f"{folder}: no file {lacking}; put documents.* and questions.* there, or LocalRQA's files "
            "(train_w_qa.jsonl and so on)"
        )
    return Files(documents, pairs, of_form["unanswered"], questions)


def form_of(file: Path) -> str:
    """Pairs or unanswered, as its first row says, for a file of LocalRQA's, else ""."""
    row = next((row for _, row in rows_of([file])), None)
    if row is None:
        return "pairs" if "_w_qa." in file.name else ""
    if "gold_docs" not in row:
        return ""
    return "unanswered" if "questions" in row else "pairs"


def validated(model: type[Fields], files: Sequence[Path]) -> Iterator[tuple[str, Path, Any]]:
    """(where, file, row) of the rows of files. Raises UserError for the first that is wrong."""
    for file in files:
        for where, row in rows_of([file]):
            try:
                yield where, file, model.model_validate(row)
            except ValidationError as error:
                raise UserError(f"{explain(error, where)} (the row has {', '.join(row)})") from None


def split_named(file: Path) -> str:
    """The split that a file's name says, or ""."""
    return next((SPLIT_NAMES[w] for w in re.split(r"[._-]", file.name.lower()) if w in SPLIT_NAMES), "")


def read(knobs: PassagesKnobs, cutter: Cutter) -> tuple[list[Passage], Rows, Counter[str]]:
    """Passages and questions in the files at `path`, and counts of rows that were left out.

    Raises UserError for a row that is wrong.
    """
    files, left_out = files_of(knobs), Counter[str]()
    documents = [row.piece() for _, _, row in validated(PieceRow, files.documents) if row.text.strip()]
    if files.pairs:
        passages, rows = read_pairs(files, documents, cutter, left_out)
    else:
        passages, rows = read_own(files, documents, cutter)
    return passages, without_leaks(placed(rows, knobs), passages, left_out), left_out


def placed(rows: Rows, knobs: PassagesKnobs) -> Rows:
    """The rows of each split; where no file is of val or test, by a hash of the document they are about."""
    shares = [0 if split in rows else getattr(knobs, f"{split}_share") for split in ("val", "test")]
    others = [*rows.get("train", ()), *rows.get("", ())]
    split_of = split_groups(Counter(row["source"] for row in others), *shares)
    questions = {"train": [], **{split: rows.get(split, []) for split in ("val", "test")}}
    for row in others:
        questions[split_of[row["source"]]].append(row)
    return questions


def without_leaks(questions: Rows, passages: Sequence[Passage], left_out: Counter[str]) -> Rows:
    """Less the training rows whose question, or nearly whose gold passage, is held out, too."""
    text_of = {passage["id"]: passage["text"] for passage in passages}
    held_out = [row for split in ("val", "test") for row in questions[split]]
    known = {one_spelling(row["question"]) for row in held_out}
    texts, held_texts = (
        sorted({text_of[name] for row in rows for name in row["gold"]})
        for rows in (questions["train"], held_out)
    )
    likeness = nearest(texts, held_texts, lambda text: set(plain_words(text)))
    leaks = {text for text, (share, _) in zip(texts, likeness, strict=True) if share >= SAME}
    kept = [
        row
        for row in questions["train"]
        if one_spelling(row["question"]) not in known and leaks.isdisjoint(text_of[n] for n in row["gold"])
    ]
    left_out["leaks"] = len(questions["train"]) - len(kept)
    return {**questions, "train": kept}


class Given:
    """The passages that pairs bring, the same once, and where they stand in documents."""

    def __init__(self, documents: Sequence[Piece]):
        self.passages: dict[tuple[str, str], Passage] = {}
        self.of_source: dict[str, dict[str, Piece]] = defaultdict(dict)
        for document in documents:
            self.of_source[document.source].setdefault(one_spaced(document.text), document)
        self.taken: dict[Piece, list[tuple[int, int]]] = defaultdict(list)  # where they stand in documents
        self.numbers: Counter[str] = Counter()

    def add(self, where: str, row: PieceRow, gold: bool) -> str:
        """The id of a passage. Raises UserError for one without text, and for gold that is in no document."""
        piece = row.piece()._replace(text=row.text.strip())
        if not piece.text:
            raise UserError(f"{where}: a passage of source {piece.source!r} has no text; fill page_content")
        spaced = one_spaced(piece.text)
        if (piece.source, spaced) not in self.passages:
            holders = [one for text, one in self.of_source[piece.source].items() if spaced in text]
            if gold and any(self.of_source.values()) and not holders:
                raise UserError(
                    f"{where}: field 'gold_docs': the passage {piece.text[:60]!r} is in no document of "
                    f"source {piece.source!r}; add the document, or correct source or text"
                )
            words = re.compile(r"\s+".join(map(re.escape, spaced.split())))
            for one in holders:
                self.taken[one] += [found.span() for found in words.finditer(one.text)]
            start = self.taken[holders[0]][-1][0] if holders else 0
            self.passages[piece.source, spaced] = passage_of(piece, start, self.numbers)
        return self.passages[piece.source, spaced]["id"]

    def add_rest(self, cutter: Cutter) -> None:
        """Add the pieces of documents that share nothing with these passages, the same once."""
        for document in [one for own in self.of_source.values() for one in own.values()]:
            for start, end in cutter.spans(document.text):
                piece = document._replace(text=document.text[start:end])
                key = piece.source, one_spaced(piece.text)
                shared = any(first < end and start < last for first, last in self.taken[document])
                if not shared and key not in self.passages:
                    self.passages[key] = passage_of(piece, start, self.numbers)


def one_spaced(text: str) -> str:
    return " ".join(text.split())


def read_pairs(
    files: Files, documents: list[Piece], cutter: Cutter, left_out: Counter[str]
) -> tuple[list[Passage], Rows]:
    """Passages and questions by split of LocalRQA's files.

    Passages are those of the pairs, then pieces of the documents that share nothing with these.
    """
    given = Given(documents)
    rows: Rows = {split_named(file): [] for file in files.pairs}
    for where, file, row in validated(PairRow, [*files.pairs, *files.unanswered]):
        gold = [given.add(where, one, gold=True) for one in row.gold_docs]
        hard = [given.add(where, one, gold=False) for one in row.hard_neg_docs]
        if file in files.unanswered:
            continue
        split = split_named(file)
        question = question_in(row, where, f"{split or 'row'}-{len(rows[split]) + 1}", gold)
        if question is None:
            left_out["without_question"] += 1
            continue
        question["hard"] = [name for name in dict.fromkeys(hard) if name not in gold]
        rows[split].append(question)
    given.add_rest(cutter)
    return list(given.passages.values()), rows


def question_in(row: PairRow, where: str, name: str, gold: Sequence[str]) -> Question | None:
    """None for a row without a question: Faire's data have one, which a model answered all the same.

    Raises UserError where the field is missing, or the answer.
    """
    for field in ("question", "gold_answer"):
        if getattr(row, field) is None:
            raise UserError(f"{where}: field '{field}' is missing; add it or delete the row")
    question, answer, source = row.question or "", row.gold_answer or "", row.gold_docs[0].source
    ids = list(dict.fromkeys(gold))
    asked = Question(id=name, question=question, answer=answer, gold=ids, source=source)
    if row.chat_history:
        asked["history"] = [Turn(speaker=one.speaker, message=one.message) for one in row.chat_history]
    return asked if row.question else None


def read_own(files: Files, documents: list[Piece], cutter: Cutter) -> tuple[list[Passage], Rows]:
    """Passages and questions by split of our own form; gold is the piece that holds most of the answer."""
    of_document = by_source(cutter.passages(documents))
    texts = defaultdict[str, str](str)
    for document in documents:
        texts[document.source] += f" {one_spaced(document.text)}"
    rows: Rows = {split_named(file): [] for file in files.questions}
    for number, (where, file, row) in enumerate(validated(OwnRow, files.questions), start=1):
        gold, about = one_spaced(row.gold), row.document_id
        if gold and not about:
            about = next((name for name, text in texts.items() if gold in text), "")
        if about not in of_document or gold not in texts[about]:
            what = f"'gold': the text {gold[:60]!r}" if gold else f"'document_id': {about!r}"
            raise UserError(f"{where}: field {what} is in no document ({files.documents[0]}); correct it")
        name, right = f"question-{number}", [holding(gold or row.answer, of_document[about])]
        own = Question(id=name, question=row.question, answer=row.answer, gold=right, source=about)
        rows[split_named(file)].append(own)
    return [passage for own in of_document.values() for passage in own], rows
