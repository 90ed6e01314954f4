"""Figures of the systems' answers to a set of questions: measures with intervals, differences, failures.

Beside models stand two systems that need none and might win: `first_words`, the first words of the best
passage, and `nearest_question`, the answer of the nearest training question. Contexts are `gold` and
`retrieved`; and of the latter apart the questions of which all gold passages were in the student's prompt
(`answerable`), and the others (`gold_missed`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stages.core.errors import UserError
from stages.core.text import clip_words, count_words
from stages.evaluation.bootstrap import Interval, quantile_interval, ratio_intervals
from stages.evaluation.ranking import ranks_of, table
from stages.kinds.rag.knobs import EvaluateRagKnobs
from stages.kinds.rag.parts.claims import DIAGNOSIS, diagnosis
from stages.kinds.rag.parts.measures import COUNTS, FOUND, OVERLAPS, bleu, bleu_counts, found, overlaps
from stages.kinds.rag.parts.rows import GOLD, RETRIEVED, Answer, Found, Passage, Question, Split, texts_of
from stages.retrieval.bm25 import Bm25

STUDENT, FIRST_WORDS, NEAREST = "trained", "first_words", "nearest_question"
WORDS = 65  # of a passage that first_words gives: as many as people's answers have
PAIRS = {
    "trained-untrained": "untrained",
    "trained-beside": "beside",
    "trained-fid": "fid",
    "trained-baseline": FIRST_WORDS,
    "trained-nearest": NEAREST,
}
# Most that an answer has of these with a passage.
COPIES = ("f1", "precision", "rouge_1", "rouge_2", "rouge_l")
COPIED = ("copied", *(f"copied_{measure}" for measure in COPIES[1:]))
STATISTICS = ("words", "empty", "stop_rate")
FAILURES = ("empty", "did_not_stop", "gold_missed", "copied", "wrong")
WRONG = 0.25  # F1 below which an answer failed
COPY = 0.9  # share of its words in one passage that makes an answer a copy
SHOWN = 20  # questions of a set that are shown with all answers


class QuestionSet(NamedTuple):
    """Questions by id, what the retriever finds for them, and the passages of the corpus by id."""

    questions: Mapping[str, Question]
    found: Mapping[str, Found]
    passages: Mapping[str, Passage]


def simple(
    asked: QuestionSet, names: Iterable[str], split: Split, training: Sequence[Question]
) -> Iterator[Answer]:
    """Answers of the two systems without a model to the questions of these names."""
    index = Bm25([row["question"] for row in training]) if training else None
    for name in names:
        question, passages = asked.questions[name], asked.found[name]["passages"]
        row = {"id": name, "split": split, "question": question["question"], "scores": [], "tokens": 0}
        row |= {"retrieve_ms": None, "generate_ms": None, "finish_reason": ""}
        for context, ids in ((GOLD, question["gold"]), (RETRIEVED, passages)):
            first = ids[:1]
            text = clip_words("".join(texts_of(asked.passages, first)), WORDS)
            yield Answer(system=FIRST_WORDS, context=context, answer=text, passages=first, **row)
        if index:
            nearest = training[int(index.scores(question["question"]).argmax())]
            yield Answer(system=NEAREST, context=RETRIEVED, answer=nearest["answer"], passages=[], **row)


class Scores:
    """Answers to a set of questions, measured one by one."""

    def __init__(self, asked: QuestionSet, answers: Iterable[Answer], knobs: EvaluateRagKnobs):
        """Raises UserError for systems that answered other questions than the rest, and for unknown ids."""
        self.asked, self.knobs = asked, knobs
        self.rows: dict[tuple[str, str], dict[str, Answer]] = {}  # by context and system, then by question
        for row in answers:
            self.rows.setdefault((row["context"], row["system"]), {})[row["id"]] = row
        self.ids = {context: list(rows) for (context, _), rows in reversed(self.rows.items())}
        for (context, system), rows in self.rows.items():
            if rows.keys() ^ set(self.ids[context]):
                raise UserError(
                    f"answers of '{system}' from {context} passages are to {len(rows)} questions, those of "
                    f"other systems to {len(self.ids[context])}, or to others; make the stage `answer` anew"
                )
        self.values = {
            key: {name: self._measured(row) for name, row in rows.items()} for key, rows in self.rows.items()
        }

    def figures(self) -> dict:
        """{system: {context: {measure: interval}}}, and the same of PAIRS under `differences`, paired."""
        made: dict[str, dict] = {}
        differences: dict[str, dict] = {}
        for part, (context, names) in self._parts().items():
            values = {
                system: np.array([own[name] for name in names])
                for (of, system), own in self.values.items()
                if of == context and names
            }
            if not values:
                continue
            pairs = [(STUDENT, other) for other in PAIRS.values()]
            sources = [self.asked.questions[name]["source"] for name in names]
            figures = table(
                values,
                self._measures(),
                pairs,
                sources,
                self.knobs.bootstrap,
                self.knobs.seed,
                bleu_of_counts,
            )
            for system in values:
                timed = timings([self.rows[context, system][name] for name in names], self.knobs)
                made.setdefault(system, {})[part] = {"questions": len(names), **figures[system], **timed}
            for name, other in PAIRS.items():
                if own := figures["differences"].get(f"{STUDENT}-{other}"):
                    differences.setdefault(name, {})[part] = own
        return {**made, "differences": differences}

    def failures(self) -> dict[str, dict[str, dict[str, int]]]:
        """{system: {context: {kind: answers that failed so}}}, each by the first of FAILURES that holds."""
        made: dict[str, dict] = {}
        for (context, system), rows in self.rows.items():
            kinds = Counter(filter(None, map(self._failure, rows.values())))
            made.setdefault(system, {})[context] = {kind: kinds[kind] for kind in FAILURES}
        return made

    def samples(self) -> list[dict]:
        """Questions from the student's best answer to its worst, at equal steps, with all answers."""
        own = {name: self._value(row, "f1") for name, row in self.rows.get((RETRIEVED, STUDENT), {}).items()}
        ordered = sorted(own, key=lambda name: (-own[name], name))
        places = np.linspace(0, len(ordered) - 1, min(SHOWN, len(ordered))).astype(int)
        return [self._sample(ordered[place]) for place in places]

    def recall_curve(self) -> list[float]:
        """The share of questions whose gold passages are all among the first 1, 2, 3 … that are found."""
        last = []
        for name in self.ids.get(RETRIEVED, []):
            gold = self.asked.questions[name]["gold"]
            ranks = ranks_of(self.asked.found[name]["passages"], gold)
            last.append(ranks[-1] if len(ranks) == len(gold) else np.inf)
        depth = max((len(found["passages"]) for found in self.asked.found.values()), default=0)
        return [round(float(np.mean(np.array(last) <= k)), 4) for k in range(1, depth + 1)] if last else []

    def _measures(self) -> list[str]:
        at = [f"{measure}@{cutoff}" for measure in FOUND for cutoff in self.knobs.cutoffs]
        return [*OVERLAPS, "bleu_mean", *COPIED, *DIAGNOSIS, *STATISTICS, *at, "bleu"]

    def _measured(self, row: Answer) -> list[float]:
        question, unicode = self.asked.questions[row["id"]], self.knobs.words == "unicode"
        answer, reference, passages = row["answer"], question["answer"], self.asked.passages
        texts = texts_of(passages, row["passages"])
        ranked = self.asked.found[row["id"]]["passages"] if row["context"] == RETRIEVED else row["passages"]
        counts = bleu_counts(reference, answer)
        with_passages = np.array([overlaps(text, answer, unicode) for text in texts]).reshape(
            -1, len(OVERLAPS)
        )
        most = with_passages.max(axis=0) if texts else np.full(len(OVERLAPS), np.nan)
        stopped = float(row["finish_reason"] == "stop") if row["finish_reason"] else np.nan
        return [
            *overlaps(reference, answer, unicode),
            float(bleu(np.array(counts))),
            *(most[OVERLAPS.index(measure)] for measure in COPIES),
            *diagnosis(answer, reference, texts),
            *(count_words(answer), float(not answer.strip()), stopped),
            *found(ranked, question["gold"], passages, self.knobs.cutoffs, unicode),
            *counts,
        ]

    def _value(self, row: Answer, measure: str) -> float:
        return self.values[row["context"], row["system"]][row["id"]][self._measures().index(measure)]

    def _answerable(self, row: Answer) -> bool:
        return set(self.asked.questions[row["id"]]["gold"]) <= set(row["passages"])

    def _parts(self) -> dict[str, tuple[str, list[str]]]:
        """The context and the questions of each part of the figures."""
        given = self.rows.get((RETRIEVED, STUDENT), {})
        whole = [name for name, row in given.items() if self._answerable(row)]
        missed = [name for name in given if name not in set(whole)]
        parts = {
            context: (context, self.ids[context]) for context in (GOLD, RETRIEVED) if context in self.ids
        }
        return {**parts, "answerable": (RETRIEVED, whole), "gold_missed": (RETRIEVED, missed)}

    def _failure(self, row: Answer) -> str | None:
        if not row["answer"].strip():
            return "empty"
        if row["finish_reason"] not in ("stop", ""):
            return "did_not_stop"
        if self._value(row, "f1") >= WRONG:
            return None
        if not self._answerable(row):
            return "gold_missed"
        return "copied" if self._value(row, "copied_precision") >= COPY else "wrong"

    def _sample(self, name: str) -> dict:
        question, passages = self.asked.questions[name], self.asked.passages
        rows = {key: rows[name] for key, rows in self.rows.items() if name in rows}
        shown = dict.fromkeys((*question["gold"], *rows[RETRIEVED, STUDENT]["passages"]))
        return {
            "id": name,
            "question": question["question"],
            "reference": question["answer"],
            "passages": [
                {
                    "title": passages[place]["title"],
                    "text": passages[place]["text"],
                    "gold": place in question["gold"],
                }
                for place in shown
            ],
            "answers": [
                {
                    "system": system,
                    "context": context,
                    "answer": row["answer"],
                    "f1": round(self._value(row, "f1"), 4),
                    "failure": self._failure(row),
                }
                for (context, system), row in rows.items()
            ],
        }


def bleu_of_counts(means: np.ndarray) -> np.ndarray:
    """BLEU of all rows in place of the last columns, its counts."""
    return np.concatenate([means[..., :-COUNTS], bleu(means[..., -COUNTS:])[..., None]], axis=-1)


def timings(rows: Sequence[Answer], knobs: EvaluateRagKnobs) -> dict[str, Interval | None]:
    """p50 and p95 of the milliseconds of questions asked alone, and tokens a second; {} where none were."""
    alone = [row for row in rows if row["generate_ms"] is not None]
    if not alone:
        return {}
    retrieve = [row["retrieve_ms"] for row in alone if row["retrieve_ms"] is not None]
    generate = [row["generate_ms"] for row in alone]
    total = [row["generate_ms"] + (row["retrieve_ms"] or 0) for row in alone]
    named = {"retrieve_ms": retrieve, "generate_ms": generate, "total_ms": total}
    made = {
        f"{name}_p{percent}": quantile_interval(own, percent / 100, knobs.bootstrap, knobs.seed)
        for name, own in named.items()
        for percent in (50, 95)
    }
    tokens, seconds = np.array([[row["tokens"]] for row in alone]), np.array(generate)[:, None] / 1000
    speed = ratio_intervals(tokens.astype(float), seconds, knobs.bootstrap, knobs.seed)[0]
    return {**made, "tokens_per_second": speed}
