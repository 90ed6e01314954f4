"""Figures of models' answers to a set of questions: measures with intervals, differences, wins, quartiles.

Every measure is a mean over questions; docs/kinds/academic/measures.md defines them. All models of a set
answered all of its questions, so differences are paired.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from stages.core.text import count_words
from stages.evaluation.bootstrap import Interval, quantile_interval
from stages.evaluation.overlap import overlaps
from stages.evaluation.ranking import table
from stages.evaluation.unanswered import says_not
from stages.kinds.academic.knobs import EvaluatePapersKnobs
from stages.kinds.academic.parts.answering import FIRST_WORDS, MODELS, REFERENCE, TRAINED
from stages.kinds.academic.parts.rows import Answer, Question
from stages.retrieval.likeness import Likeness, calibrated

COMPARED = ("cosine", "cosine_calibrated", "f1", "f1_answerable", "rouge_l")  # told of pairs of models
OVER_LONG = 2  # times as many words as the reference
SHOWN = 20  # questions that are shown with all answers
BOXES = ("cosine", "f1")
ENDED = re.compile(r"[.!?…。！？][\"'”’)\]*]*\Z")  # how a sentence ends


class Asked(NamedTuple):
    """Questions and models' answers to each, with the seconds of those timed, all by model and question."""

    questions: Mapping[str, Question]
    answers: Mapping[str, Mapping[str, Answer]]
    seconds: Mapping[str, Sequence[float]]

    def texts(self) -> list[str]:
        """Reference answers and answers, to be compared."""
        rows = [row for own in self.answers.values() for row in own.values()]
        return [row["answer"] for row in [*self.questions.values(), *rows]]


def asked_of(
    questions: Iterable[Question], answers: Iterable[Answer], seconds: Mapping[str, Sequence[float]]
) -> tuple[Asked, dict[str, int]]:
    """(the models that answered all questions, in the order they are shown in; how many others lack)."""
    known = {row["id"]: row for row in questions}
    found: dict[str, dict[str, Answer]] = {}
    for row in answers:
        if row["id"] in known:
            found.setdefault(row["model"], {})[row["id"]] = row
    order = sorted(found, key=lambda model: MODELS.index(model) if model in MODELS else len(MODELS))
    lacking = {model: len(known) - len(found[model]) for model in order if len(found[model]) < len(known)}
    whole = {model: {name: found[model][name] for name in known} for model in order if model not in lacking}
    return Asked(known, whole, seconds), lacking


def pooled(one: Asked, other: Asked) -> Asked:
    """The questions of both sets, and the models that answered both."""
    models = [model for model in one.answers if model in other.answers]
    answers = {model: {**one.answers[model], **other.answers[model]} for model in models}
    return Asked({**one.questions, **other.questions}, answers, {})


class Scores:
    """Answers to a set of questions, measured one by one."""

    def __init__(self, asked: Asked, likeness: Likeness, knobs: EvaluatePapersKnobs):
        self.asked, self.likeness, self.knobs = asked, likeness, knobs
        self.floor = likeness.floor([row["answer"] for row in asked.questions.values()])
        self.values = {
            model: {name: self._measured(row) for name, row in rows.items()}
            for model, rows in asked.answers.items()
        }

    def figures(self) -> dict:
        """{model: {measure: interval}}; and of pairs, under `differences`, those of COMPARED with wins.

        Papers are resampled, with all questions about each, where there are several; else questions.
        """
        values = self.values
        rows = {
            model: np.array([list(one.values()) for one in own.values()]) for model, own in values.items()
        }
        measures = list(next(one for own in values.values() for one in own.values()))
        papers = [paper_of(question) for question in self.asked.questions.values()]
        groups = papers if len(set(papers)) > 1 else list(self.asked.questions)
        pairs = [ordered(*pair) for pair in combinations(rows, 2)]
        made: dict = table(rows, measures, pairs, groups, self.knobs.bootstrap, self.knobs.seed)
        for model in rows:
            made[model]["seconds_p50"] = self._seconds(model)
        made["differences"] = {
            name: {measure: self._won(*pair, measure, own[measure]) for measure in COMPARED}
            for pair, (name, own) in zip(pairs, made["differences"].items(), strict=True)
        }
        return made

    def told(self) -> dict:
        """How many questions and papers there are, and the floor of cosines."""
        questions = self.asked.questions.values()
        return {
            "questions": len(questions),
            "unanswerable": sum(not row["answerable"] for row in questions),
            "papers": len(set(map(paper_of, questions))),
            "floor": None if np.isnan(self.floor) else round(self.floor, 4),
        }

    def boxes(self) -> dict[str, dict[str, dict]]:
        """{measure: {model: what a box plot shows}} of BOXES; nothing of what is not defined."""
        return {
            measure: {
                model: box(values)
                for model, own in self.values.items()
                if not np.isnan(values := np.array([row[measure] for row in own.values()])).any()
            }
            for measure in BOXES
        }

    def samples(self, chunks: Mapping[str, Mapping]) -> list[dict]:
        """Questions from the best answer of the student, or the last model, to its worst, at equal steps."""
        lead = TRAINED if TRAINED in self.values else list(self.values)[-1]
        ranked = sorted(self.values[lead], key=lambda name: (-self.values[lead][name]["f1"], name))
        chosen = np.linspace(0, len(ranked) - 1, min(SHOWN, len(ranked))).astype(int)
        return [self._sample(ranked[place], lead, chunks) for place in chosen]

    def _measured(self, row: Answer) -> dict[str, float]:
        question, answer = self.asked.questions[row["id"]], row["answer"]
        own, cosine = overlaps(question["answer"], answer), self.likeness.of(question["answer"], answer)
        other = self.asked.answers.get(REFERENCE, {}).get(row["id"])
        beside = other if other is not None and row["model"] != REFERENCE else None
        near = overlaps(beside["answer"], answer) if beside else {}
        not_said, answerable = float(says_not(answer)), question["answerable"]
        stopped = row["finish_reason"] == "stop" if row["finish_reason"] else bool(ENDED.search(answer))
        words = count_words(answer)
        return {
            "cosine": cosine,
            "cosine_calibrated": calibrated(cosine, self.floor),
            "f1": own["f1"],
            "rouge_l": own["rouge_l"],
            "stop_rate": np.nan if row["model"] == FIRST_WORDS else float(stopped),
            "unanswerable_recall": np.nan if answerable else not_said,
            "false_alarms": not_said if answerable else np.nan,
            "f1_answerable": own["f1"] if answerable else np.nan,
            "cosine_reference": self.likeness.of(beside["answer"], answer) if beside else np.nan,
            "f1_reference": near.get("f1", np.nan),
            "rouge_l_reference": near.get("rouge_l", np.nan),
            "empty": float(not answer.strip()),
            "over_long": float(words > OVER_LONG * count_words(question["answer"])),
            "words": words,
        }

    def _seconds(self, model: str) -> Interval | None:
        return quantile_interval(
            self.asked.seconds.get(model, ()), 0.5, self.knobs.bootstrap, self.knobs.seed
        )

    def _won(self, one: str, other: str, measure: str, interval: Interval | None) -> dict | None:
        """The interval of a difference, with the number of questions on which it is above, at and below 0."""
        if interval is None:
            return None
        pairs = zip(self.values[one].values(), self.values[other].values(), strict=True)
        gained = np.array([own[measure] - theirs[measure] for own, theirs in pairs])
        won, lost = int((gained > 0).sum()), int((gained < 0).sum())
        return {**interval, "wins": won, "ties": int((gained == 0).sum()), "losses": lost}

    def _sample(self, name: str, lead: str, chunks: Mapping[str, Mapping]) -> dict:
        question, rows = self.asked.questions[name], self.asked.answers
        shown = [chunks[one] for one in rows[lead][name]["chunks"]]
        f1 = {model: round(self.values[model][name]["f1"], 4) for model in rows}
        return {
            "question": question["question"],
            "reference": question["answer"],
            "chunks": [{key: chunk[key] for key in ("title", "text")} for chunk in shown],
            "answers": [{"model": m, "answer": own[name]["answer"], "f1": f1[m]} for m, own in rows.items()],
        }


def paper_of(question: Question) -> str:
    """The paper of a question, as a file or by its name."""
    return question["source"].removesuffix(".pdf")


def ordered(one: str, other: str) -> tuple[str, str]:
    """The two models of a difference: the student first, else as a model is shown later, it is compared."""
    return (one, other) if one == TRAINED else (other, one)


def box(values: np.ndarray) -> dict:
    """Quartiles, the last values within 1.5 times their distance of them, and those beyond (Tukey 1977)."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    reach = 1.5 * (high - low)
    within = values[(values >= low - reach) & (values <= high + reach)]
    beyond = sorted(set(values) - set(within))
    five = {"low": within.min(), "q1": low, "median": middle, "q3": high, "high": within.max()}
    told = {name: round(float(value), 4) for name, value in five.items()}
    return {**told, "mean": round(float(values.mean()), 4), "beyond": [round(float(v), 4) for v in beyond]}
