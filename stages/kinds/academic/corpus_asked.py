"""Make documents of what a teacher wrote about those of another dataset: paragraphs of pages, or questions.

Reads data/OF/corpus/ and data/OF/responses.jsonl. Writes data/DATASET/corpus/documents.jsonl, sorted by id,
each in the split of the document that it came from. Of `task: paragraphs` a document is a paragraph, less the
shortest; the figures compare those of `qc_pages` with their pages. Of `task: question` it is a text with
`metadata.question`; and for a share of the questions one more, `metadata.answerable` false, whose text is the
paragraph of another paper that has most of the question's words: what is not said there, the student learns
to leave unsaid. Each depends on its own two texts alone, so another paper adds requests and changes few.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, write_jsonl
from stages.core.hashing import stable_integer, stable_unit
from stages.core.records import Document, read_documents
from stages.core.text import comparable, content_words, tokens
from stages.kinds.academic.knobs import CorpusAskedKnobs
from stages.kinds.academic.parts.split import shortest_kept
from stages.kinds.answers import answer_of, document_of, read_responses
from stages.kinds.kind import Task
from stages.kinds.written import PARAGRAPHS, QUESTION

BINS = 10  # of the histograms


def run(dataset: str, knobs: CorpusAskedKnobs) -> dict:
    responses, sources = layout.responses(knobs.of), {row["id"]: row for row in read_documents(knobs.of)}
    counts: Counter[str] = Counter()
    figures: dict[str, Any] = {}
    if knobs.task == "paragraphs":
        written = texts_by_document(responses, sources, PARAGRAPHS, counts)
        figures["qc"] = quality(sources, written, knobs.qc_pages)
        documents = list(paragraphs(sources, written))
        least = shortest_kept([document["text"] for document in documents], knobs.shortest)
        documents = [document for document in documents if len(document["text"]) >= least]
        figures["shortest"] = sum(map(len, written.values())) - len(documents)
    else:
        written = texts_by_document(responses, sources, QUESTION, counts)
        documents = list(questions(sources, written))
        unanswerable = list(elsewhere(documents, sources, knobs))
        figures["unanswerable"] = len(unanswerable)
        documents += unanswerable
    splits = Counter(document["split"] for document in documents)
    if not splits["train"]:
        raise UserError(
            f"{responses}: no {knobs.task} about a document of train can be used, of {counts['responses']:,} "
            "answers; the figures of `collect` say why, or `task` is not what was asked for"
        )
    files: dict[str, int] = {}
    with atomic_directory(layout.corpus(dataset), "corpus_asked", files) as directory:
        documents.sort(key=lambda document: document["id"])
        files["documents.jsonl"] = write_jsonl(directory / "documents.jsonl", documents)
    told = {"responses": counts.pop("responses"), "rejected": dict(sorted(counts.items()))}
    return {
        "documents": len(documents),
        "splits": {split: splits[split] for split in ("train", "val", "test")},
        **told,
        **figures,
    }


def texts_by_document(
    responses: Path, sources: Mapping[str, Document], task: Task, counts: Counter[str]
) -> dict[str, list[str]]:
    """What may be used of the answers about each document, each text once; `counts` tells of the rest."""
    texts: dict[str, dict[str, str]] = {}
    for number, row in enumerate(read_responses(responses), start=1):
        counts["responses"] += 1
        if (document := sources.get(document_of(row))) is None:
            raise UserError(
                f"{responses}, row {number}: document '{document_of(row)}' is not in the corpus; run the "
                "prompt and collect stages again"
            )
        try:
            answer = answer_of(row, task) if row["accepted"] else None
        except ValueError:
            answer = None
        if not answer:
            counts[row["outcome"] if not row["accepted"] else "parses to nothing"] += 1
            continue
        counts.update(reason for text in answer if (reason := task.reject(text, document)))
        own = texts.setdefault(document["id"], {})
        for text in task.fit(answer, document):
            own.setdefault(comparable(text), text)
    return {name: list(own.values()) for name, own in sorted(texts.items())}


def paragraphs(sources: Mapping[str, Document], written: Mapping[str, list[str]]) -> Iterator[Document]:
    """A document for each paragraph of a page; `metadata.para_num` counts those of a page from 1."""
    for name, texts in written.items():
        for number, text in enumerate(texts, start=1):
            place = {key: sources[name]["metadata"].get(key) for key in ("pdf", "page")}
            metadata = {**place, "para_num": number}
            yield {**sources[name], "id": f"{name}.{number}", "text": text, "metadata": metadata}


def quality(sources: Mapping[str, Document], written: Mapping[str, list[str]], pages: Iterable[int]) -> dict:
    """How a teacher's paragraphs compare with their pages, of those with a number among `pages`.

    The cosine of their TF-IDF vectors, and by what share of the page's characters they are shorter.
    """
    names = [name for name in written if sources[name]["metadata"].get("page") in set(pages)]
    pairs = [(sources[name]["text"], " ".join(written[name])) for name in names]
    if not pairs:
        return {"pages": 0}
    vectors = TfidfVectorizer().fit_transform([text for pair in pairs for text in pair])
    cosines = np.asarray(vectors[::2].multiply(vectors[1::2]).sum(axis=1)).ravel()
    shorter = np.array([1 - len(own) / max(1, len(page)) for page, own in pairs])
    return {
        "pages": len(pairs),
        "cosine": summed_up(cosines, (0, 1)),
        "length_difference": summed_up(shorter, (-1, 1)),
    }


def summed_up(values: np.ndarray, between: tuple[float, float]) -> dict:
    """Mean, extremes, and how many values lie in each of BINS of equal width `between` two bounds."""
    histogram, _ = np.histogram(values.clip(*between), BINS, between)
    told = {name: round(float(getattr(values, name)()), 4) for name in ("mean", "min", "max")}
    return {**told, "between": list(between), "histogram": histogram.tolist()}


def questions(sources: Mapping[str, Document], written: Mapping[str, list[str]]) -> Iterator[Document]:
    """A document for each question about a text."""
    for name, texts in written.items():
        for number, text in enumerate(texts, start=1):
            yield asked(sources[name], f"{name}#q{number}", text, True, sources[name]["split"])


def asked(source: Document, name: str, question: str, answerable: bool, split: str) -> Document:
    metadata = {**source["metadata"], "document_id": source["id"]}
    metadata |= {"question": question, "answerable": answerable}
    return {**source, "id": name, "metadata": metadata, "split": split}


def elsewhere(
    documents: Iterable[Document], sources: Mapping[str, Document], knobs: CorpusAskedKnobs
) -> Iterator[Document]:
    """Questions put to another paper's text, of their own split or of train."""
    stems = {name: set(tokens(source["text"])) for name, source in sources.items()}
    for document in documents:
        if stable_unit("unanswerable", knobs.seed, document["id"]) >= knobs.unanswerable:
            continue
        question, split = document["metadata"]["question"], document["split"]
        words = set(tokens(" ".join(content_words(question))))
        others = [
            (len(words & stems[name]), stable_integer(knobs.seed, document["id"], name), name)
            for name, source in sources.items()
            if paper(source) != paper(document) and source["split"] in (split, "train")
        ]
        if others:
            yield asked(sources[max(others)[2]], f"{document['id']}-elsewhere", question, False, split)


def paper(document: Document) -> str:
    return str(document["metadata"].get("pdf", document["id"].partition("#")[0]))
