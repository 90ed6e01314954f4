"""Which rows make up each batch: a pure function of the files' sizes, the mode, the seed and the epoch.

A batch is of one file (a task) in every mode but `none`, since keys of another task are no negatives that
teach anything. A file that is listed twice counts twice.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from stages.core.errors import UserError


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
