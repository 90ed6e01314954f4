"""Questions, which passage holds their answer, and the folder that both makers of passages write."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from stages.core.errors import UserError
from stages.core.files import atomic_directory, write_jsonl
from stages.core.messages import say
from stages.evaluation.overlap import shared, words_in
from stages.evaluation.people import Row, Text, check_unseen, read_rows, where
from stages.kinds.rag import places
from stages.kinds.rag.knobs import Chunks
from stages.kinds.rag.parts.rows import SPLITS, Question
from stages.retrieval.passages import Passage


class PeoplesQuestion(Row):
    """A question that somebody asked, its answer, and the id of the document that has it."""

    question: Text
    answer: Text
    document_id: Text


def coverage(answer: str, text: str) -> float:
    """The share of an answer's words, each as often as it stands there, that are in a text."""
    return shared(words_in(text).squad, words_in(answer).squad)[1]


def holding(answer: str, passages: Sequence[Passage]) -> str:
    """The id of the passage that covers most of an answer, the first of several."""
    return max(passages, key=lambda passage: coverage(answer, passage["text"]))["id"]


def people_questions(file: str, of_document: Mapping[str, Sequence[Passage]]) -> list[Question]:
    """The questions of a file of `eval_rows`. Raises UserError for a document that is not there."""
    questions: list[Question] = []
    for number, row in enumerate(read_rows(Path(file), PeoplesQuestion), start=1):
        if row.document_id not in of_document:
            raise UserError(
                f"{where(Path(file), number)}: field 'document_id': there is no document "
                f"{row.document_id!r}; expected the id of one that passages were cut from"
            )
        name, about = f"people-{number}", row.document_id
        gold = [holding(row.answer, of_document[about])]
        own = Question(id=name, question=row.question, answer=row.answer, gold=gold, source=about)
        questions.append(own)
    return questions


def write_passages(
    dataset: str,
    stage: str,
    knobs: Chunks,
    passages: Iterable[Passage],
    questions: Mapping[str, Sequence[Question]],
    found: Mapping[str, int],
) -> dict:
    """Write data/DATASET/passages, and say what it holds and what was `found`; returns the figures.

    Raises UserError for a split without questions, and where people's questions stand in training.
    """
    training = [(row["id"], row["question"]) for row in questions["train"]]
    check_unseen(Path(knobs.eval_rows), [row["question"] for row in questions["people"]], training)
    for split in ("train", "val", "test"):
        if not questions[split]:
            raise UserError(
                f"{stage} {dataset}: no question is left for {split}; add questions about other documents, "
                "or change how many are held out"
            )
    counts: dict[str, int] = {}
    with atomic_directory(places.passages(dataset), stage, counts) as folder:
        counts["passages.jsonl"] = write_jsonl(folder / "passages.jsonl", passages)
        for split in SPLITS:
            counts[f"{split}.jsonl"] = write_jsonl(folder / f"{split}.jsonl", questions[split])
    figures = {file.removesuffix(".jsonl"): count for file, count in counts.items()} | dict(found)
    say(f"{stage} {dataset}: " + ", ".join(f"{count:,} {name}" for name, count in figures.items()))
    return figures
