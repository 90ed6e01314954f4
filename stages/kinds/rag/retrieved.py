"""Retrieve passages for all questions of a dataset, once: for training rows, answers and measures alike.

Reads data/DATASET/passages/, ENCODER and RERANKER. Writes data/DATASET/retrieved/: of each question in
{train,val,test,people}.jsonl the ids and scores of its best `depth` passages of the whole corpus;
retriever.json, the knobs, so that answering finds alike; and a manifest.
"""

from collections.abc import Mapping, Sequence
from itertools import islice

from stages.core.errors import UserError
from stages.core.files import atomic_directory, write_json, write_jsonl
from stages.core.messages import say
from stages.kinds.rag import places
from stages.kinds.rag.knobs import RetrievedKnobs
from stages.kinds.rag.parts import measures
from stages.kinds.rag.parts.rows import SPLITS, Found, Question, query_of, read_passages, read_questions
from stages.retrieval.passages import Passage
from stages.retrieval.retriever import Retriever

CUTOFFS = (1, 4, 10)


def run(dataset: str, knobs: RetrievedKnobs) -> dict:
    passages = read_passages(dataset)
    if knobs.depth > len(passages):
        raise UserError(
            f"retrieved.{dataset}: depth is {knobs.depth}, and there are {len(passages):,} passages in all; "
            "lower depth, or add documents"
        )
    questions = {split: read_questions(dataset, split) for split in SPLITS}
    rows = [row for own in questions.values() for row in own]
    found = Retriever(passages, knobs).find([query_of(row) for row in rows], knobs.depth)
    hits = [Found(id=row["id"], passages=own[0], scores=own[1]) for row, own in zip(rows, found, strict=True)]
    empty = sum(not hit["passages"] for hit in hits)
    if empty == len(hits):
        raise UserError(
            f"retrieved.{dataset}: no question finds any passage; are questions and passages in one "
            "language? Then set `by: dense` and an encoder that knows it"
        )
    figures, counts, left = {}, {}, iter(hits)
    with atomic_directory(places.retrieved(dataset), "retrieved", counts) as folder:
        for split, own in questions.items():
            own_hits = list(islice(left, len(own)))
            counts[f"{split}.jsonl"] = write_jsonl(folder / f"{split}.jsonl", own_hits)
            figures[split] = measured(own, own_hits, passages)
        write_json(folder / places.RETRIEVER, knobs.model_dump())
    for split, own in figures.items():
        told = ", ".join(f"recall@{k} {own[f'recall@{k}']:.3f}" for k in CUTOFFS if own["questions"])
        say(f"retrieved {dataset}: {split}: {own['questions']:,} questions; {told}")
    return {"passages": len(passages), "without_passages": empty, **figures}


def measured(questions: Sequence[Question], hits: Sequence[Found], passages: Mapping[str, Passage]) -> dict:
    """Shares of questions with all gold passages, and with their documents, among the first k."""
    rows = [
        measures.found(hit["passages"], row["gold"], passages, CUTOFFS)
        for row, hit in zip(questions, hits, strict=True)
    ]
    names = [f"{name}@{k}" for k in CUTOFFS for name in ("recall", "source")]
    means = {name: round(sum(row[name] for row in rows) / max(1, len(rows)), 4) for name in names}
    return {"questions": len(rows), **means}
