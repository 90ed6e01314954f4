"""A small dataset of the kind rag: passages, questions, what is found, and answers of four systems."""

from pathlib import Path

from stages.core.files import atomic_directory, write_jsonl
from stages.kinds.rag import places
from stages.kinds.rag.parts.rows import GOLD, RETRIEVED

SUBJECTS = "boats trains buses planes bicycles trams ferries taxis".split()
HOSTILE = "<script>alert('x')</script>"


def passage(subject: str, seq: int, text: str) -> dict:
    place = {"seq": seq, "start": 0, "end": len(text)}
    return {"id": f"{subject}-{seq}", "title": f"On {subject}", "text": text, "source": subject, **place}


def question(subject: str, split: str) -> dict:
    answer = f"The {subject} leave the harbour at nine {len(subject)} times a day."
    asked = {"test": f"When do {subject} leave {HOSTILE}?", "people": f"When can one take {subject}?"}
    asked = asked.get(split, f"Do {subject} leave in {split}?")
    return {
        "id": f"{split}-{subject}",
        "question": asked,
        "answer": answer,
        "gold": [f"{subject}-0"],
        "source": subject,
    }


def rag_dataset(dataset: str) -> None:
    """The last two subjects are to learn from; of the others, `planes` is not found."""
    held_out = SUBJECTS[:-2]
    passages = [
        one
        for subject in SUBJECTS
        for one in (
            passage(
                subject, 0, f"All {subject} leave the harbour at nine {len(subject)} times a day {HOSTILE}."
            ),
            passage(subject, 1, f"Tickets for {subject} are sold on board by friendly people."),
        )
    ]
    questions = {
        **{split: [question(subject, split) for subject in held_out] for split in ("test", "people")},
        "train": [question(SUBJECTS[-2], "train")],
        "val": [question(SUBJECTS[-1], "val")],
    }
    with atomic_directory(places.passages(dataset), "passages") as folder:
        write_jsonl(folder / "passages.jsonl", passages)
        for split, rows in questions.items():
            write_jsonl(folder / f"{split}.jsonl", rows)
    with atomic_directory(places.retrieved(dataset), "retrieved") as folder:
        for split, rows in questions.items():
            write_jsonl(folder / f"{split}.jsonl", map(found, rows))
    rows = [row for split in ("test", "people") for one in questions[split] for row in answers(one, split)]
    own = [row for row in rows if (row["system"], row["context"]) == ("trained", RETRIEVED)]
    write_jsonl(places.answers(dataset), own)
    write_jsonl(places.compared(dataset), [row for row in rows if row not in own])


def found(row: dict) -> dict:
    other = "trams-1" if row["source"] != "trams" else "boats-1"
    ids = [other, f"{row['source']}-0", f"{row['source']}-1", "taxis-0", "ferries-0"]
    if row["source"] == "planes":
        ids.remove("planes-0")
    return {"id": row["id"], "passages": ids, "scores": [5.0 - place for place in range(len(ids))]}


def answers(row: dict, split: str) -> list[dict]:
    """Trained gives the reference, but for planes nothing; untrained never stops; beside is wrong."""
    texts = {
        "trained": "" if row["source"] == "planes" else row["answer"],
        "untrained": "the the the the",
        "beside": "Tickets are sold on board by friendly people.",
    }
    given = {GOLD: row["gold"], RETRIEVED: found(row)["passages"][:3]}
    return [
        {
            "id": row["id"],
            "split": split,
            "system": system,
            "context": context,
            "question": row["question"],
            "answer": text,
            "passages": ids,
            "scores": [],
            "retrieve_ms": 2.0 if context == RETRIEVED else None,
            "generate_ms": 100.0,
            "tokens": 20,
            "finish_reason": "length" if system == "untrained" else "stop",
        }
        for system, text in texts.items()
        for context, ids in given.items()
    ]


def edit_answers(path: Path, change) -> None:
    """Put the rows that `change` makes of those of a file in their place."""
    from stages.core.files import read_jsonl

    write_jsonl(path, change(read_jsonl(path)))
