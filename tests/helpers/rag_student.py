"""A tiny dataset of rag in the working directory: passages, questions, what is retrieved, and models."""

from pathlib import Path

from stages.core import layout
from stages.core.files import atomic_directory, write_json, write_jsonl, write_text
from stages.kinds.rag import places
from stages.kinds.rag.knobs import ConvertRagKnobs, RetrievedKnobs
from stages.kinds.rag.parts.rows import SPLITS
from tests.helpers.tiny import made_once, tiny_model

NONE = "models/shipped/none"
TOPICS = {"histogram": "colors", "median": "quantile", "kernel": "signal", "pivot": "table", "graph": "edges"}
PROMPT = """Answer from the passages.
{% for passage in document.metadata.passages %}
[{{ loop.index }}] {{ passage.title }}: {{ passage.text | oneline }}
{% endfor %}
{% for turn in document.metadata.history %}
{{ turn.speaker }}: {{ turn.message | oneline }}
{% endfor %}
Question: {{ document.text | oneline }}
Answer:
"""
SETTINGS = {"base": "b", "retrieve": 3, "passage_length": 12, "max_length": 200, "answer_length": 40}


def passage(name: str) -> dict:
    text = f"compute the {name} of an array with {TOPICS[name]}, and return a sorted array of the same shape"
    return {"id": name, "title": name, "text": text, "source": name, "seq": 0, "start": 0, "end": len(text)}


def question(split: str, name: str) -> dict:
    text = f"what does the {name} of an array return"
    return {
        "id": f"{split}-{name}",
        "question": text,
        "answer": "a sorted array",
        "gold": [name],
        "source": name,
    }


def found(name: str) -> list[str]:
    """The topics in the order that has this one second."""
    others = [topic for topic in TOPICS if topic != name]
    return [others[0], name, *others[1:]]


@made_once
def make_project(settings: dict | None = None) -> None:
    """Everything before `answer`: models of other seeds, the student's and the base's, and a third one."""
    with atomic_directory(places.passages("d"), "test") as folder:
        write_jsonl(folder / "passages.jsonl", map(passage, TOPICS))
        for split in SPLITS:
            write_jsonl(folder / f"{split}.jsonl", [question(split, name) for name in TOPICS])
    retriever = RetrievedKnobs(by="bm25", encoder=NONE, reranker=NONE)
    with atomic_directory(places.retrieved("d"), "test") as folder:
        write_json(folder / places.RETRIEVER, retriever.model_dump())
        for split in SPLITS:
            rows = [
                {"id": f"{split}-{name}", "passages": found(name), "scores": [5.0, 4.0, 3.0, 2.0, 1.0]}
                for name in TOPICS
            ]
            write_jsonl(folder / f"{split}.jsonl", rows)
    context = ConvertRagKnobs(**(SETTINGS | (settings or {}))).model_dump()
    write_json(layout.litgpt_data("d") / places.CONTEXT, context)
    write_text(layout.prompt("d", "student"), PROMPT)
    write_json(Path(NONE) / "retriever.json", {"type": "none"})
    for seed, folder in enumerate((layout.model("d", "hf"), layout.base_model("b"), layout.model("e", "hf"))):
        tiny_model(folder, "llama", seed=seed)
