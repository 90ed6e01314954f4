"""The documents of an XC dataset: their lines, with title and text of a metadata file, cut to length.

ORCAS has metadata for each label (url, title, body, relevant queries), Wiki for each training point (title,
article). All of it is streamed; what is joined by key is set aside in a temporary file.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice, zip_longest
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NamedTuple

import orjson

from stages.core import rows as xc_rows
from stages.core.errors import UserError
from stages.kinds.xc.parts.format.texts import Row, one_line, rows
from stages.kinds.xc.parts.format.texts import field as text_field

# What a metadata file may call the fields of a Page: SKIM's names first.
FIELDS = {
    "url": ("url",),
    "title": ("doc_title", "title"),
    "body": ("doc_body", "body", "content", "text"),
    "uid": ("uid", "docid"),
    "queries": ("relevant_queries",),
}
TEXT = {str, type(None)}
Place = tuple[int, int]  # offset and length in a file
AT_ONCE = 256  # documents that are tokenised together, rows whose fields are looked at first
MOST_WORDS = 1_000_000  # remembered with their tokens: about 150 MB


class Document(NamedTuple):
    """A document before it is cut. `line` is how X or Y has it; `if_empty` says where text is missing."""

    line: str
    title: str
    body: str
    if_empty: str
    metadata: dict
    queries: list[str]


class Page(NamedTuple):
    """A row of a metadata file; None is what it does not have."""

    url: str | None
    title: str | None
    body: str | None
    uid: str | None
    queries: list[str]


class Metadata:
    """A metadata file and the names of its fields: those of FIELDS that its first rows have.

    `enough` is how many characters of a body are needed at most.
    """

    def __init__(self, path: Path, enough: int):
        self.path, self.enough = path, enough
        self.names: dict[str, str] = {}

    def pages(self) -> Iterator[Page]:
        """Its rows. Raises UserError with file, row and field."""
        rows = xc_rows.records(self.path)
        first = list(islice(rows, AT_ONCE))
        if first:
            self._choose([record for _, record in first])
        for row, record in chain(first, rows):
            texts = [record.get(name) for name in self.texts]
            if not TEXT.issuperset(map(type, texts)):
                texts = [text_field(record, name, self.path, row) for name in self.texts]
            queries = record.get(self.names["queries"]) or []
            if type(queries) is not list or not {str}.issuperset(map(type, queries)):
                raise UserError(
                    f"{self.path}, row {row}: field '{self.names['queries']}' is not a list of texts"
                )
            yield Page(*texts, queries)

    def _choose(self, records: list[dict]) -> None:
        """Set `names` by the first rows together: a row may lack what it has no value for."""
        there = set().union(*records)
        for what, known in FIELDS.items():
            self.names[what] = next((name for name in known if name in there), known[0])
        if self.names["body"] not in records[0]:
            raise UserError(
                f"{self.path}, row 1: field '{' or '.join(FIELDS['body'])}' is missing (this row has "
                f"{', '.join(records[0]) or 'no fields'}); rename the one that holds the text"
            )
        self.texts = [name for what, name in self.names.items() if what != "queries"]


def documents(
    path: Path, metadata: Metadata | None, join_on: str | None, scratch: Path, warnings: Counter
) -> Iterator[Document]:
    """One Document for each row of `path` (trn_X or Y), in its order.

    Metadata has as many rows, in the same order; or rows of any order and number, whose field `join_on` (url,
    uid or title) is the line, or the `uid`, of the row they belong to. `scratch` is a folder for a temporary
    file. Raises UserError where the numbers of rows differ; rows without metadata are counted in `warnings`.
    """
    if metadata is None:
        return (_plain(path, number, row) for number, row in enumerate(rows(path), start=1))
    if join_on is None:
        return _side_by_side(path, metadata)
    return _joined(path, metadata, join_on, scratch, warnings)


def _plain(path: Path, number: int, row: Row) -> Document:
    about = _about(row)
    if row.body is None:
        return Document(row.line, "", row.line, f"{path}, row {number}: holds no text", about, [])
    where = f"{path}, row {number}: field 'content' holds no text"
    return Document(row.line, row.title, row.body, where, about, [])


def _side_by_side(path: Path, metadata: Metadata) -> Iterator[Document]:
    for number, (row, page) in enumerate(zip_longest(rows(path), metadata.pages()), start=1):
        if row is None or page is None:
            shorter, longer = (path, metadata.path) if row is None else (metadata.path, path)
            raise UserError(
                f"{shorter}: {number - 1:,} rows, but {longer} has more; metadata needs a row for each, in "
                "the same order, or a field to join on (join_on)"
            )
        where = f"{metadata.path}, row {number}: field '{metadata.names['body']}' holds no text"
        yield _merged(row, page, where)


def _merged(row: Row, page: Page, where: str) -> Document:
    title = row.title or row.line if page.title is None else " ".join(page.title.split())
    return Document(row.line, title, page.body or "", where, _about(row, page.url, page.uid), page.queries)


def _about(row: Row, url: str | None = None, uid: str | None = None) -> dict:
    """Url and uid, where they are known: a line that is a URL is its own."""
    name = row.title or row.line
    known = {}
    if url or name.startswith(("http://", "https://")):
        known["url"] = one_line(url or name)
    if (own := uid if row.uid is None else row.uid) is not None:
        known["uid"] = one_line(own)
    return known


def _joined(
    path: Path, metadata: Metadata, join_on: str, scratch: Path, warnings: Counter
) -> Iterator[Document]:
    place_of = dict.fromkeys(_key(row, join_on) for row in rows(path))
    with TemporaryFile(dir=scratch) as kept:
        _set_aside(metadata, join_on, place_of, kept, warnings)
        for number, row in enumerate(rows(path), start=1):
            where = f"{path}, row {number}: no row of {metadata.path} with this {join_on}, or no text in it"
            if place := place_of[_key(row, join_on)]:
                kept.seek(place[0])
                yield _merged(row, Page(*orjson.loads(kept.read(place[1]))), where)
            else:
                warnings["without_metadata"] += 1
                yield Document(row.line, row.line, "", where, _about(row), [])


def _key(row: Row, join_on: str) -> str:
    if join_on == "uid" and row.uid is not None:
        return one_line(row.uid)
    return row.title or row.line


def _set_aside(
    metadata: Metadata, join_on: str, place_of: dict[str, Place | None], kept: IO[bytes], warnings: Counter
) -> None:
    """Write the rows whose key is in `place_of` to the file `kept`, and note their places there."""
    end = 0
    for number, page in enumerate(metadata.pages(), start=1):
        key = getattr(page, join_on)
        if key is None:
            raise UserError(f"{metadata.path}, row {number}: no {join_on} to join on; see join_on")
        key = one_line(key)
        if key not in place_of:
            warnings["unused_metadata"] += 1
        elif place_of[key]:
            warnings["repeated_metadata"] += 1
        else:
            body = (page.body or "").strip()[: metadata.enough]
            place_of[key] = end, kept.write(orjson.dumps([*page._replace(body=body)]))
            end += place_of[key][1]
    if not end:
        raise UserError(f"{metadata.path}: not one row has a {join_on} that the labels or points have")


class Cutter:
    """Cuts title and text together to `max_chars` characters, then to `max_tokens` tokens (SKIM, step 1)."""

    def __init__(self, tokenizer: Path, max_chars: int, max_tokens: int):
        from stages.core.tokenizer import TextCodec

        self.tokenizer = TextCodec(tokenizer).tokenizer
        self.max_chars, self.max_tokens = max_chars, max_tokens
        self.tokens_of: dict[str, int] = {}  # words
        self.counts = Counter()

    def cut(self, uncut: Iterable[Document]) -> Iterator[tuple[Document, str]]:
        """(document, its text once cut): the start of the body, without white space around it."""
        uncut = iter(uncut)
        while batch := list(islice(uncut, AT_ONCE)):
            whole = [self._whole(document) for document in batch]
            for n, encoding in self._encodings(whole):
                if len(encoding) > self.max_tokens:
                    self.counts["by_tokens"] += 1
                    whole[n] = whole[n][: encoding.offsets[self.max_tokens][0]]
            for document, text in zip(batch, whole, strict=True):
                yield document, text[len(document.title) :].strip()

    def _whole(self, document: Document) -> str:
        body = document.body.strip()
        text = f"{document.title} {body}" if document.title else body
        if len(text) > self.max_chars:
            self.counts["by_chars"] += 1
        return text[: self.max_chars]

    def _encodings(self, texts: list[str]) -> Iterator[tuple]:
        """(place, encoding) of the texts that may be too long. To tokenise a text is many times the work of
        reading it, and most need it not: a token is a byte at least, and `most_tokens` is a closer bound.
        """
        long = [n for n, text in enumerate(texts) if len(text.encode()) > self.max_tokens]
        most = self.most_tokens([texts[n] for n in long])
        long = [n for n, tokens in zip(long, most, strict=True) if tokens > self.max_tokens]
        encodings = self.tokenizer.encode_batch([texts[n] for n in long], add_special_tokens=False)
        return zip(long, encodings, strict=True)

    def most_tokens(self, texts: list[str]) -> list[int]:
        """The tokens of each text's words, each alone, and one for every byte of white space.

        No fewer than the text has, for tokenizers that join nothing across white space: all common ones.
        """
        if len(self.tokens_of) > MOST_WORDS:
            self.tokens_of.clear()
        words = [text.split() for text in texts]
        new = list(set().union(*words) - self.tokens_of.keys())
        encodings = self.tokenizer.encode_batch(new, add_special_tokens=False)
        self.tokens_of.update(zip(new, map(len, encodings), strict=True))
        return [
            sum(map(self.tokens_of.__getitem__, split)) + len(text.encode()) - len("".join(split).encode())
            for text, split in zip(texts, words, strict=True)
        ]
