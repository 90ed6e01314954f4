"""A tiny dataset of papers in the working directory: chunks, questions, rows held out, and models."""

from pathlib import Path

from stages.core import layout
from stages.core.files import atomic_directory, write_json, write_jsonl, write_text
from stages.evaluation.unanswered import NOT_SAID
from stages.kinds.academic import places
from stages.kinds.academic.parts.rows import Question
from tests.helpers.tiny import made_once, tiny_model

NONE = "models/shipped/none"
TOPICS = {"histogram": "colors", "median": "quantile", "kernel": "signal", "pivot": "table", "graph": "edges"}
PROMPT = """Text: {{ document.text }}
Question: {{ document.metadata.question | oneline }}
"""
KNOBS = {
    "base": "b",
    "trained": "models/d/hf",
    "beside": NONE,
    "by": "bm25",
    "encoder": NONE,
    "reranker": NONE,
    "prompt_length": 200,
    "max_new_tokens": 6,
    "engine": "transformers",
    "threads": 1,
    "batch_size": 4,
    "latency_questions": 2,
}


def chunk(name: str) -> dict:
    text = f"compute the {name} of an array with {TOPICS[name]}, and return a sorted array"
    place = {"seq": 0, "start": 0, "end": len(text)}
    return {"id": f"paper#{name}", "title": "Paper", "text": text, "source": "paper", **place}


def question(name: str, **changes) -> Question:
    asked: Question = {
        "id": f"q-{name}",
        "question": f"what does the {name} of an array return",
        "answer": f"a sorted array of {TOPICS[name]}",
        "source": "paper",
        "answerable": True,
        "context": "",
        "extra": {"page": "3", "gpt_response": f"an array of {TOPICS[name]}"},
    }
    return {**asked, **changes}  # type: ignore[typeddict-item]


def unanswerable() -> Question:
    return question("graph", id="q-unknown", question="who wrote it", answer=NOT_SAID, answerable=False)


def rows(split: str) -> list[dict]:
    return [
        {
            "id": f"paper#1.{n}#{split}",
            "instruction": f"Text: {chunk(name)['text']}\nQuestion: what is {name}",
            "input": "",
            "output": NOT_SAID if name == "graph" else f"an array with {TOPICS[name]}",
        }
        for n, name in enumerate(TOPICS)
    ]


def write_questions(questions: list[Question], names=TOPICS) -> None:
    with atomic_directory(places.chunks("d"), "test") as folder:
        write_jsonl(folder / "chunks.jsonl", map(chunk, names))
        write_jsonl(folder / "questions.jsonl", questions)


def write_rows() -> None:
    with atomic_directory(layout.litgpt_data("d"), "test") as folder:
        for split in ("train", "val", "test"):
            write_json(folder / f"{split}.json", rows(split))
    write_json(Path(NONE) / "retriever.json", {"type": "none"})


@made_once
def make_project() -> None:
    """Everything before `benchmark`: models of other seeds, the student's and the base's, and a third one."""
    write_questions([*map(question, TOPICS), unanswerable()])
    write_rows()
    write_text(layout.prompt("d", "student"), PROMPT)
    for seed, folder in enumerate((layout.model("d", "hf"), layout.base_model("b"), layout.model("e", "hf"))):
        tiny_model(folder, "llama", seed=seed)
