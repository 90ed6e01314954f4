"""Which texts are not worth mapping: one function a filter, in the order of docs/kinds/xc/filters.md."""

import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from heapq import heappop, heappush
from itertools import chain, compress, groupby
from math import nan
from operator import itemgetter
from pathlib import Path
from zlib import crc32

import numpy as np

from stages.core.errors import UserError
from stages.core.progress import progress
from stages.core.prompts import Template, render
from stages.core.text import plain_words
from stages.kinds.xc.parts.format.texts import Texts
from stages.kinds.xc.parts.queries import known_texts
from stages.retrieval.bm25 import Bm25
from stages.retrieval.knobs import Encoder

SAMPLES = 10


class Sieve:
    """The texts that are left, and what the figures and samples need of those that are not.

    In arrays, since there may be millions.
    """

    def __init__(self):
        names = "malformed copies duplicates near_duplicates min_logprob logprob_share round_trip".split()
        self.dropped: dict[str, int] = dict.fromkeys(names, 0)
        self.shown: dict[str, list[tuple]] = {name: [] for name in names}  # heaps: those of lowest hash
        self.reasons: Counter[str] = Counter()
        self.dropped_logprobs = array("d")
        self.documents = Texts()  # ids
        self.written = array("q")  # places of the documents with rows
        self.lines = 0
        self.texts = Texts()
        self.places, self.logprobs = array("q"), array("d")  # of each text: its document; its line's, or nan

    def add(self, document: str, kept: list[tuple[str, float]]) -> None:
        """The next document's id, and its (text, log-probability) that no filter of one document dropped."""
        for text, logprob in kept:
            self.texts.append(text)
            self.places.append(len(self.documents))
            self.logprobs.append(logprob)
        self.documents.append(document)

    def drop(self, name: str, document: str, text: str, logprob: float, why: object) -> None:
        """Count a text that filter `name` dropped, and show it where its hash is among the lowest SAMPLES.

        `why` is counted where it is a reason in words.
        """
        self.dropped[name] += 1
        self.dropped_logprobs.append(logprob)
        if isinstance(why, str):
            self.reasons[why] += 1
        shown = self.shown[name]
        heappush(shown, (-crc32(f"{document}\n{text}".encode()), document, text))
        if len(shown) > SAMPLES:
            heappop(shown)

    def drop_all(self, name: str, gone: np.ndarray) -> None:
        """Drop the texts marked in `gone`, one mark each."""
        for place in gone.nonzero()[0]:
            document = self.documents[self.places[place]]
            self.drop(name, document, self.texts[place], self.logprobs[place], why=None)
        stay = (~gone).tolist()
        self.texts = Texts(compress(self.texts, stay))
        self.places = array("q", compress(self.places, stay))
        self.logprobs = array("d", compress(self.logprobs, stay))

    def samples(self) -> dict[str, list[dict]]:
        """Up to SAMPLES of what each filter dropped, as good as drawn at random."""
        return {
            name: [
                {"document_id": document, "text": text}
                for _, document, text in sorted(shown, key=itemgetter(1, 2))
            ]
            for name, shown in self.shown.items()
        }


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
    return " ".join(plain_words(text))


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
        key = text.casefold()
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
    texts: Sequence[str], targets: Sequence[int], searched: list[str], rank: int, encoder: str, scratch: Path
) -> np.ndarray:
    """The same among the nearest vectors of `encoder`; a text of which it knows no word is lost.

    Vectors lie in `scratch`-<fingerprint>, where a stopped run finds them again, until all are compared.
    """
    # PyTorch, which takes seconds to load and only this filter needs
    from stages.retrieval.encoders import embeddings, fingerprint, load
    from stages.retrieval.neighbours import nearest

    knobs = Encoder(encoder=encoder)
    digest = sha256(fingerprint(knobs).encode())
    for text in chain(searched, texts):
        digest.update(f"{text}\0".encode())
    folder = scratch.with_name(f"{scratch.name}-{digest.hexdigest()[:16]}")
    model = load(knobs, searched)
    keys = embeddings(model, searched, "observed", folder / "pages.npy")
    queries = embeddings(model, texts, "synthetic", folder / "texts.npy")
    pages_found, _ = nearest(queries, keys, min(rank, len(searched)))
    lost = (pages_found != np.asarray(targets)[:, None]).all(axis=1) | ~queries.any(axis=1)
    for vectors in scratch.parent.glob(f"{scratch.name}-{'[0-9a-f]' * 16}"):
        shutil.rmtree(vectors)
    return lost
