"""Training groups: of one row, a positive and negatives, drawn anew in each epoch.

A draw depends on the seed, the epoch and the row's id alone. What makes a row unusable depends on none of
them, so rows are counted once, and every epoch has the same ones.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from stages.core.errors import UserError
from stages.core.hashing import stable_integer
from stages.kinds.retriever.knobs import TrainRetrieverKnobs
from stages.kinds.retriever.parts.rows import Row

# What LLM-Embedder trains each task with (its use_train_config). Keys of chat and lrlm are of one dialogue
# or text, so there other rows' keys are no negatives worth learning from.
_UNSCORED = {"positive": "first", "negative": "random", "distill_weight": 0.0}
_SCORED = {"negative": "random", "contrastive_weight": 0.0, "distill": "stable"}
_ONE_DIALOGUE = {**_SCORED, "distill": "kl", "positive": "teacher", "teacher_temperature": 0.1}
RECIPE: dict[str, dict] = {
    "qa": {**_SCORED, "positive": "first"},
    "icl": {**_SCORED, "positive": "random"},
    "chat": _ONE_DIALOGUE,
    "lrlm": {**_ONE_DIALOGUE, "scores_margin": 0.1, "max_rows": 10_000},
    "convsearch": _UNSCORED,
    "tool": _UNSCORED,
}


class Group(NamedTuple):
    """Ids of keys, the positive first; their scores, where the row has some; ids of all that is right."""

    keys: list[str]
    scores: list[float] | None
    right: list[str]


def of_task(knobs: TrainRetrieverKnobs, task: str, scored: bool) -> TrainRetrieverKnobs:
    """The knobs for a task: the recipe's, where one is asked for.

    qa and icl are distilled where their rows are `scored`, and learn from their pairs alone otherwise.
    """
    if knobs.recipe == "none":
        return knobs
    own = RECIPE[task]
    return knobs.model_copy(update=own if scored or own.get("distill") != "stable" else _UNSCORED)


def weights(knobs: TrainRetrieverKnobs, scored: bool) -> tuple[float, float]:
    """Of the contrastive loss and of the distillation: 0 of one that is off, 1 of one that is alone."""
    contrast = knobs.contrastive_weight
    distil = knobs.distill_weight if scored and knobs.distill != "none" else 0.0
    return (contrast, distil) if contrast and distil else (float(contrast > 0), float(distil > 0))


def usable(
    rows: Sequence[Row], keys: Mapping[str, str], knobs: TrainRetrieverKnobs, where: Path
) -> tuple[list[Row], Counter]:
    """The rows that give a group, and how many do not, by reason; the two add up to all rows.

    Raises UserError where no row has the scores that a knob asks for, or that all is learned from.
    """
    scored = any("teacher_scores" in row for row in rows)
    for knob in ("positive", "negative"):
        if rows and not scored and getattr(knobs, knob).startswith("teacher"):
            raise UserError(
                f"{where}: {knob} is {getattr(knobs, knob)!r}, but no row has teacher_scores; run the "
                "stage score for this task, or choose first or random"
            )
    contrasts, distils = weights(knobs, scored)
    if rows and not (contrasts or distils):
        raise UserError(
            f"{where}: there are no teacher_scores to distil and no contrastive loss, so there is "
            "nothing to learn; run the stage score for this task, or raise contrastive_weight"
        )
    good, drops = [], Counter()
    for row in rows:
        drawn = draw(row, keys, knobs, epoch=0)
        if isinstance(drawn, str):
            drops[drawn] += 1
        elif distils and drawn.scores is None:
            drops["no_scores"] += 1
        else:
            good.append(row)
    return good, drops


def draw(row: Row, keys: Mapping[str, str], knobs: TrainRetrieverKnobs, epoch: int) -> Group | str:
    """The row's group of an epoch, or why there is none. `keys` are the texts by id."""
    chance = random.Random(stable_integer(knobs.seed, epoch, row["id"]))
    positives, negatives = list(row["pos"]), list(row.get("neg", []))
    scores = row.get("teacher_scores")
    # 1. rows whose scores say too little
    if scores and knobs.scores_min is not None and max(scores) < knobs.scores_min:
        return "scores_below_min"
    if scores and max(scores) - min(scores) < knobs.scores_margin:
        return "scores_within_margin"
    if scores is None and "teacher" in knobs.positive + knobs.negative:
        return "no_scores"
    # 2. the positive; the other ones are no negatives
    named = positives + negatives
    known = scores or [0.0] * len(named)
    candidates = range(len(named) if knobs.positive == "teacher" else len(positives))
    if not candidates:
        return "no_positive"
    if knobs.positive == "random":
        chosen = chance.randrange(len(candidates))
    elif knobs.positive == "first":
        chosen = 0
    else:
        chosen = max(candidates, key=known.__getitem__)
    positive, positive_score = named[chosen], known[chosen]
    right = list(dict.fromkeys([*positives, positive]))
    texts = {keys[key] for key in right}
    pool = [
        (key, score)
        for key, score in zip(negatives, known[len(positives) :], strict=True)
        if keys[key] not in texts  # the positive itself, and a text that is right under another id
    ]
    # 3. and 4. enough negatives
    if not pool:
        return "no_negative"
    wanted = knobs.group - 1
    if len(pool) < wanted:
        pool *= -(-wanted // len(pool))
    # 5. the negatives
    if knobs.negative == "random":
        pool = chance.sample(pool, wanted)
    elif knobs.negative.startswith("teacher"):
        pool.sort(key=lambda pair: pair[1], reverse=knobs.negative == "teacher+")
    pool = pool[:wanted]
    # 6. instructions are put before the texts, 7. the best negative comes first
    if scores and knobs.distill == "stable":
        pool.sort(key=lambda pair: -pair[1])
    drawn = [positive, *(key for key, _ in pool)]
    return Group(drawn, [positive_score, *(score for _, score in pool)] if scores else None, right)
