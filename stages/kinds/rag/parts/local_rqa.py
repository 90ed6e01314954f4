"""Documents, passages and questions in the files that people bring.

Two forms. LocalRQA's own: `docs.jsonl` ({source, title, text}; may be absent) and files named after their
split, as `train_w_qa.jsonl`, of questions with answers, gold passages and hard negatives; `*_w_q.jsonl` have
no answers and give passages alone. Or `documents.*` ({id, title, text}) and `questions.*` ({question, answer}
and `document_id` or `gold`, a text of the document), as any table.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AliasChoices, AliasPath, BaseModel, Field, StringConstraints, ValidationError

from stages.core.errors import UserError
from stages.core.rows import ending
from stages.core.stage import explain
from stages.core.text import plain_words
from stages.evaluation.people import one_spelling
from stages.kinds.rag.knobs import PassagesKnobs
from stages.kinds.rag.parts.chunking import Cutter, by_source, holding
from stages.kinds.rag.parts.rows import Passage, Question, Turn
from stages.sources.data_files import READERS, data_files, rows_of
from stages.sources.folder import read_folder
from stages.sources.near import nearest
from stages.sources.splits import split_groups

SPLIT_NAMES = {"train": "train", "test": "test", **dict.fromkeys(("eval", "val", "dev", "valid"), "val")}
SAME = 0.95  # of the words of two passages that are one but for a detail
SPEAKERS = {"user": "User", "human": "User", "assistant": "Assistant", "bot": "Assistant", "ai": "Assistant"}
PICKLES = (".pkl", ".pickle")

Blank = Annotated[str, StringConstraints(strip_whitespace=True)]
Text = Annotated[Blank, StringConstraints(min_length=1)]


def anywhere(*names: str) -> Any:
    """A field of one of these names, at the top or in `metadata`."""
    paths = [path for name in names for path in (name, AliasPath("metadata", name))]
    return Field(validation_alias=AliasChoices(*paths))


class Piece(BaseModel):
    """A document, or a passage of one: as LocalRQA has them; `fmt_content` is made of these."""

    source: Text = anywhere("source", "id")
    title: str = Field("", validation_alias=AliasChoices("title", AliasPath("metadata", "title")))
    text: Blank = anywhere("text", "page_content")

    @property
    def key(self) -> tuple[str, str]:
        """Where it is from and its words: what is the same passage."""
        return self.source, " ".join(self.text.split())


class Said(BaseModel):
    speaker: Text
    message: str


class PairRow(BaseModel):
    """LocalRQA's row. In files of questions without answers the first two are missing."""

    question: Blank | None = None
    gold_answer: Text | None = None
    gold_docs: list[Piece] = Field(min_length=1)
    hard_neg_docs: list[Piece] = []
    chat_history: list[Said] = []


class OwnRow(BaseModel):
    question: Text
    answer: Text
    document_id: str = ""
    gold: str = ""


class Read(NamedTuple):
    """What is written, passages and questions by split, and counts of rows that were left out."""

    passages: list[Passage]
    questions: dict[str, list[Question]]
    found: Counter[str]


class Files(NamedTuple):
    """The files of a folder: of documents, which match `pattern`, of LocalRQA's pairs, of questions."""

    pattern: str
    documents: list[Path]
    pairs: list[Path]
    questions: list[Path]


def files_of(knobs: PassagesKnobs) -> Files:
    """Raises UserError where there are none, and for pickles: a pickle runs what it likes when it is read."""
    folder = Path(knobs.path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; set `path` to the folder that holds your files")
    of_pattern = {pattern: data_files(folder, pattern) for pattern in knobs.documents.split()}
    pattern, documents = next(((one, own) for one, own in of_pattern.items() if own), ("", []))
    present = [file for file in data_files(folder, "*") if ending(file) in READERS]
    pairs = [file for file in present if re.search(r"_w_qa?$", file.name.removesuffix(ending(file)))]
    questions = data_files(folder, "questions*.*") if not pairs else []
    pickles = [file for file in data_files(folder, "*") if ending(file) in PICKLES]
    if pickles and (not documents or set(pickles) & set(documents)):
        raise UserError(
            f"{pickles[0]}: pickles are refused, as reading one runs what is in it; save the documents "
            "as JSON lines of source, title and text"
        )
    if not pairs and not (documents and questions):
        lacking = "questions.*" if documents else knobs.documents
        raise UserError(
            f"{folder}: no file {lacking}; put documents.* and questions.* there, or LocalRQA's files "
            "(train_w_qa.jsonl and so on)"
        )
    return Files(pattern, documents, pairs, questions)


def validated(model: type[BaseModel], files: Sequence[Path]) -> Iterator[tuple[str, Path, Any]]:
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


def read(knobs: PassagesKnobs, cutter: Cutter) -> Read:
    """The passages and questions in the files at `path`. Raises UserError for a row that is wrong."""
    files = files_of(knobs)
    found: Counter[str] = Counter()
    if files.pairs:
        passages, rows = read_pairs(files, cutter, found)
    else:
        passages, rows = read_own(knobs, files, cutter)
    return Read(passages, without_leaks(placed(rows, knobs), passages, found), found)


def placed(rows: dict[str, list[Question]], knobs: PassagesKnobs) -> dict[str, list[Question]]:
    """The rows of each split; where no file is of val or test, by a hash of the document they are about."""
    shares = [0 if split in rows else getattr(knobs, f"{split}_share") for split in ("val", "test")]
    others = [*rows.get("train", ()), *rows.get("", ())]
    split_of = split_groups(Counter(row["source"] for row in others), *shares)
    questions = {split: list(rows.get(split, ())) for split in ("val", "test")}
    for row in others:
        questions.setdefault(split_of[row["source"]], []).append(row)
    return {"train": [], **questions}


def without_leaks(
    questions: dict[str, list[Question]], passages: Sequence[Passage], found: Counter[str]
) -> dict[str, list[Question]]:
    """Less the training rows whose question, or nearly whose gold passage, is held out, too."""
    text_of = {passage["id"]: passage["text"] for passage in passages}
    held_out = [row for split in ("val", "test") for row in questions[split]]
    known = {one_spelling(row["question"]) for row in held_out}
    held_texts = [text_of[name] for row in held_out for name in row["gold"]]
    texts = sorted({text_of[name] for row in questions["train"] for name in row["gold"]})
    likeness = nearest(texts, held_texts, lambda text: set(plain_words(text)))
    leaks = {text for text, (share, _) in zip(texts, likeness, strict=True) if share >= SAME}
    kept = [
        row
        for row in questions["train"]
        if one_spelling(row["question"]) not in known
        and not any(text_of[name] in leaks for name in row["gold"])
    ]
    found["leaks_removed"] = len(questions["train"]) - len(kept)
    return {**questions, "train": kept}


Rows = dict[str, list[Question]]  # by split, "" where a file's name says none


def read_pairs(files: Files, cutter: Cutter, found: Counter[str]) -> tuple[list[Passage], Rows]:
    """Passages and questions by split of LocalRQA's files.

    Passages are those of the pairs, then pieces of documents that hold none of these.
    """
    library = Library([piece for _, _, piece in validated(Piece, files.documents) if piece.text])
    rows: dict[str, list[Question]] = defaultdict(list)
    for where, file, row in validated(PairRow, files.pairs):
        gold = [library.add(where, piece, known=bool(files.documents)) for piece in row.gold_docs]
        hard = [library.add(where, piece) for piece in row.hard_neg_docs]
        if file.name.removesuffix(ending(file)).endswith("_w_q"):
            continue
        for field in ("question", "gold_answer"):
            if getattr(row, field) is None:
                raise UserError(f"{where}: field '{field}' is missing; add it or delete the row")
        if not row.question:  # Faire's data have one, which a model answered all the same
            found["without_question"] += 1
            continue
        own = rows[split_named(file)]
        question = Question(
            id=f"{split_named(file) or 'row'}-{len(own) + 1}",
            question=row.question,
            answer=row.gold_answer,
            gold=list(dict.fromkeys(gold)),
            source=row.gold_docs[0].source,
            hard=[name for name in dict.fromkeys(hard) if name not in gold],
        )
        history = [turn(where, said) for said in row.chat_history]
        own.append({**question, "history": history} if history else question)
    return library.with_the_rest(cutter), rows


def turn(where: str, said: Said) -> Turn:
    """Raises UserError for a speaker that is neither user nor assistant."""
    speaker = SPEAKERS.get(said.speaker.lower())
    if speaker is None:
        raise UserError(
            f"{where}: field 'chat_history' has the speaker {said.speaker!r}; expected one of "
            f"{', '.join(SPEAKERS)}"
        )
    return {"speaker": speaker, "message": said.message}


class Library:
    """Documents, and the passages of them that pairs bring, the same once."""

    def __init__(self, documents: Sequence[Piece]):
        self.documents, self.given = documents, dict[tuple[str, str], Passage]()
        self.of_source: dict[str, list[Piece]] = defaultdict(list)
        for document in documents:
            self.of_source[document.source].append(document)
        self.holders: set[tuple[str, str]] = set()  # keys of documents that hold a given passage
        self.sizes: Counter[str] = Counter()  # passages of each source

    def add(self, where: str, piece: Piece, known: bool = False) -> str:
        """The id of a passage. Raises UserError where it should be known from the documents, and is not."""
        if not piece.text:
            raise UserError(f"{where}: a passage of source {piece.source!r} has no text; fill page_content")
        if piece.key not in self.given:
            holders = [one for one in self.of_source[piece.source] if piece.key[1] in one.key[1]]
            if known and not holders:
                raise UserError(
                    f"{where}: field 'gold_docs': the passage {piece.text[:60]!r} stands in no document of "
                    f"source {piece.source!r}; add the document, or correct source or text"
                )
            self.holders |= {one.key for one in holders}
            words = r"\s+".join(map(re.escape, piece.text.split()))
            start, end = re.search(words, holders[0].text).span() if holders else (0, len(piece.text))
            self.given[piece.key] = {**self._named(piece), "start": start, "end": end}
        return self.given[piece.key]["id"]

    def with_the_rest(self, cutter: Cutter) -> list[Passage]:
        """The passages given, then those cut."""
        passages = list(self.given.values())
        for document in {one.key: one for one in self.documents}.values():
            if document.key not in self.holders:
                for start, end in cutter.spans(document.text):
                    piece = document.model_copy(update={"text": document.text[start:end]})
                    passages.append({**self._named(piece), "start": start, "end": end})
        return passages

    def _named(self, piece: Piece) -> dict:
        seq = self.sizes[piece.source]
        self.sizes[piece.source] += 1
        return {
            "id": f"{piece.source}#{seq}",
            "title": piece.title.strip(),
            "text": piece.text,
            "source": piece.source,
            "seq": seq,
        }


def read_own(knobs: PassagesKnobs, files: Files, cutter: Cutter) -> tuple[list[Passage], Rows]:
    """Passages and questions by split of our own form; gold is what holds most of an answer."""
    documents, *_ = read_folder(
        path=knobs.path,
        documents=files.pattern,
        queries=None,
        id_field=None,
        text_field="text",
        title_field=None,
        query_field="query",
        document_field="document_id",
        html="keep",
        repeated_id="error",
        skip_share=0,
    )
    passages = [
        passage for one in documents for passage in cutter.passages(one["id"], one["title"], one["text"])
    ]
    of_document, texts = by_source(passages), {one["id"]: " ".join(one["text"].split()) for one in documents}
    rows: dict[str, list[Question]] = defaultdict(list)
    for number, (where, file, row) in enumerate(validated(OwnRow, files.questions), start=1):
        about = row.document_id.strip()
        gold = " ".join(row.gold.split())
        if gold and not about:
            about = next((name for name, text in texts.items() if gold in text), "")
        if about not in of_document or gold not in texts[about]:
            what = f"'gold': the text {gold[:60]!r}" if gold else f"'document_id': {about!r}"
            raise UserError(f"{where}: field {what} is in no document of {files.pattern}; correct it")
        rows[split_named(file)].append(
            {
                "id": f"question-{number}",
                "question": row.question,
                "answer": row.answer,
                "gold": [holding(gold or row.answer, of_document[about])],
                "source": about,
            }
        )
    return passages, rows
