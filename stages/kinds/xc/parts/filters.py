"""Which texts are not worth mapping: one function a filter, in the order of docs/kinds/xc/filters.md."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import nsmallest
from itertools import groupby
from math import nan
from operator import itemgetter
from pathlib import Path
from zlib import crc32

import numpy as np

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import temporary_directory
from stages.core.progress import progress
from stages.core.prompts import Template, render
from stages.core.text import comparable, words_of
from stages.kinds.xc.parts.queries import known_texts
from stages.retrieval.bm25 import Bm25
from stages.retrieval.knobs import Encoder

SAMPLES = 10
FILTERS = "malformed copies duplicates near_duplicates min_logprob logprob_share round_trip".split()


class Texts:
    """All texts that were written, side by side, and which filter dropped each. There may be millions."""

    def __init__(self):
        self.documents: list[str] = []  # ids
        self.written = array("q")  # places of the documents with rows
        self.texts: list[str] = []
        self.places, self.logprobs = array("q"), array("d")  # of each text: its document; its line's, or nan
        self.dropped_by = bytearray()  # of each text: 0 if it is kept, else the number of the filter, from 1
        self.reasons: Counter[str] = Counter()

    def add(self, document: dict, answers: list[tuple[str, float]], filters: dict[str, Callable]) -> None:
        """The texts of the next document with their log-probabilities, and what `filters` say of them.

        A filter takes (texts, document) and gives for each text why it goes, or nothing; it sees the texts
        that the ones before it kept. A reason in words is counted.
        """
        dropped_by = bytearray(len(answers))
        for name, judge in filters.items():
            left = [number for number, dropped in enumerate(dropped_by) if not dropped]
            reasons = judge([answers[number][0] for number in left], document) if left else ()
            for number, reason in zip(left, reasons, strict=True):
                if reason:
                    dropped_by[number] = 1 + FILTERS.index(name)
                if isinstance(reason, str):
                    self.reasons[reason] += 1
        self.dropped_by += dropped_by
        self.texts += (text for text, _ in answers)
        self.logprobs.extend(logprob for _, logprob in answers)
        self.places.extend([len(self.documents)] * len(answers))
        self.documents.append(document["id"])

    def kept(self) -> np.ndarray:
        """Numbers of the texts that no filter dropped."""
        return np.flatnonzero(np.frombuffer(bytes(self.dropped_by), dtype=np.uint8) == 0)

    def drop(self, name: str, numbers: np.ndarray) -> None:
        """Mark the texts of these numbers as dropped by filter `name`."""
        for number in numbers.tolist():
            self.dropped_by[number] = 1 + FILTERS.index(name)

    def dropped(self) -> dict[str, int]:
        return {name: self.dropped_by.count(number) for number, name in enumerate(FILTERS, start=1)}

    def samples(self) -> dict[str, list[dict]]:
        """Up to SAMPLES of what each filter dropped, those of lowest hash: as good as drawn at random."""
        pairs: dict[str, list[tuple[str, str]]] = {name: [] for name in FILTERS}
        for place, text, dropped in zip(self.places, self.texts, self.dropped_by, strict=True):
            if dropped:
                pairs[FILTERS[dropped - 1]].append((self.documents[place], text))
        shown = {name: sorted(nsmallest(SAMPLES, some, key=_hash)) for name, some in pairs.items()}
        return {
            name: [{"document_id": document, "text": text} for document, text in some]
            for name, some in shown.items()
        }


def _hash(pair: tuple[str, str]) -> int:
    return crc32("\n".join(pair).encode())


def joined(documents: Iterable[dict], rows: Iterable[dict], source: Path) -> Iterator[tuple[dict, list]]:
    """Each document with its rows, both in the order of ids. Raises UserError for rows of no document."""
    groups = groupby(rows, key=itemgetter("document_id"))
    name, group = next(groups, (None, ()))
    for document in documents:
        if name is not None and name < document["id"]:
            break
        if name == document["id"] and document["split"] != "empty":
            yield document, list(group)
            name, group = next(groups, (None, ()))
        else:
            yield document, []
    if name is not None:
        raise UserError(f"{source}: document {name!r} is not one to write for; run generate again")


def answers(rows: Iterable[dict], lines: Callable) -> Iterator[tuple[str, float]]:
    """The texts of a document's answers, each with the log-probability of its line, else its answer."""
    for row in rows:
        of_lines = row["line_logprobs"] or ()
        for number, text in lines(row["text"]):
            logprob = of_lines[number] if number < len(of_lines) else None
            logprob = row["logprob"] if logprob is None else logprob
            yield text, nan if logprob is None else logprob


def flat(text: str) -> str:
    """Equal for texts that differ in case, punctuation or white space alone."""
    return " ".join(words_of(comparable(text)))


def copied(texts: Sequence[str], document: dict, template: Template, title: bool = True) -> list[bool]:
    """Is a text a line of the prompt that it was written for, a known query or, if asked, the title?"""
    given = {flat(line) for line in render(template, document).split("\n")}
    given.update(map(flat, known_texts(document)))
    if title:
        given.add(flat(document["title"]))
    return [flat(text) in given for text in texts]


def repeated(texts: Iterable[str]) -> list[bool]:
    """Is a text equal to an earlier one, whatever its case?"""
    seen: set[str] = set()
    marks = []
    for text in texts:
        key = comparable(text)
        marks.append(key in seen)
        seen.add(key)
    return marks


def below_share(logprobs: np.ndarray, share: float) -> np.ndarray:
    """Is a text not of the likeliest `share` (InPars, Bonifacio et al. 2022)? Equal ones: the first stay."""
    outside = np.ones(len(logprobs), dtype=bool)
    outside[np.argsort(-logprobs, kind="stable")[: round(share * len(logprobs))]] = False
    return outside


def pages(documents: Iterable[dict]) -> tuple[list[str], dict[str, int]]:
    """What a retriever searches, and by its id the place there of each document.

    Documents of equal text are one page under all their titles: no query can tell them apart.
    """
    titles_of: dict[str, dict[str, None]] = {}
    place_of: dict[str, int] = {}
    places = {}
    for document in documents:
        titles_of.setdefault(document["text"], {})[document["title"]] = None
        places[document["id"]] = place_of.setdefault(document["text"], len(place_of))
    return ["\n".join((*titles, text)) for text, titles in titles_of.items()], places


def lost_by_bm25(texts: Sequence[str], targets: Sequence[int], searched: list[str], rank: int) -> np.ndarray:
    """Is page `targets[i]` not among the first `rank` of `searched` for text i? Ties count against it.

    Round-trip consistency (Promptagator, Dai et al. 2022), with a retriever that needs no training.
    """
    index = Bm25(searched)
    pairs = progress(zip(texts, targets, strict=True), "round trip", "text", len(texts))
    return np.array([not index.within(text, target, rank) for text, target in pairs], dtype=bool)


def lost_by_vectors(
    texts: Sequence[str], targets: Sequence[int], searched: list[str], rank: int, encoder: str
) -> np.ndarray:
    """The same among the nearest vectors of `encoder`; a text of which it knows no word is lost."""
    # PyTorch, which takes seconds to load and only this filter needs
    from stages.retrieval.encoders import embeddings, load
    from stages.retrieval.neighbours import nearest

    model = load(Encoder(encoder=encoder), searched)
    with temporary_directory(layout.SCRATCH / "filter") as folder:
        keys = embeddings(model, searched, "observed", folder / "pages.npy")
        queries = embeddings(model, texts, "synthetic", folder / "texts.npy")
        nearest_pages, _ = nearest(queries, keys, min(rank, len(searched)))
        return (nearest_pages != np.asarray(targets)[:, None]).all(axis=1) | ~queries.any(axis=1)
