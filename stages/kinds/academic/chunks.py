"""Cut papers into chunks to retrieve from, and read the questions of a benchmark.

Reads the PDFs at `path`, the file `questions` and the tokenizer of `tokenizer`. Writes
`data/<dataset>/chunks/`: chunks.jsonl, pieces of at most `chunk` tokens which never cross a page and whose
source is the paper, questions.jsonl, and a manifest. figures/chunks.json has the histogram of their tokens,
in ten bins, as a whole and of each paper. Promises the same bytes for the same files.
"""

from pathlib import Path

import numpy as np

from stages.core.files import atomic_directory, write_jsonl
from stages.core.messages import say
from stages.kinds.academic import places
from stages.kinds.academic.knobs import ChunksKnobs
from stages.kinds.academic.parts.questions import read_questions
from stages.retrieval.passages import Cutter, Piece
from stages.sources.papers import pdfs_at, read_papers

BINS = 10


def run(dataset: str, knobs: ChunksKnobs) -> dict:
    papers = read_papers(f"chunks {dataset}", knobs.path, knobs.skip)
    questions = read_questions(Path(knobs.questions), papers)
    cutter = Cutter(knobs)
    pieces = (Piece(paper.name, paper.title, page.text) for paper in papers for page in paper.pages)
    passages = cutter.passages(pieces)
    encoded = cutter.tokenizer.encode_batch([one["text"] for one in passages], add_special_tokens=False)
    tokens = np.array([len(encoding.ids) for encoding in encoded])
    counts: dict[str, int] = {}
    with atomic_directory(places.chunks(dataset), "chunks", counts) as folder:
        counts["chunks.jsonl"] = write_jsonl(folder / "chunks.jsonl", passages)
        counts["questions.jsonl"] = write_jsonl(folder / "questions.jsonl", questions)
    whole, edges = np.histogram(tokens, bins=BINS)
    source = np.array([one["source"] for one in passages])
    of_paper = {
        paper.name: np.histogram(tokens[source == paper.name], bins=edges)[0].tolist() for paper in papers
    }
    unanswerable = sum(not one["answerable"] for one in questions)
    say(
        f"chunks {dataset}: {len(passages):,} chunks of {len(papers):,} papers, {len(questions):,} questions "
        f"({unanswerable:,} without answer)"
    )
    return {
        "papers": len(papers),
        "pages": sum(len(paper.pages) for paper in papers),
        "chunks": len(passages),
        "tokens": int(tokens.sum()),
        "questions": len(questions),
        "unanswerable": unanswerable,
        "histogram": {
            "edges": [round(float(edge), 2) for edge in edges],
            "chunks": whole.tolist(),
            "papers": of_paper,
        },
    }


def check_source(knobs: ChunksKnobs) -> None:
    """Raises UserError where there is no PDF, or no question, before a base model is fetched."""
    pdfs_at(knobs.path)
    read_questions(Path(knobs.questions))
