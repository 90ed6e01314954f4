"""Read papers from PDFs, split by paper: their paragraphs, by rules, or their pages for a teacher to split.

Reads the PDFs at `path`. Writes `data/<dataset>/corpus/`: documents.jsonl, sorted by id, and a manifest. A
paper is trained on or held out as a whole, and papers of nearly one text together; a paragraph that two have
stays in the one, which is held out if either is. Ids, and which paragraphs are too short, follow from a paper
alone: another one asks a teacher nothing anew about these. Where files cannot be read, an error names all of
them. Promises the same bytes for the same PDFs.
"""

from collections import Counter
from collections.abc import Iterator

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, write_jsonl
from stages.core.messages import say
from stages.core.records import Document
from stages.core.text import count_words
from stages.evaluation.people import one_spelling
from stages.kinds.academic.knobs import CorpusPapersKnobs
from stages.kinds.academic.parts.split import shortest_kept, split_papers
from stages.sources.papers import Paper, pdfs_at, read_papers

HELD_OUT_FIRST = ("test", "val", "train")


def run(dataset: str, knobs: CorpusPapersKnobs) -> dict:
    stage = f"corpus_papers {dataset}"
    papers = read_papers(stage, knobs.path, knobs.skip)
    split_of, like = split_papers(papers, knobs)
    for one, other in like:
        say(f"{stage}: warning: {one} and {other} hold nearly one text; they share a split")
    left_out = sum((paper.left_out for paper in papers), Counter[str]())
    by_text: dict[str, Document] = {}
    for paper in sorted(papers, key=lambda paper: HELD_OUT_FIRST.index(split_of[paper.name])):
        own = list(documents_of(paper, knobs, split_of[paper.name]))
        if knobs.unit == "paragraphs":
            left_out["shortest"] += len(paper.paragraphs) - len(own)
        for one in own:
            left_out["repeated"] += by_text.setdefault(one_spelling(one["text"]), one) is not one
    documents = sorted(by_text.values(), key=lambda one: one["id"])
    splits = Counter(one["split"] for one in documents)
    held_out = ["test"] if knobs.test or knobs.test_share else []
    if lacking := [split for split in ("train", *held_out) if not splits[split]]:
        raise UserError(
            f"{stage}: nothing is left for {lacking[0]}, with {len(documents)} {knobs.unit} of {len(papers)} "
            "papers; add papers, change val and test, or set test_share to 0"
        )
    counts: dict[str, int] = {}
    with atomic_directory(layout.corpus(dataset), "corpus_papers", counts) as folder:
        counts["documents.jsonl"] = write_jsonl(folder / "documents.jsonl", documents)
    shown = ", ".join(f"{splits[split]:,} {split}" for split in ("train", "val", "test"))
    say(f"{stage}: {len(documents):,} {knobs.unit} of {len(papers):,} papers: {shown}")
    return {
        "papers": len(papers),
        "pages": sum(len(paper.pages) for paper in papers),
        "documents": len(documents),
        "splits": {split: splits[split] for split in ("train", "val", "test")},
        "papers_of_split": dict(sorted(Counter(split_of.values()).items())),
        "pages_skipped": dict(sum((paper.skipped for paper in papers), Counter[str]())),
        "left_out": dict(sorted(left_out.items())),
        "glyphs_without_meaning": sum(page.unknown for paper in papers for page in paper.pages),
        "words": sum(count_words(one["text"]) for one in documents),
    }


def documents_of(paper: Paper, knobs: CorpusPapersKnobs, split: str) -> Iterator[Document]:
    """Pages, or paragraphs less those shorter than the quantile `shortest` of the paper's own."""

    def document(number: str, text: str, **about) -> Document:
        metadata = {"pdf": paper.path.name, **about}
        name = f"{paper.name}#{number}"
        return {"id": name, "title": paper.title, "text": text, "metadata": metadata, "split": split}

    if knobs.unit == "pages":
        for page, text, unknown in paper.pages:
            warnings = [f"{unknown} glyphs without a meaning left out"] if unknown else []
            yield document(f"{page}", text, page=page, words=count_words(text), warnings=warnings)
        return
    least = shortest_kept([one.text for one in paper.paragraphs], knobs.shortest)
    for page, number, text in paper.paragraphs:
        if len(text) >= least:
            yield document(f"{page}.{number}", text, page=page, para_num=number)


def check_source(knobs: CorpusPapersKnobs) -> None:
    """Raises UserError where there is no PDF, before a base model is fetched."""
    pdfs_at(knobs.path)
