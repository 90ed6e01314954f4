"""A row of people's: LLM-Embedder's, `{query, pos, neg?, answers?}`, or a question about documents."""

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
from stages.core.rows import as_text
from stages.kinds.retriever.knobs import TaskName

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
    count = len(row.pos or row.pos_index) + len(row.neg or row.neg_index or row.history)
    if row.teacher_scores and len(row.teacher_scores) != count:
        raise UserError(
            f"{where}: field 'teacher_scores': {len(row.teacher_scores)} numbers for {count} texts; expected "
            "one for each text of pos, then of neg or history: correct it or delete the field"
        )
    return row
