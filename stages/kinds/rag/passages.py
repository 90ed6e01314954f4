"""Read documents and questions that people bring, and cut the documents into passages.

Reads the files at `path`: LocalRQA's as they are, or documents.* and questions.* (docs/kinds/rag.md), the
tokenizer of `tokenizer` and the file `eval_rows`. Writes `data/<dataset>/passages/`: passages.jsonl, the
questions {train,val,test,people}.jsonl, and a manifest. Every gold passage is among the passages. Training
rows whose question or gold passage is held out are left out and counted. Pickles are refused. Promises the
same bytes for the same files.
"""

from stages.kinds.rag.knobs import PassagesKnobs
from stages.kinds.rag.parts.local_rqa import files_of, read
from stages.kinds.rag.parts.questions import people_questions, write_passages
from stages.retrieval.passages import Cutter, by_source


def run(dataset: str, knobs: PassagesKnobs) -> dict:
    passages, questions, found = read(knobs, Cutter(knobs))
    questions["people"] = people_questions(knobs.eval_rows, by_source(passages))
    return write_passages(dataset, "passages", knobs, passages, questions, found)


def check_source(knobs: PassagesKnobs) -> None:
    """Raises UserError where the folder lacks its files, before a base model is fetched."""
    files_of(knobs)
