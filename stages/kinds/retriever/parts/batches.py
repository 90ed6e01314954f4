"""Which rows make up each batch: a pure function of the files' sizes, the mode, the seed and the epoch.

A batch is of one file (a task) in every mode but `none`, since keys of another task are no negatives that
teach anything. A file that is listed twice counts twice.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stages.core.errors import UserError


class Batch(NamedTuple):
    """Rows (number of the file, number of the row in it) of one optimizer step on all devices."""

    files: np.ndarray
    rows: np.ndarray


class Batches:
    """The batches of every epoch.

    names, sizes: of the files. block: rows of a batch, over all devices. mode: see `_epoch`. small: what a
    file with fewer rows than a block is, an `error` or `one_batch` of all that it has. Rows that are left
    over once blocks are cut are not used in that epoch.
    """

    def __init__(
        self, names: Sequence[str], sizes: Sequence[int], block: int, mode: str, small: str, seed: int
    ):
        if mode == "none" and len(set(names)) > 1:
            raise UserError(
                f"inbatch: none mixes rows, so all have to be of one task, not of {', '.join(names)}; "
                "use epoch"
            )
        if mode == "none":
            names, sizes, self.starts = names[:1], [sum(sizes)], np.cumsum([0, *sizes])
        else:
            self.starts = None
        self.sizes, self.mode, self.seed = list(sizes), mode, seed
        for name, size in zip(names, sizes, strict=True):
            if size < block and small == "error":
                raise UserError(
                    f"train: {name} has {size} rows, fewer than the {block} of a batch on all devices; lower "
                    "batch_size, leave the task out, or set small_files one_batch"
                )
        self.blocks = [min(block, size) for size in self.sizes]
        whole = [size // of if of else 0 for size, of in zip(self.sizes, self.blocks, strict=True)]
        self.per_epoch = sum(whole)
        self.left_over = sum(self.sizes) - sum(n * of for n, of in zip(whole, self.blocks, strict=True))
        self._drawn: tuple[int, list[Batch]] = (-1, [])

    def at(self, step: int) -> tuple[int, Batch]:
        """Epoch and batch of a step, from 0."""
        epoch, place = divmod(step, self.per_epoch)
        if self._drawn[0] != epoch:
            self._drawn = epoch, [self._named(*pair) for pair in self._epoch(epoch)]
        return epoch, self._drawn[1][place]

    def _named(self, file: int, rows: np.ndarray) -> Batch:
        if self.starts is None:
            return Batch(np.full(len(rows), file), rows)
        files = np.searchsorted(self.starts, rows, side="right") - 1
        return Batch(files, rows - self.starts[files])

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
        return [order[at : at + size] for at in range(0, len(order) - size + 1, size)] if size else []


def of_rank(rows: int, ranks: int) -> np.ndarray:
    """Which device's slice each row of a batch is in."""
    return np.concatenate(
        [np.full(len(part), r) for r, part in enumerate(np.array_split(range(rows), ranks))]
    )
