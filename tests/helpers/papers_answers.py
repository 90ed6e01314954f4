"""Answers of models about tiny papers, and published results, as the stages and the original write them."""

import csv
from pathlib import Path

from stages.core.files import read_jsonl, write_jsonl
from stages.kinds.academic import places
from stages.kinds.academic.parts.rows import Question
from tests.helpers.papers_student import rows

COLUMNS = ["page", "para_num", "text", "pdf_name", "question", "answer", "text_synthetic", "gpt_response",
           "model_response", "context_chunk_1", "inference_speed_seconds", "cosine_similarity"]  # fmt: skip
HOSTILE = "<script>alert('x')</script>"


def write_answers() -> None:
    """Trained gives the references; untrained never stops and is wrong but for one question."""
    asked = [
        (row["id"], row["answer"], "benchmark") for row in read_jsonl(places.chunks("d") / "questions.jsonl")
    ]
    asked += [(row["id"], row["output"], "held_out") for row in rows("test")]
    made = []
    for name, answer, kind in asked:
        wrong = answer if name == "q-median" else f"nothing here {HOSTILE} and so on and on and on and on"
        for model, text, reason in (("trained", answer, "stop"), ("untrained", wrong, "length")):
            chunks = ["paper#median", "paper#graph"] if kind == "benchmark" else []
            own = {"answer": text, "chunks": chunks, "tokens": 9, "finish_reason": reason}
            made.append({"id": name, "model": model, "kind": kind, **own})
    write_jsonl(places.answers("d"), made)
    times = [
        {"id": asked[n][0], "model": model, "milliseconds": milliseconds * (n + 1)}
        for n in range(3)
        for model, milliseconds in (("trained", 100.0), ("untrained", 300.0))
    ]
    write_jsonl(places.times("d"), times)


def edit_answers(change) -> None:
    write_jsonl(places.answers("d"), [change(dict(row)) for row in read_jsonl(places.answers("d"))])


def publish(
    path: Path, questions: list[Question], response: str = "", separator: str = ",", **changes
) -> None:
    """A file of results; `response` "" stands for each reference answer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["", *COLUMNS], delimiter=separator)
        writer.writeheader()
        for n, row in enumerate(questions):
            own = dict.fromkeys(COLUMNS, "x") | {"": n, "question": row["question"], "answer": row["answer"]}
            own |= {"gpt_response": "as they say", "model_response": response or row["answer"]}
            writer.writerow(
                own | {"inference_speed_seconds": 70 + n, "cosine_similarity": 0.9 + n / 100} | changes
            )


def all_questions() -> list[Question]:
    return read_jsonl(places.chunks("d") / "questions.jsonl")
