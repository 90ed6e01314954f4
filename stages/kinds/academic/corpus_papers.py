"""Read papers from PDFs, split by paper: their paragraphs, by rules, or their pages for a teacher to split.

Reads the PDFs at `path`. Writes `data/<dataset>/corpus/`: documents.jsonl, sorted by id, and a manifest. A
paper is trained on or held out as a whole, and papers of nearly one text together; a paragraph that two have
stays in the one, which is held out if either is. Ids, and which paragraphs are too short, follow from a paper
alone: another one asks a teacher nothing anew about these. A file that cannot be read is an error that names
all such files. Promises the same bytes for the same PDFs.
"""

from collections import Counter

import numpy as np

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, write_jsonl
from stages.core.messages import say
from stages.core.records import Document
from stages.core.text import count_words
from stages.evaluation.people import one_spelling
from stages.kinds.academic.knobs import CorpusPapersKnobs
from stages.kinds.academic.parts.papers import Paper, pdfs_at, read_papers, warn
from stages.kinds.academic.parts.split import split_papers

HELD_OUT_FIRST = ("test", "val", "train")


def run(dataset: str, knobs: CorpusPapersKnobs) -> dict:
    papers = read_papers(knobs)
    warn("corpus_papers", dataset, papers)
    split_of, like = split_papers(papers, knobs)
    for one, other in like:
        say(f"corpus_papers {dataset}: warning: {one} and {other} hold nearly one text; they share a split")
    left_out: Counter[str] = Counter()
    for paper in papers:
        left_out.update(paper.left_out)
    documents: list[Document] = []
    known: set[str] = set()
    for paper in sorted(papers, key=lambda paper: HELD_OUT_FIRST.index(split_of[paper.name])):
        for own in documents_of(paper, knobs, split_of[paper.name], left_out):
            spelt = one_spelling(own["text"])
            left_out["repeated"] += spelt in known
            if spelt not in known:
                known.add(spelt)
                documents.append(own)
    splits = Counter(one["split"] for one in documents)
    wanted = ["train", *(["test"] if knobs.test or knobs.test_share else [])]
    if lacking := [split for split in wanted if not splits[split]]:
        raise UserError(
            f"corpus_papers {dataset}: nothing is left for {lacking[0]}: {len(papers)} papers give "
            f"{len(documents)} {knobs.unit}; add papers, change val and test, or set test_share to 0"
        )
    documents.sort(key=lambda one: one["id"])
    counts: dict[str, int] = {}
    with atomic_directory(layout.corpus(dataset), "corpus_papers", counts) as folder:
        counts["documents.jsonl"] = write_jsonl(folder / "documents.jsonl", documents)
    figures = {
        "papers": len(papers),
        "pages": sum(len(paper.pages) for paper in papers),
        "documents": len(documents),
        "splits": {split: splits[split] for split in ("train", "val", "test")},
        "papers_of_split": dict(sorted(Counter(split_of.values()).items())),
        "pages_skipped": dict(sum((Counter(paper.skipped) for paper in papers), Counter())),
        "left_out": dict(sorted(left_out.items())),
        "glyphs_without_meaning": sum(paper.unknown for paper in papers),
        "words": sum(count_words(one["text"]) for one in documents),
    }
    shown = ", ".join(f"{count:,} {split}" for split, count in figures["splits"].items())
    say(f"corpus_papers {dataset}: {len(documents):,} {knobs.unit} of {len(papers):,} papers: {shown}")
    return figures


def documents_of(
    paper: Paper, knobs: CorpusPapersKnobs, split: str, left_out: Counter[str]
) -> list[Document]:
    """The paper's paragraphs, or pages. Shorter than the quantile `shortest` of its paragraphs: left out."""
    made: list[Document] = []
    if knobs.unit == "pages":
        for page in paper.pages:
            metadata = {"page": page.number, "words": count_words(page.text), "warnings": page.warnings}
            made.append(document(paper, f"{page.number}", page.text, metadata, split))
        return made
    lengths = [len(one.text) for one in paper.paragraphs]
    least = np.quantile(lengths, knobs.shortest) if lengths else 0
    for one in paper.paragraphs:
        if len(one.text) < least:
            left_out["shortest"] += 1
            continue
        metadata = {"page": one.page, "para_num": one.number}
        made.append(document(paper, f"{one.page}.{one.number}", one.text, metadata, split))
    return made


def document(paper: Paper, number: str, text: str, metadata: dict, split: str) -> Document:
    return {
        "id": f"{paper.name}#{number}",
        "title": paper.title,
        "text": text,
        "metadata": {"pdf": paper.path.name, **metadata},
        "split": split,
    }


def check_source(knobs: CorpusPapersKnobs) -> None:
    """Raises UserError where there is no PDF, before a base model is fetched."""
    pdfs_at(knobs.path)
