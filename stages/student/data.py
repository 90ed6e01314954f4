"""Token rows on disk and the batch plan: which rows make up which optimizer step, known before training."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stages.core.errors import UserError
from stages.student.fast.functions import IGNORE

POOL = 50  # batches that are sorted by length together; more means less padding and less shuffling
# What all rows begin with is computed once where that spares this part of a pass's tokens; fewer do not pay.
# 1,559 tokens/s in place of 981 where 77 of 164 tokens are common (shape of SmolLM2-135M, 8 rows a step).
SHARED_PART = 1 / 16
# Shapes are rounded up, so that the allocator meets the same sizes again: to these, and packed tokens to one
# of SIZES numbers between a power of two and the next (a peak of 1,591 MiB became one of 1,236 to 1,256).
LENGTH_STEP, TARGET_STEP = 16, 128
SIZES = 16


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
        is_target = (np.asarray(self.labels) != IGNORE).astype(np.int64)
        is_target[self.offsets[:-1]] = 0
        sums = np.concatenate([[0], np.cumsum(is_target)])
        return sums[self.offsets[1:]] - sums[self.offsets[:-1]]

    def batch(self, rows: np.ndarray, packed: bool = False, share: bool = False) -> tuple[torch.Tensor, ...]:
        """Inputs of a forward pass: ids (B, T), flat positions (N,) and their next tokens (N,), all int64.

        A row's last token predicts nothing and is left out; rows are right-padded, N is rounded up with
        IGNORE targets. No rows (this rank has no work in a step) give one row without targets.
        Packed: ids (1, T) are the rows end to end, then padding, and `starts` (B + 2,) int32 comes as a
        fourth, where each row begins, where the last one ends, and T. With `share`, what all rows begin with
        comes once, before the first start, if that is worth it.
        """
        chosen = rows if len(rows) else np.zeros(1, dtype=np.int64)
        ids = [self.ids[self.offsets[row] : self.offsets[row + 1] - 1] for row in chosen]
        following = [self.labels[self.offsets[row] + 1 : self.offsets[row + 1]] for row in chosen]
        if not len(rows):
            following = [np.full_like(following[0], IGNORE)]
        if not packed:
            width = rounded_up(max(map(len, ids)), LENGTH_STEP)
            ids = np.stack([padded(row, width, 0) for row in ids])
            labels = np.stack([padded(row, width, IGNORE) for row in following])
            return torch.from_numpy(ids), *targets(labels)
        # End to end, nothing but attention sees padding: 8,215 tokens/s in place of 6,688 with padded rows.
        shared = common(ids, following) if share else 0
        starts = shared + np.cumsum([0, *(len(row) - shared for row in ids)])
        filled = int(starts[-1]) + 1  # one token of padding at least
        width = rounded_up(filled, max(LENGTH_STEP, (1 << filled.bit_length() - 1) // SIZES))
        ids = np.concatenate([ids[0][:shared], *(row[shared:] for row in ids)])
        labels = np.concatenate([following[0][:shared], *(row[shared:] for row in following)])
        starts = torch.from_numpy(np.append(starts, width).astype(np.int32))
        ids = torch.from_numpy(padded(ids, width, 0)[None])
        return ids, *targets(padded(labels, width, IGNORE)), starts


def rounded_up(size: int, step: int) -> int:
    """The least multiple of `step` that is no less than `size`."""
    return int(-(-size // step) * step)


def padded(values: np.ndarray, width: int, filler: int) -> np.ndarray:
    """`values` (up to width) as int64 (width,), filled up at the end."""
    return np.pad(values.astype(np.int64), (0, width - len(values)), constant_values=filler)


def targets(labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat positions (N,) of the labels that are not IGNORE, and these labels (N,).

    Both are filled up to a multiple of TARGET_STEP, with position 0 and IGNORE.
    """
    at = np.flatnonzero(labels != IGNORE)
    size = rounded_up(max(1, len(at)), TARGET_STEP)
    there = padded(labels.reshape(-1)[at], size, IGNORE)
    return torch.from_numpy(padded(at, size, 0)), torch.from_numpy(there)


def common(ids: list[np.ndarray], following: list[np.ndarray]) -> int:
    """How many tokens all rows begin with; 0 where sharing them would spare less than SHARED_PART.

    `following` are the labels of the next tokens. A shared token predicts no target, and every row keeps at
    least one token after the shared ones.
    """
    limit = min(int(np.argmax(np.append(row[:-1] != IGNORE, True))) for row in following)
    first = np.stack([row[:limit] for row in ids])
    count = int(np.argmin(np.append((first == first[0]).all(0), False)))
    return count if count * (len(ids) - 1) >= SHARED_PART * sum(map(len, ids)) else 0


class Plan:
    """Rows of every optimizer step: a pure function of lengths, sizes, seed and the step's number.

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
    """This rank's share of a step, in arrays of up to `size` rows.

    Every rank gets equally many arrays, so that all of them meet in each backward pass; some may be empty.
    """
    parts = [rows[at : at + size] for at in range(0, len(rows), size)]
    parts += [rows[:0]] * (-len(parts) % ranks)
    return parts[rank::ranks]
