"""A row of people's: LLM-Embedder's, `{query, pos, neg?, answers?}`, or a question about documents."""

import math
from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, Field, ValidationError

from stages.core.errors import UserError
from stages.core.rows import as_text, kind_of
from stages.kinds.retriever.knobs import TaskName

SHOWN = 60  # characters of a value in a message: texts may have a megabyte


def _text(value: Any) -> str:
    text = as_text(value)
    if text is None:
        raise ValueError(f"expected text, found {kind_of(value)}")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is empty")
    if "\0" in text:
        raise ValueError("the text holds a NUL character")
    return text.replace("\r\n", "\n").strip()


def _list(value: Any) -> Any:
    """A single text or number is a list of one, as in a column of a table; null and an empty cell of none."""
    return [] if value is None or value == "" else value if isinstance(value, list) else [value]


def _place(value: Any) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"expected a number of a row or an id, found {kind_of(value)}")
    return value


def _score(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"expected a number, found {kind_of(value)}")
    return float(value)


Text = Annotated[str, BeforeValidator(_text), AfterValidator(_not_blank)]
Texts = Annotated[list[Text], BeforeValidator(_list)]
Places = Annotated[list[Annotated[Any, BeforeValidator(_place)]], BeforeValidator(_list)]
Scores = Annotated[list[Annotated[float, BeforeValidator(_score)]], BeforeValidator(_list)]


class InputRow(BaseModel):
    """A query and what it should find: texts, places in a corpus (a row from 0, or an id), or a history.

    Fields beside these, such as upstream's `pos_scores` and `neg_score`, are ignored.
    """

    query: Text = Field(validation_alias=AliasChoices("query", "question"))
    query_id: Annotated[str, BeforeValidator(_text)] = Field(
        "", validation_alias=AliasChoices("query_id", "qid", "id")
    )
    task: TaskName | None = None
    pos: Texts = []
    neg: Texts = []
    history: Texts = []
    pos_index: Places = Field([], validation_alias=AliasChoices("pos_index", "document_id"))
    neg_index: Places = []
    teacher_scores: Scores = []
    answers: Annotated[list[Annotated[str, BeforeValidator(_text)]], BeforeValidator(_list)] = Field(
        [], validation_alias=AliasChoices("answers", "answer")
    )
    context: str = ""
    last: str = ""
    group: Annotated[str, BeforeValidator(_text)] = ""


WANTED = {
    "query": "give the row a text that is asked with",
    "task": "correct it or delete the field, and set the knob `task`",
    "teacher_scores": "give one number for each of pos, then of neg, or delete the field",
    "pos_index": "give numbers of rows of the corpus, from 0, or its ids",
    "neg_index": "give numbers of rows of the corpus, from 0, or its ids",
}


def input_row(where: str, fields: dict) -> InputRow:
    """The row of a file; `where` is file and number. Raises UserError with the field and its remedy."""
    try:
        row = InputRow.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] == "missing":
            why = f"is missing; this row has {', '.join(fields) or 'none'}"
        else:
            place = f"[{first['loc'][1]}]" if len(first["loc"]) > 1 else ""
            found = "" if first["type"] == "value_error" else f", found {str(first['input'])[:SHOWN]!r}"
            name, why = name + place, first["msg"].removeprefix("Value error, ") + found
        raise UserError(f"{where}: field '{name}': {why}; {_remedy(name)}") from None
    if row.history and (row.pos or row.neg):
        raise UserError(
            f"{where}: has `history` and {'pos' if row.pos else 'neg'}; a history is what the query chooses "
            "from: delete one of them"
        )
    for texts, places in (("pos", row.pos_index), ("neg", row.neg_index)):
        if places and (count := len(getattr(row, texts))) not in (0, len(places)):
            raise UserError(
                f"{where}: has {count} texts in `{texts}` and {len(places)} places in `{texts}_index`; "
                "give one place for each text, or only the places"
            )
    count, scores = (
        len(row.pos or row.pos_index) + len(row.neg or row.neg_index or row.history),
        row.teacher_scores,
    )
    if scores and len(scores) != count:
        raise UserError(
            f"{where}: field 'teacher_scores' has {len(scores)} numbers for {count} texts; "
            f"{_remedy('teacher_scores')}"
        )
    return row


def _remedy(field: str) -> str:
    name = field.split("[")[0]
    return WANTED.get(name, "give it a text, or leave the field out")
