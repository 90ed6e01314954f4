"""What a step is made of: the rows of its batch, and of each row a positive and negatives.

Batches are a pure function of the files' sizes, the mode, the seed and the epoch. A batch is of one file (a
task) in every mode but `none`, since keys of another task are no negatives that teach anything; a file that
is listed twice counts twice. A group is drawn anew in each epoch, by the seed, the epoch and the row's id
alone. What makes a row unusable depends on none of these: rows are counted once, every epoch has the same.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.core.errors import UserError
from stages.core.hashing import stable_integer
from stages.kinds.retriever.knobs import TrainRetrieverKnobs
from stages.kinds.retriever.parts.rows import Row


class Batches:
    """The batches of every epoch.

    names, sizes: of the files. block: rows of a batch, over all devices. mode: see `_epoch`. small: what a
    file with fewer rows than a block is, an `error` or `one_batch` of all that it has. Rows that are left
    over once blocks are cut are not used in that epoch.
    """

    def __init__(
        self, names: Sequence[str], sizes: Sequence[int], block: int, mode: str, small: str, seed: int
    ):
        self.lengths = sizes
        if mode == "none":
            if len(set(names)) > 1:
                raise UserError(
                    f"inbatch: none mixes rows, so all have to be of one task, not of {', '.join(names)}; "
                    "use epoch"
                )
            names, sizes = names[:1], [sum(sizes)]
        for name, size in zip(names, sizes, strict=True):
            if size < block and small == "error":
                raise UserError(
                    f"train: {name} has {size} rows, fewer than the {block} of a batch on all devices; lower "
                    "batch_size, leave the task out, or set small_files one_batch"
                )
        self.sizes, self.mode, self.seed = sizes, mode, seed
        self.blocks = [max(1, min(block, size)) for size in sizes]
        pairs = list(zip(sizes, self.blocks, strict=True))
        self.per_epoch = sum(size // of for size, of in pairs)
        self.left_over = sum(size % of for size, of in pairs)
        self._batches = lru_cache(maxsize=1)(self._epoch)

    def at(self, step: int) -> tuple[int, int, np.ndarray]:
        """(epoch, number of the file, numbers of its rows) of a step on all devices, from 0."""
        epoch, place = divmod(step, self.per_epoch)
        file, rows = self._batches(epoch)[place]
        return epoch, file, rows % self.lengths[file]

    def _epoch(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        """(file, rows) of each batch.

        epoch: every file is shuffled and cut into blocks, and the blocks of all are shuffled; epoch_static:
        the same blocks in every epoch; epoch_random: the next file is drawn by how much is left of it;
        random: a file is drawn by its size, then rows of it. none: `epoch` of all files as one.
        """
        random, files = np.random.default_rng([self.seed, epoch]), range(len(self.sizes))
        if self.mode == "random":
            shares = np.array(self.sizes) / sum(self.sizes)
            drawn = random.choice(len(self.sizes), self.per_epoch, p=shares)
            return [(int(f), random.choice(self.sizes[f], self.blocks[f], replace=False)) for f in drawn]
        cutting = np.random.default_rng(self.seed) if self.mode == "epoch_static" else random
        cut = [self._cut(file, cutting) for file in files]
        if self.mode == "epoch_random":
            order = []
            while any(cut):
                left = np.array([len(blocks) * of for blocks, of in zip(cut, self.blocks, strict=True)])
                file = int(random.choice(len(cut), p=left / left.sum()))
                order.append((file, cut[file].pop(0)))
            return order
        batches = [(file, block) for file in files for block in cut[file]]
        return [batches[place] for place in random.permutation(len(batches))]

    def _cut(self, file: int, random: np.random.Generator) -> list[np.ndarray]:
        order, size = random.permutation(self.sizes[file]), self.blocks[file]
        return [order[at : at + size] for at in range(0, len(order) - size + 1, size)]


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
