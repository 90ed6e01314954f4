"""Requests in people's wording, with the calls that are right for them: for measuring only."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from stages.core.errors import UserError
from stages.core.records import Document
from stages.evaluation.people import Row, Text, read_rows, where
from stages.kinds.skills.parts.schema import Skills


class Request(Row):
    """What somebody says, and the call that is right for it."""

    user: Text
    answer: Text


def read_requests(path: Path, skills: Skills) -> list[Request]:
    """The rows of a file. Raises UserError for a row of another form, or whose call breaks the schema."""
    requests = read_rows(path, Request)
    for number, row in enumerate(requests, start=1):
        try:
            skills.checked(row.answer)
        except ValueError as error:
            raise UserError(f"{where(path, number)}: field 'answer': {error}") from None
    return requests


def training_texts(corpus: Path, documents: Iterable[Document], skills: Skills) -> Iterator[tuple[str, str]]:
    """(where it stands, request) of all that models learn from or are shown, or settings are chosen by."""
    for skill in skills.skills:
        for example in (*skill.prompt_examples, *skill.examples):
            yield f"an example of the skill {skill.name}", example.user
    for document in documents:
        if document["split"] in ("train", "val"):
            yield f"{corpus}/documents.jsonl, {document['id']!r}", document["text"]
