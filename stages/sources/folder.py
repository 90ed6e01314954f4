"""A user's own data: documents and observed queries from a folder of JSONL, JSON, Parquet or CSV files."""

import json
from collections import defaultdict
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from stages.core.errors import UserError
from stages.core.hashing import canonical_json, sha256_json, sha256_text
from stages.core.rows import as_text, kind_of
from stages.core.text import clip_words
from stages.sources.data_files import data_files, rows_of
from stages.sources.markup import without_html

TITLE_WORDS = 12

Placed = tuple[str, dict]  # "<file>, row <number>", the document of that row


def read_folder(
    path: str | None,
    documents: str,
    queries: str | None,
    id_field: str | None,
    text_field: str,
    title_field: str | None,
    query_field: str,
    document_field: str,
    html: str,
    repeated_id: str,
    skip_share: float,
) -> tuple[list[dict], list[dict], list[dict], dict[str, int]]:
    """Documents {id, title, text, metadata}, queries {id, text}, pairs {query_id, document_id}, skip counts.

    `repeated_id` says what rows with the same id are: an "error"; pieces to "join" into one document, in file
    order; or "parts", documents of their own named `id#<hash of the text>` that share `metadata.part_of` (a
    query about the id is then about every part). A row that repeats another in all is none. Rows without text
    and pairs about unknown documents are left out and counted while they are at most `skip_share` of all.
    `html` says whether to "keep" or "strip" it. Raises UserError with file, row and field.
    """
    if path is None:
        raise UserError("a folder dataset needs `path`: set it to the folder that holds your files")
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; set `path` to the folder that holds the documents")
    document_files = _files(folder, documents, "documents")
    query_files = _files(folder, queries, "queries") if queries else data_files(folder, "queries.*")
    named_fields = {"id_field": id_field, "text_field": text_field, "title_field": title_field}
    _check_first_rows(
        (document_files, {knob: field for knob, field in named_fields.items() if field}),
        (query_files, {"query_field": query_field, "document_field": document_field}),
    )
    clean = without_html if html == "strip" else str
    count, empty = 0, []
    of_id: dict[str, dict[str, Placed]] = defaultdict(dict)  # those of one id, by a hash of all that they say
    for where, row in rows_of(document_files):
        count += 1
        document = _document(where, row, id_field, text_field, title_field, clean)
        if document["text"]:
            of_id[document["id"]].setdefault(sha256_json(document), (where, document))
        else:
            empty.append(f"{where}: field '{text_field}' holds no text; fill it or delete the row")
    _check_skipped(empty, count, skip_share)
    if not of_id:
        raise UserError(f"{folder / documents}: zero documents in {count:,} rows; put your documents there")
    kept, parts = _resolve_repeats(of_id, repeated_id)

    asked, pairs, named, unknown = {}, [], 0, []
    for where, row in rows_of(query_files):
        texts = _texts(where, row, query_field, "query_field")
        about = [name.strip() for name in _texts(where, row, document_field, "document_field")]
        named += len(about)
        unknown += [
            f"{where}: field '{document_field}' names the document {name!r}, which is not in {documents}; "
            "fix the row, or set document_field and id_field to fields that match"
            for name in about
            if name not in parts
        ]
        for text in filter(None, (" ".join(clean(text).split()) for text in texts)):
            query = _text_id(text)
            asked[query] = {"id": query, "text": text}
            documents_about = (document for name in about for document in parts.get(name, ()))
            pairs += [{"query_id": query, "document_id": document} for document in documents_about]
    _check_skipped(unknown, named, skip_share)
    return kept, list(asked.values()), pairs, {"documents": len(empty), "pairs": len(unknown)}


def _check_skipped(problems: list[str], total: int, share: float) -> None:
    """Raise UserError with the first of `problems` where they are more than `share` of `total` rows."""
    if len(problems) > share * total:
        raise UserError(
            f"{problems[0]} ({len(problems):,} of {total:,} are like this; skip_share is {share:g})"
        )


def _resolve_repeats(
    of_id: dict[str, dict[str, Placed]], repeated: str
) -> tuple[list[dict], dict[str, list[str]]]:
    """The documents, and for each id of the source the ids of its documents."""
    documents, parts = [], {}
    for name, distinct_rows in of_id.items():
        rows = list(distinct_rows.values())
        same_id = [document for _, document in rows]
        hashed = name == _text_id(same_id[0]["text"])  # the same text twice, without ids, is one document
        if len(same_id) > 1 and repeated == "error" and not hashed:
            raise UserError(
                f"{rows[1][0]}: the document id {name!r} is already used in {rows[0][0]}; make ids unique, "
                "or set repeated_id to 'join' (one document of all its rows) or 'parts' (each row a document)"
            )
        if len(same_id) > 1 and repeated == "join" and not hashed:
            same_id = [{**same_id[0], "text": "\n\n".join(document["text"] for document in same_id)}]
        ordered = sorted(same_id, key=canonical_json, reverse=True)
        distinct = {document["text"]: document for document in ordered}
        if len(distinct) > 1:
            for text, part in distinct.items():
                part["id"] = f"{name}#{_text_id(text)[:8]}"
                part["metadata"]["part_of"] = name
        documents += distinct.values()
        parts[name] = [document["id"] for document in distinct.values()]
    return documents, parts


def _text_id(text: str) -> str:
    return sha256_text(text)[:16]


def _document(
    where: str,
    row: dict,
    id_field: str | None,
    text_field: str,
    title_field: str | None,
    clean: Callable[[str], str],
) -> dict:
    """{id, title, text, metadata} of a row; metadata are the fields that are none of the others."""
    text = clean(_single(where, row, text_field, "text_field")).strip()
    has_id = id_field or "id" in row
    name = _single(where, row, id_field or "id", "id_field").strip() if has_id else _text_id(text)
    if not name:
        raise UserError(f"{where}: field '{id_field or 'id'}' is empty; give the document an id")
    if len(name.splitlines()) > 1:  # later stages write ids one a line
        raise UserError(f"{where}: field '{id_field or 'id'}' has a line break in it, {name!r}; remove it")
    if title_field or "title" in row:
        title = clean(_single(where, row, title_field or "title", "title_field"))
    else:
        title = clip_words(text, TITLE_WORDS)
    used = {id_field or "id", text_field, title_field or "title"}
    rest = {key: value for key, value in row.items() if key not in used}
    metadata = json.loads(json.dumps(rest, default=str))  # the dates and decimals of Parquet become text
    return {"id": name, "title": " ".join(title.split()), "text": text, "metadata": metadata}


def _single(where: str, row: dict, field: str, knob: str) -> str:
    """The one text at a dotted path. Raises UserError that names row, field and `knob`."""
    values = _texts(where, row, field, knob)
    if len(values) != 1:
        raise UserError(
            f"{where}: field '{field}' holds {len(values)} values, expected one; fix it or set {knob}"
        )
    return values[0]


def _texts(where: str, row: dict, field: str, knob: str) -> list[str]:
    """The texts at a dotted path; whole numbers become text, null an empty one. Raises UserError."""
    values = _values(row, field)
    if values is None:
        raise UserError(_lacking(where, row, {knob: field}))
    texts = ["" if value is None else as_text(value) for value in values]
    for value, text in zip(values, texts, strict=True):
        if text is None:
            raise UserError(
                f"{where}: field '{field}' is {kind_of(value)}, expected text or a whole number; fix the row "
                f"or set {knob}"
            )
    return texts


def _values(row: dict, field: str) -> list | None:
    """What is at a dotted path, None where there is no such field. Lists on the way are walked."""
    values: list = [row]
    for step in [field] if field in row else field.split("."):
        values = [one for value in values for one in (value if isinstance(value, list) else [value])]
        if not all(isinstance(value, dict) and step in value for value in values):
            return None
        values = [value[step] for value in values]
    return [one for value in values for one in (value if isinstance(value, list) else [value])]


def _lacking(where: str, row: dict, fields: dict[str, str]) -> str:
    """What to say of a row without the fields that these knobs name."""
    missing = ", ".join(f"field '{field}' is missing" for field in fields.values())
    has, names = ", ".join(row) or "no fields", "its name" if len(fields) == 1 else "their names"
    return f"{where}: {missing} (this row has {has}); set {' and '.join(fields)} to {names}"


def _check_first_rows(*sources: tuple[list[Path], dict[str, str]]) -> None:
    """Raise UserError with all fields that are missing in the first row of documents and that of queries.

    `sources` are files and their fields by the knobs that name them.
    """
    problems = []
    for files, fields in sources:
        for where, row in islice(rows_of(files), 1):
            missing = {knob: field for knob, field in fields.items() if _values(row, field) is None}
            problems += [_lacking(where, row, missing)] if missing else []
    if problems:
        raise UserError("; ".join(problems))


def _files(folder: Path, pattern: str, knob: str) -> list[Path]:
    """The files of `folder` that match, sorted. Raises UserError that names `knob` where none does."""
    files = data_files(folder, pattern)
    if not files:
        present = ", ".join(sorted(file.name for file in folder.iterdir() if file.is_file())[:8])
        raise UserError(
            f"{folder / pattern}: no such file; set `{knob}` to a file name or a pattern such as '*.jsonl' "
            f"(the folder holds: {present or 'no files'})"
        )
    return files
