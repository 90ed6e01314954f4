"""Token rows on disk and the batch plan: which rows make up which optimizer step, known before training."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stages.student.loss import IGNORE
from stages.support.errors import UserError

POOL = 50  # batches that are sorted by length together; more means less padding and less shuffling
LENGTH_STEP, TARGET_STEP = 16, 128  # shapes are rounded up to these, so that the allocator can reuse memory


@dataclass(frozen=True)
class TokenRows:
    """Memory-mapped rows: `ids` and `labels` (int32, flat) and `offsets` (int64, rows + 1)."""

    ids: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray

    @classmethod
    def load(cls, directory: Path, split: str) -> "TokenRows":
        parts = {}
        for name in ("ids", "labels", "offsets"):
            path = Path(directory) / f"{split}.{name}.npy"
            if not path.is_file():
                raise UserError(f"{path}: no such file; run the tokenize stage")
            # numpy refuses to map an empty array
            parts[name] = np.load(path, mmap_mode="r" if path.stat().st_size > 128 else None)
        return cls(**parts)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def targets(self) -> np.ndarray:
        """Target tokens of each row; a row's first token has nothing to be predicted from."""
        wanted = (np.asarray(self.labels) != IGNORE).astype(np.int64)
        wanted[self.offsets[:-1]] = 0
        sums = np.concatenate([[0], np.cumsum(wanted)])
        return sums[self.offsets[1:]] - sums[self.offsets[:-1]]

    def batch(self, rows: np.ndarray, packed: bool = False) -> tuple[torch.Tensor, ...]:
        """ids (B, T), flat positions (N,) and their next tokens (N,), all int64, right-padded.

        N is rounded up with IGNORE targets. No rows (another rank has work, this one has none) is a batch of
        one row without targets. Packed: ids (1, T) are the rows end to end, and `starts` (B + 2,) int32 comes
        as a fourth, where each begins and where the last one and the padding end.
        """
        chosen = rows if len(rows) else np.zeros(1, dtype=np.int64)
        sizes = self.offsets[chosen + 1] - self.offsets[chosen]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        whole = starts[-1] if packed else sizes.max()
        width = int(-(-whole // LENGTH_STEP) * LENGTH_STEP)
        shape = (1, width) if packed else (len(chosen), width)
        ids, labels = np.zeros(shape, np.int64), np.full(shape, IGNORE, np.int64)
        for place, row in enumerate(chosen):
            start, end = self.offsets[row], self.offsets[row + 1]
            first = starts[place] if packed else place * width
            ids.reshape(-1)[first : first + end - start] = self.ids[start:end]
            if len(rows):
                labels.reshape(-1)[first : first + end - start - 1] = self.labels[start + 1 : end]
        at = np.flatnonzero(labels != IGNORE)
        size = max(1, -(-len(at) // TARGET_STEP)) * TARGET_STEP
        where, wanted = np.zeros(size, np.int64), np.full(size, IGNORE, np.int64)
        where[: len(at)], wanted[: len(at)] = at, labels.reshape(-1)[at]
        found = torch.from_numpy(ids), torch.from_numpy(where), torch.from_numpy(wanted)
        return (*found, torch.from_numpy(np.append(starts, width).astype(np.int32))) if packed else found


class Plan:
    """Rows of every optimizer step, a pure function of lengths, sizes and seed; any step is found at once.

    An epoch is a permutation cut into pools; a pool is sorted by length and cut into batches, so that rows of
    one batch are about equally long; the batches of the epoch are shuffled. Each row comes once an epoch.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, epochs: int, seed: int):
        self.lengths, self.batch_size, self.seed = np.asarray(lengths), batch_size, seed
        self.per_epoch = -(-len(self.lengths) // batch_size)
        self.steps = self.per_epoch * epochs
        self._epoch, self._batches = -1, []

    def step(self, step: int) -> np.ndarray:
        """Row numbers of `step` (from 0), ordered by length."""
        epoch, batch = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._shuffled(epoch)
        return self._batches[batch]

    def _shuffled(self, epoch: int) -> list[np.ndarray]:
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.lengths))
        pool = self.batch_size * POOL
        batches = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += [part[at : at + self.batch_size] for at in range(0, len(part), self.batch_size)]
        return [batches[place] for place in random.permutation(len(batches))]


def micro_batches(rows: np.ndarray, size: int, rank: int, ranks: int) -> list[np.ndarray]:
    """This rank's share of a step. Every rank gets equally many, the last ones perhaps empty."""
    parts = [rows[at : at + size] for at in range(0, len(rows), size)]
    parts += [rows[:0]] * (-len(parts) % ranks)
    return parts[rank::ranks]
