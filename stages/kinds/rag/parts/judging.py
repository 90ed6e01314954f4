"""Answers for a judge, what the judge says of them, and what people would.

An answer that is nothing but white space is incorrect and costs no request. One that the judge fails on,
by a refusal, a time-out or mere prose, is neither correct nor incorrect.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.core.errors import UserError
from stages.core.hashing import sha256_json
from stages.core.records import Document
from stages.evaluation.judges import cohens_kappa, corrected
from stages.evaluation.overlap import shared, words_in
from stages.evaluation.people import Row, Text, read_rows
from stages.evaluation.ranking import table
from stages.kinds.answers import answer_of, document_of, is_first, read_responses
from stages.kinds.rag import places
from stages.kinds.rag.knobs import CorpusJudgedKnobs, JudgeKnobs
from stages.kinds.rag.parts.measures import LIKELY
from stages.kinds.rag.parts.rows import (
    HELD_OUT,
    Answer,
    Question,
    read_all,
    read_found,
    read_passages,
    read_questions,
    texts_of,
)
from stages.kinds.rag.parts.scoring import STUDENT
from stages.kinds.rag.parts.verdict import TASK
from stages.retrieval.passages import Passage

BLANK = "blank"  # the split of answers that nobody is asked about
UNREADABLE = "no verdict"
TO_LABEL = 100
LEAST = 5  # people's verdicts on answers of a system, from which the others are estimated
# Of the answers that were judged; of all, were each failed one decided against the system, or for it.
MEASURES = ("correct", "lowest", "highest")


# What is judged


def to_judge(knobs: CorpusJudgedKnobs) -> list[Document]:
    """The documents for the judge, sorted by id. Raises UserError for a system that gave no answer."""
    answers, passages = read_all(knobs.of), read_passages(knobs.of)
    answers = [row for row in answers if row["context"] in knobs.contexts]
    known = dict.fromkeys(row["system"] for row in answers)
    if missing := [system for system in knobs.systems if system not in known]:
        raise UserError(
            f"{places.compared(knobs.of)}: no answers of '{missing[0]}' from {' or '.join(knobs.contexts)} "
            f"passages; there are those of {', '.join(known) or 'none'}"
        )
    documents: dict[str, Document] = {}
    for split in HELD_OUT:
        questions = {row["id"]: row for row in read_questions(knobs.of, split)}
        found = read_found(knobs.of, split)
        for row in answers:
            if row["split"] != split or row["system"] not in knobs.systems:
                continue
            if row["id"] not in questions or row["id"] not in found:
                raise UserError(
                    f"{places.passages(knobs.of)}: {split}.jsonl has no question {row['id']!r}, which was "
                    "answered; make `answer` anew"
                )
            document = document_for(row, questions[row["id"]], found[row["id"]]["passages"], passages)
            own = documents.setdefault(document["id"], document)
            own["metadata"]["given_by"].append([row["system"], row["context"]])
    return [documents[name] for name in sorted(documents)]


def document_for(
    row: Answer, question: Question, found: Sequence[str], passages: Mapping[str, Passage]
) -> Document:
    """An answer with all that the judge may see. Its id is a hash: people's verdicts are about this text."""
    gold = texts_of(passages, question["gold"])
    other = next((text for text in texts_of(passages, found) if not nearly(text, gold)), None)
    shown = [*gold, *([] if other is None else [other])]
    return {
        "id": sha256_json([row["split"], row["id"], row["question"], row["answer"]])[:16],
        "title": row["question"],
        "text": row["answer"],
        "metadata": {
            "reference": question["answer"],
            "passages": sorted(shown, key=lambda text: sha256_json([row["id"], text])),
            "set": row["split"],
            "question_id": row["id"],
            "source": question["source"],
            "given_by": [],
        },
        "split": "train" if row["answer"].strip() else BLANK,  # `prompt` takes all of train
    }


def nearly(text: str, gold: Sequence[str]) -> bool:
    """Does the text cover so much of a gold passage that it may be as good?"""
    own = words_in(text).squad
    return any(shared(own, words_in(one).squad)[1] > LIKELY for one in gold)


def to_label(documents: Sequence[Document]) -> list[dict]:
    """Rows for people to fill in: `correct` is true or false. Ids are hashes, so the first are a sample."""
    return [
        {
            "id": row["id"],
            "question": row["title"],
            "reference": row["metadata"]["reference"],
            "answer": row["text"],
            "correct": False if row["split"] == BLANK else None,
        }
        for row in documents[:TO_LABEL]
    ]


# What was said


class Label(Row):
    """A verdict of people, as `to_label` writes it; the texts may be left out."""

    id: Text
    correct: bool
    question: str = ""
    reference: str = ""
    answer: str = ""


def read_labels(path: Path, ids: Collection[str]) -> dict[str, bool]:
    """People's verdicts by id. Raises UserError for an id that is none of `ids`, or that comes twice."""
    labels: dict[str, bool] = {}
    for number, row in enumerate(read_rows(path, Label), start=1):
        if row.id not in ids:
            raise UserError(
                f"{path}, row {number}: field 'id': no answer has the id '{row.id}'; answers that were made "
                "anew have other ids, and need other verdicts: to_label.jsonl of the corpus has some"
            )
        if row.id in labels:
            raise UserError(f"{path}, row {number}: field 'id': '{row.id}' comes twice; delete one")
        labels[row.id] = row.correct
    return labels


def read_verdicts(path: Path, documents: Sequence[Document]) -> tuple[dict[str, float | str], list[str]]:
    """(the first verdict on each document, the models that gave them).

    A verdict is 1.0 (correct), 0.0, or the outcome of a request that brought none. Raises UserError for one
    on no document, and where all failed.
    """
    by_id: dict[str, float | str] = {row["id"]: 0.0 for row in documents if row["split"] == BLANK}
    asked, models = {row["id"] for row in documents if row["split"] != BLANK}, set()
    for number, row in enumerate(read_responses(path), start=1):
        if document_of(row) not in asked:
            raise UserError(
                f"{path}, row {number}: '{document_of(row)}' is none of the answers there are now; run the "
                "prompt and collect stages again"
            )
        if not is_first(row):
            continue
        models.add(row["model"])
        by_id[document_of(row)] = row["outcome"]
        if row["accepted"]:
            try:
                by_id[document_of(row)] = float(answer_of(row, TASK) == ["correct"])
            except ValueError:
                by_id[document_of(row)] = UNREADABLE
    if not any(isinstance(by_id.get(name), float) for name in asked):
        raise UserError(
            f"{path}: no answer holds a verdict, so nothing can be told; the teacher has to end with "
            "'Correctness: [[correct]]' or 'Correctness: [[incorrect]]'"
        )
    return by_id, sorted(models)


class Judged(NamedTuple):
    """Verdicts of the judge and of people, by id of the document; `scores`: those that are verdicts."""

    documents: Sequence[Document]
    verdicts: Mapping[str, float | str]
    scores: Mapping[str, float]
    labels: Mapping[str, bool]
    knobs: JudgeKnobs

    def agreement(self) -> dict | None:
        """Of the answers that both have judged: the share on which they agree, and Cohen's kappa (1960)."""
        pairs = [(own, bool(self.scores[name])) for name, own in self.labels.items() if name in self.scores]
        if not pairs:
            return None
        people, judge = np.array(pairs).T
        share, kappa = float((people == judge).mean()), cohens_kappa(people, judge)
        told = {name: round(float(own.mean()), 4) for name, own in (("people", people), ("judge", judge))}
        return {"answers": len(pairs), "share": round(share, 4), "kappa": kappa, "correct": told}

    def figures(self) -> dict:
        """{set: {context: {system: {...}, "differences": {...}}}}; intervals as in rag.json."""
        made: dict[str, dict] = {}
        for split in HELD_OUT:
            own = [row for row in self.documents if row["metadata"]["set"] == split]
            contexts = dict.fromkeys(context for row in own for _, context in row["metadata"]["given_by"])
            for context in sorted(contexts):
                made.setdefault(split, {})[context] = self._context(own, context)
        return made

    def _context(self, documents: Sequence[Document], context: str) -> dict:
        by_system: dict[str, dict[str, Document]] = {}  # then by question
        for row in documents:
            for system, of in row["metadata"]["given_by"]:
                if of == context and row["id"] in self.verdicts:
                    by_system.setdefault(system, {})[row["metadata"]["question_id"]] = row
        sources = {name: row["metadata"]["source"] for own in by_system.values() for name, row in own.items()}
        values = {
            system: np.array([self._bounds(own.get(name)) for name in sources])
            for system, own in sorted(by_system.items())
        }
        pairs = [(STUDENT, other) for other in values if other != STUDENT]
        groups, knobs = list(sources.values()), self.knobs
        made = table(values, MEASURES, [], groups, knobs.bootstrap, knobs.seed)
        # What is decided against the student is decided for the other: the lowest less the highest.
        turned = {system: own if system == STUDENT else own[:, [0, 2, 1]] for system, own in values.items()}
        against = table(turned, MEASURES, pairs, groups, knobs.bootstrap, knobs.seed)
        made["differences"] = against["differences"]
        for system, own in by_system.items():
            made[system] |= self._counts([row["id"] for row in own.values()])
        return made

    def _bounds(self, document: Document | None) -> list[float]:
        """MEASURES of an answer; NaN of one that the judge was not asked about."""
        if document is None:
            return [np.nan] * len(MEASURES)
        said = self.verdicts[document["id"]]
        return [said] * len(MEASURES) if isinstance(said, float) else [np.nan, 0.0, 1.0]

    def _counts(self, ids: Sequence[str]) -> dict:
        judged = sorted(name for name in ids if name in self.scores)
        scores = [self.scores[name] for name in judged]
        # Ids are hashes, so these are a random sample, whichever answers people passed over further on.
        first = takewhile(lambda name: name in self.labels, judged)
        labelled = [(float(self.labels[name]), self.scores[name]) for name in first]
        failed = Counter(said for name in ids if isinstance(said := self.verdicts[name], str))
        people = corrected(scores, labelled) if len(labelled) >= LEAST else None
        return {
            "judged": len(judged),
            "failed": dict(sorted(failed.items())),
            "labelled": len(labelled),
            "by_people": people and {name: round(value, 4) for name, value in people.items()},
        }
