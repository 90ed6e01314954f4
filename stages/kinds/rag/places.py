"""Where the data of this kind lie, beside what stages.core.layout says of all datasets."""

from pathlib import Path

# In retrieved(dataset): the knobs of what found them, so that asking finds alike.
RETRIEVER = "retriever.json"
# How prompts were made, so that answering makes them alike: in layout.litgpt_data, and with a fid model.
CONTEXT = "context.json"


def passages(dataset: str) -> Path:
    """passages.jsonl and the questions, {train,val,test,people}.jsonl (parts/rows.py)."""
    return Path("data") / dataset / "passages"


def retrieved(dataset: str) -> Path:
    """What the retriever finds for each question, {train,val,test,people}.jsonl."""
    return Path("data") / dataset / "retrieved"


def answers(dataset: str) -> Path:
    """The student's answers from retrieved passages."""
    return Path("data") / dataset / "answers.jsonl"


def compared(dataset: str) -> Path:
    """Answers of the other systems, and from gold passages."""
    return Path("data") / dataset / "answers_compared.jsonl"
