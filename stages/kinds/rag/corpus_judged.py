"""Write the answers that a teacher is to judge: the documents of a dataset of their own.

Reads passages/, retrieved/, answers.jsonl and answers_compared.jsonl of data/OF/. Writes
data/DATASET/corpus/: documents.jsonl, a row for each different answer to a question, whichever systems gave
it, sorted by id, which is a hash of both; and to_label.jsonl, the first of them, a random sample, for people
to judge as well. The judge sees the reference, and the gold passages beside one that was retrieved, in an
order that says nothing. docs/kinds/rag/judge.md shows how it goes on.
"""

from stages.core import layout
from stages.core.files import atomic_directory, write_jsonl
from stages.kinds.rag.knobs import CorpusJudgedKnobs
from stages.kinds.rag.parts.judging import BLANK, to_judge, to_label


def run(dataset: str, knobs: CorpusJudgedKnobs) -> dict:
    documents = to_judge(knobs)
    written: dict[str, int] = {}
    with atomic_directory(layout.corpus(dataset), "corpus_judged", written) as directory:
        for name, rows in (("documents", documents), ("to_label", to_label(documents))):
            written[f"{name}.jsonl"] = write_jsonl(directory / f"{name}.jsonl", rows)
    return {
        "answers": sum(len(row["metadata"]["given_by"]) for row in documents),
        "documents": len(documents),
        "blank": sum(row["split"] == BLANK for row in documents),
    }
