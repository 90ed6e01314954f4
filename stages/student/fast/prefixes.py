"""Rows end to end, many of which go on from the same beginnings: each beginning is computed once.

A segment is a run of tokens that goes on from another one, its parent, or from nothing. Attention is causal,
so what a parent's tokens are computed to does not depend on what follows. The numbers of a segment do not
depend on the others of a pass either, where passes have the same number of tokens: every product with a
weight then has one shape, and the shapes of attention follow from the lengths of a segment and its parent.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from stages.student.fast.attention import Heads, turn

STEP = 32  # shapes of attention are rounded up to multiples of this many tokens
# Tokens of a segment that look back at once, so that little of what they must not see is multiplied: 4,096
# tokens in segments of 190 take 26 ms in place of 36, of 400 33 in place of 49 (9 heads of 64, one thread).
QUERIES = 64


class Segment(NamedTuple):
    """`ids` (at least one token); `parent` is the number of the segment that it goes on from, -1: of none."""

    ids: Sequence[int]
    parent: int = -1


class Block(NamedTuple):
    """Parts of segments, of one shape: places of their tokens, of what these see, and what each sees of that.

    own: (n, L), filled up with the last place of the pass. seen: (n, P + L), what came before first, which is
    the parent and the segment up to this part.
    hidden: bool (n, L, P + L). back: which of the flattened `own` are tokens.
    """

    own: torch.Tensor
    seen: torch.Tensor
    hidden: torch.Tensor
    back: torch.Tensor


class Prefixes(NamedTuple):
    """A pass of T tokens. position: (T,), the place of each token in its row."""

    ids: torch.Tensor
    position: torch.Tensor
    starts: list[int]  # of each segment
    blocks: list[Block]

    @classmethod
    def of(cls, segments: Sequence[Segment], length: int, device: torch.device) -> "Prefixes":
        """Segments, fewer tokens in all than `length`, which is T; a parent is not the child of another."""
        ids, position = np.zeros(length, dtype=np.int64), np.zeros(length, dtype=np.int64)
        starts, start = [], 0
        shapes: dict[tuple[int, int], list[tuple[list[int], range]]] = defaultdict(list)
        for tokens, parent in segments:
            before = range(starts[parent], starts[parent] + len(segments[parent].ids)) if parent >= 0 else ()
            own = range(start, start + len(tokens))
            ids[start : own.stop] = tokens
            position[start : own.stop] = np.arange(len(before), len(before) + len(tokens))
            for first in range(0, len(own), QUERIES):
                seen, part = [*before, *own[:first]], own[first : first + QUERIES]
                shapes[rounded(len(seen)), rounded(len(part))].append((seen, part))
            starts.append(start)
            start = own.stop
        made = [_block(*shape, parts, length - 1) for shape, parts in shapes.items()]
        blocks = [Block(*(torch.from_numpy(part).to(device) for part in block)) for block in made]
        ids, position = (torch.from_numpy(part).to(device) for part in (ids, position))
        return cls(ids, position, starts, blocks)

    def attend(self, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: Heads) -> torch.Tensor:
        """Qkv (T, width), query heads first, cos and sin (T, rotary) -> (T, groups · share · size)."""
        groups, share, size, rotary, scale = heads
        queries, length = groups * share, len(qkv)
        by_head = qkv.view(length, -1, size)
        turned = qkv.new_empty(length, queries + groups, size)
        plain, into = (part.transpose(0, 1)[None] for part in (by_head[:, : queries + groups], turned))
        turn(plain, cos[None, None], sin[None, None], into, rotary)
        mixed = qkv.new_zeros(length, queries * size)
        for own, seen, hidden, back in self.blocks:
            count, width = own.shape
            q = turned[own, :queries].transpose(1, 2).reshape(count, groups, share * width, size)
            k, v = turned[seen, queries:].transpose(1, 2), by_head[seen, queries + groups :].transpose(1, 2)
            scores = (q @ k.transpose(2, 3)).mul_(scale).view(count, groups, share, width, -1)
            weights = (
                scores.masked_fill_(hidden[:, None, None], -torch.inf).softmax(-1).view(*q.shape[:3], -1)
            )
            values = (
                (weights @ v).view(count, queries, width, size).transpose(1, 2).reshape(-1, queries * size)
            )
            mixed[own.flatten()[back]] = values[back]
        return mixed


def rounded(tokens: int) -> int:
    return -(-tokens // STEP) * STEP


def _block(before: int, width: int, parts: list[tuple[list[int], range]], filler: int) -> tuple:
    """The arrays of a Block."""
    own = np.full((len(parts), width), filler)
    seen = np.full((len(parts), before + width), filler)
    hidden = np.zeros((len(parts), width, before + width), dtype=bool)
    hidden[:, :, before:] = ~np.tri(width, dtype=bool)
    for row, (parent, tokens) in enumerate(parts):
        own[row, : len(tokens)] = seen[row, before : before + len(tokens)] = tokens
        seen[row, : len(parent)] = parent
        hidden[row, :, len(parent) : before] = True
    back = np.flatnonzero(own.reshape(-1) != filler)
    return own, seen, hidden, back
