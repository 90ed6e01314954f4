"""The questions of a benchmark in a file: the original's CSV, or rows {question, answer, paras}."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from stages.core.errors import UserError
from stages.core.hashing import canonical_json
from stages.core.rows import as_text
from stages.core.stage import explain
from stages.evaluation.people import one_spelling
from stages.evaluation.unanswered import says_not
from stages.kinds.academic.parts.rows import Question
from stages.sources.data_files import rows_of
from stages.sources.papers import Paper

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Row(BaseModel):
    """`paras` are the paragraphs that have the answer: none, where it is not in the paper."""

    model_config = ConfigDict(extra="allow")

    question: Text
    answer: Text
    paras: list[int] | None = None
    paper: str = Field("", validation_alias=AliasChoices("pdf_name", "pdf", "paper", "source", "document_id"))


def read_questions(file: Path, papers: Sequence[Paper] = ()) -> list[Question]:
    """The questions of a file about these papers, or any where none is given.

    Other columns are kept as texts, but an index without name.

    Raises UserError for a file without questions, a row without question or answer, a question that stands
    there twice, and one about a paper that is not there.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; set `questions` to a CSV or JSONL of questions and answers")
    names = {one_spelling(name): paper.name for paper in papers for name in (paper.title, paper.name)}
    questions: list[Question] = []
    places: dict[str, str] = {}
    for number, (where, fields) in enumerate(rows_of([file]), start=1):
        try:
            row = Row.model_validate(fields)
        except ValidationError as error:
            has = ", ".join(filter(None, fields)) or "no named field"
            raise UserError(f"{explain(error, where)} (the row has {has})") from None
        spelt = one_spelling(row.question)
        if spelt in places:
            raise UserError(f"{where}: asks what {places[spelt]} asks, {row.question!r}; delete one of them")
        places[spelt] = where
        source = papers[0].name if len(papers) == 1 else names.get(one_spelling(Path(row.paper).stem), "")
        source = source or names.get(one_spelling(row.paper), "")
        if not papers:
            source = row.paper.strip()
        elif row.paper.strip() and not source:
            known = ", ".join(paper.path.name for paper in papers[:8])
            raise UserError(
                f"{where}: is about {row.paper!r}, which is none of {known}, by name or title; add "
                "its PDF, or correct the name"
            )
        said = bool(row.paras) if row.paras is not None else not says_not(row.answer)
        questions.append(
            {
                "id": f"question-{number}",
                "question": row.question,
                "answer": row.answer,
                "source": source,
                "answerable": said,
                "context": "",
                "extra": {
                    name: shown(value)
                    for name, value in fields.items()
                    if name and name not in ("question", "answer")
                },
            }
        )
    if not questions:
        raise UserError(f"{file}: no question; expected rows with the columns question and answer")
    return questions


def shown(value: Any) -> str:
    """A field as a text, as tables have it."""
    text = "" if value is None else as_text(value)
    return canonical_json(value) if text is None else text
