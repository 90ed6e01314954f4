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
from stages.evaluation.claims import diagnosis
from stages.evaluation.overlap import COUNTS, bleu, bleu_counts, overlaps
from stages.evaluation.ranking import ranks_of, table
from stages.kinds.rag.knobs import EvaluateRagKnobs
from stages.kinds.rag.parts.measures import found
from stages.kinds.rag.parts.rows import GOLD, RETRIEVED, Answer, Found, Question, Split, texts_of
from stages.retrieval.bm25 import Bm25
from stages.retrieval.passages import Passage

STUDENT, FIRST_WORDS, NEAREST = "trained", "first_words", "nearest_question"
WORDS = 65  # of a passage that first_words gives: as many as people's answers have
DIFFERENCES = {  # of the student and another system, by the name that they are shown under
    "trained-untrained": "untrained",
    "trained-beside": "beside",
    "trained-fid": "fid",
    "trained-baseline": FIRST_WORDS,
    "trained-nearest": NEAREST,
}
FAILURES = ("empty", "did_not_stop", "gold_missed", "copied", "wrong")
WRONG = 0.25  # F1 below which an answer failed
COPY = 0.9  # share of its words in one passage from which a failed answer is a copy
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
        question = asked.questions[name]
        row = {"id": name, "split": split, "question": question["question"], "scores": [], "tokens": 0}
        row |= {"retrieve_ms": None, "generate_ms": None, "finish_reason": ""}
        for context, ids in ((GOLD, question["gold"]), (RETRIEVED, asked.found[name]["passages"])):
            text = clip_words("".join(texts_of(asked.passages, ids[:1])), WORDS)
            yield Answer(system=FIRST_WORDS, context=context, answer=text, passages=ids[:1], **row)
        if index:
            nearest = training[int(index.scores(question["question"]).argmax())]
            yield Answer(system=NEAREST, context=RETRIEVED, answer=nearest["answer"], passages=[], **row)


class Scores:
    """Answers to a set of questions, measured one by one."""

    def __init__(self, asked: QuestionSet, answers: Iterable[Answer], knobs: EvaluateRagKnobs):
        """Raises UserError for systems that answered other questions than the rest."""
        self.asked, self.knobs = asked, knobs
        self.rows: dict[str, dict[str, dict[str, Answer]]] = {}  # by context, system and question
        for row in answers:
            self.rows.setdefault(row["context"], {}).setdefault(row["system"], {})[row["id"]] = row
        for context, systems in self.rows.items():
            first, own = next(iter(systems.items()))
            if other := next((name for name, rows in systems.items() if rows.keys() != own.keys()), None):
                raise UserError(
                    f"from {context} passages '{first}' answered {len(own)} questions and '{other}' "
                    f"{len(systems[other])}, not all the same; make the stage `answer` anew"
                )
        self.values = {
            context: {
                system: {name: self._measured(row) for name, row in rows.items()}
                for system, rows in systems.items()
            }
            for context, systems in self.rows.items()
        }

    def figures(self) -> dict:
        """{system: {context: {measure: interval}}}; and paired, under `differences`, those of DIFFERENCES."""
        made: dict[str, dict] = {}
        differences: dict[str, dict] = {}
        for part, (context, names) in self._parts().items():
            values = {
                system: np.array([list(own[name].values()) for name in names])
                for system, own in self.values[context].items()
            }
            measures = [*list(self.values[context][next(iter(values))][names[0]])[:-COUNTS], "bleu"]
            pairs = [(STUDENT, other) for other in DIFFERENCES.values()]
            sources = [self.asked.questions[name]["source"] for name in names]
            drawn = self.knobs.bootstrap, self.knobs.seed
            figures = table(values, measures, pairs, sources, *drawn, finish=bleu_of_counts)
            for system in values:
                timed = timings([self.rows[context][system][name] for name in names], *drawn)
                made.setdefault(system, {})[part] = {"questions": len(names), **figures[system], **timed}
            for name, other in DIFFERENCES.items():
                if own := figures["differences"].get(f"{STUDENT}-{other}"):
                    differences.setdefault(name, {})[part] = own
        return {**made, "differences": differences}

    def failures(self) -> dict[str, dict[str, int]]:
        """Failed answers of each model and context, "model, context", counted by the first of FAILURES."""
        made = {}
        for context, systems in self.rows.items():
            for system, rows in systems.items():
                if system not in (FIRST_WORDS, NEAREST):
                    kinds = Counter(map(self._failure, rows.values()))
                    made[f"{system}, {context}"] = {kind: kinds[kind] for kind in FAILURES}
        return made

    def samples(self) -> list[dict]:
        """Questions from the student's best answer to its worst, at equal steps, with all answers."""
        own = self.values[RETRIEVED][STUDENT]
        ordered = sorted(own, key=lambda name: (-own[name]["f1"], name))
        places = np.linspace(0, len(ordered) - 1, min(SHOWN, len(ordered))).astype(int)
        return [self._sample(ordered[place]) for place in places]

    def recall_curve(self) -> list[float]:
        """The share of questions whose gold passages are all among the first 1, 2, 3 … that are found."""
        last = []
        for name in self.rows[RETRIEVED][STUDENT]:
            gold = self.asked.questions[name]["gold"]
            ranks = ranks_of(self.asked.found[name]["passages"], gold)
            last.append(ranks[-1] if len(ranks) == len(gold) else np.inf)
        depth = max(len(row["passages"]) for row in self.asked.found.values())
        return [round(float(np.mean(np.array(last) <= k)), 4) for k in range(1, depth + 1)]

    def _measured(self, row: Answer) -> dict[str, float]:
        """All measures of an answer; the last of them are the counts that BLEU is made of."""
        question, passages = self.asked.questions[row["id"]], self.asked.passages
        answer, reference, unicode = row["answer"], question["answer"], self.knobs.words == "unicode"
        ranked = self.asked.found[row["id"]]["passages"] if row["context"] == RETRIEVED else row["passages"]
        texts = texts_of(passages, row["passages"])
        own, counts = overlaps(reference, answer, unicode), bleu_counts(reference, answer)
        copied = [overlaps(text, answer, unicode) for text in texts]
        most = {name: max((with_one[name] for with_one in copied), default=np.nan) for name in own}
        return {
            **own,
            "bleu_mean": float(bleu(np.array(counts))),
            "copied": most["f1"],
            **{f"copied_{name}": most[name] for name in ("precision", "rouge_1", "rouge_2", "rouge_l")},
            **diagnosis(answer, reference, texts),
            "words": count_words(answer),
            "empty": float(not answer.strip()),
            "stop_rate": float(row["finish_reason"] == "stop") if row["finish_reason"] else np.nan,
            **found(ranked, question["gold"], passages, self.knobs.cutoffs, unicode),
            **{f"bleu, {place}": count for place, count in enumerate(counts)},
        }

    def _parts(self) -> dict[str, tuple[str, list[str]]]:
        """The context and the questions of each part of the figures that has any."""
        given = self.rows.get(RETRIEVED, {}).get(STUDENT, {}).values()
        parts = {
            context: (context, list(next(iter(self.rows[context].values()))))
            for context in (GOLD, RETRIEVED)
            if context in self.rows
        }
        for part, whole in (("answerable", True), ("gold_missed", False)):
            parts[part] = (RETRIEVED, [row["id"] for row in given if self._answerable(row) == whole])
        return {part: own for part, own in parts.items() if own[1]}

    def _answerable(self, row: Answer) -> bool:
        return set(self.asked.questions[row["id"]]["gold"]) <= set(row["passages"])

    def _failure(self, row: Answer) -> str | None:
        own = self.values[row["context"]][row["system"]][row["id"]]
        failed = (
            own["empty"] == 1,
            own["stop_rate"] == 0,
            own["f1"] < WRONG and not self._answerable(row),
            own["f1"] < WRONG and own["copied_precision"] >= COPY,
            own["f1"] < WRONG,
        )
        return next((kind for kind, holds in zip(FAILURES, failed, strict=True) if holds), None)

    def _sample(self, name: str) -> dict:
        question, passages = self.asked.questions[name], self.asked.passages
        rows = [own[name] for systems in self.rows.values() for own in systems.values() if name in own]
        shown = dict.fromkeys((*question["gold"], *self.rows[RETRIEVED][STUDENT][name]["passages"]))
        told = ("system", "context", "answer")
        return {
            "question": question["question"],
            "reference": question["answer"],
            "passages": [
                {"title": own["title"], "text": own["text"], "gold": own["id"] in question["gold"]}
                for own in map(passages.__getitem__, shown)
            ],
            "answers": [
                {
                    **{field: row[field] for field in told},
                    "f1": round(self.values[row["context"]][row["system"]][name]["f1"], 4),
                    "failure": self._failure(row),
                }
                for row in rows
            ],
        }


def bleu_of_counts(means: np.ndarray) -> np.ndarray:
    """BLEU of all rows in place of the last columns, its counts."""
    return np.concatenate([means[..., :-COUNTS], bleu(means[..., -COUNTS:])[..., None]], axis=-1)


def timings(rows: Sequence[Answer], resamples: int, seed: int) -> dict[str, Interval | None]:
    """p50 and p95 of the milliseconds of questions asked alone, and tokens a second; {} where none were."""
    alone = [row for row in rows if row["generate_ms"] is not None]
    if not alone:
        return {}
    made: dict[str, Interval | None] = {}
    retrieve = np.array([row["retrieve_ms"] or 0.0 for row in alone])
    generate = np.array([row["generate_ms"] for row in alone])
    for name, own in (("retrieve", retrieve), ("generate", generate), ("total", retrieve + generate)):
        for percent in (50, 95):
            made[f"{name}_ms_p{percent}"] = quantile_interval(own, percent / 100, resamples, seed)
    tokens = np.array([[float(row["tokens"])] for row in alone])
    speed = ratio_intervals(tokens, generate[:, None] / 1000, resamples, seed)[0]
    return {**made, "tokens_per_second": speed}
