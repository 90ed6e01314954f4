"""A user's own data: documents and observed queries from a folder of JSONL, JSON, Parquet or CSV files."""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from stages.core.errors import UserError
from stages.core.files import not_utf8, read_json, read_text
from stages.core.hashing import canonical_json, sha256_text
from stages.core.text import clip_words
from stages.sources.markup import without_html

TITLE_WORDS = 12
KINDS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


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
    query about the id is then about every part). Rows without text and pairs about unknown documents are left
    out and counted while they are at most `skip_share` of all. `html` says whether to "keep" or "strip" it.
    Raises UserError with file, row and field.
    """
    if path is None:
        raise UserError("a folder dataset needs `path`: set it to the folder that holds your files")
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; set `path` to the folder that holds the documents")
    clean = without_html if html == "strip" else str
    count, empty, of_id = 0, [], defaultdict(list)
    for where, row in _rows(_files(folder, documents, "documents")):
        count += 1
        document = _document(where, row, id_field, text_field, title_field, clean)
        if document["text"]:
            of_id[document["id"]].append((where, document))
        else:
            empty.append(f"{where}: field '{text_field}' holds no text; fill it or delete the row")
    _check_skipped(empty, count, skip_share)
    if not of_id:
        raise UserError(f"{folder / documents}: zero documents in {count:,} rows; put your documents there")
    kept, parts = _resolve_repeats(of_id, repeated_id)

    asked, pairs, named, unknown = {}, [], 0, []
    files = _files(folder, queries, "queries") if queries else sorted(folder.glob("queries.*"))
    for where, row in _rows(files):
        texts = _texts(where, row, query_field, "query_field")
        about = _texts(where, row, document_field, "document_field")
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


def _resolve_repeats(of_id: dict[str, list], repeated: str) -> tuple[list[dict], dict[str, list[str]]]:
    """The documents, and for each id of the source the ids of its documents."""
    documents, parts = [], {}
    for name, rows in of_id.items():
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
    """The texts at a dotted path; whole numbers become text. Lists on the way are walked."""
    values = [row]
    for step in [field] if field in row else field.split("."):
        values = [one for value in values for one in (value if isinstance(value, list) else [value])]
        for value in values:
            if not isinstance(value, dict) or step not in value:
                has = f"this row has {', '.join(row) or 'no fields'}"
                raise UserError(f"{where}: field '{field}' is missing ({has}); set {knob} to its name")
        values = [value[step] for value in values]
    values = [one for value in values for one in (value if isinstance(value, list) else [value])]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int):
            kind = KINDS.get(type(value), type(value).__name__)
            raise UserError(f"{where}: field '{field}' is {kind}, expected text; fix the row or set {knob}")
    return [str(value) for value in values]


def _files(folder: Path, pattern: str, knob: str) -> list[Path]:
    """The files of `folder` that match, sorted. Raises UserError that names `knob` where none does."""
    files = sorted(file for file in folder.glob(pattern) if file.is_file())
    if not files:
        present = ", ".join(sorted(file.name for file in folder.iterdir() if file.is_file())[:8])
        raise UserError(
            f"{folder / pattern}: no such file; set `{knob}` to a file name or a pattern such as '*.jsonl' "
            f"(the folder holds: {present or 'no files'})"
        )
    return files


def _rows(files: list[Path]) -> Iterator[tuple[str, dict]]:
    """(`<file>, row <number>`, row) of every file; rows count from 1, the header of a CSV is not one."""
    for file in files:
        reader = READERS.get(file.suffix)
        if reader is None:
            raise UserError(f"{file}: cannot read this kind of file; save it as one of {', '.join(READERS)}")
        for number, row in reader(file):
            where = f"{file}, row {number}"
            if not isinstance(row, dict):
                raise UserError(f"{where}: expected an object with fields, found {KINDS[type(row)]}")
            try:
                json.dumps(row, ensure_ascii=False, default=str, allow_nan=False).encode("utf-8")
            except UnicodeEncodeError as error:
                half = error.object[error.start]
                raise UserError(f"{where}: holds {half!r}, half of a character; remove it") from None
            except ValueError:
                raise UserError(f"{where}: holds NaN or infinity; write null instead") from None
            yield where, row


def _json_lines(file: Path) -> Iterator[tuple[int, object]]:
    with open(file, "rb") as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                if raw.strip():
                    yield number, json.loads(raw.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                raise not_utf8(f"{file}, row {number}", error) from None
            except json.JSONDecodeError as error:
                raise UserError(f"{file}, row {number}: not valid JSON ({error.msg})") from None


def _json(file: Path) -> Iterator[tuple[int, object]]:
    """A JSON array, or JSON lines under the other name."""
    with open(file, "rb") as stream:
        array = stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    return enumerate(read_json(file), start=1) if array else _json_lines(file)


def _csv(file: Path) -> Iterator[tuple[int, object]]:
    csv.field_size_limit(2**31 - 1)  # the default refuses texts over 128 KiB
    number = 0
    try:
        for row in csv.DictReader(io.StringIO(read_text(file).removeprefix("\ufeff"), newline="")):
            number += 1
            if None in row or None in row.values():
                fields = "more" if None in row else "fewer"
                raise UserError(
                    f"{file}, row {number}: {fields} fields than the header; quote texts with commas"
                )
            yield number, row
    except csv.Error as error:
        raise UserError(f"{file}, row {number + 1}: not valid CSV ({error})") from None


def _parquet(file: Path) -> Iterator[tuple[int, object]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{file}: not a Parquet file ({error})") from None
    with table:
        number = 0
        for batch in table.iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                number += 1
                yield number, row


READERS = {".jsonl": _json_lines, ".json": _json, ".parquet": _parquet, ".csv": _csv}
