"""Causal self-attention of rows that lie end to end, and share the tokens that all of them begin with.

Every other layer computes each token by itself; only attention depends on which row a token is of. Attention
is causal, so hidden states of a common beginning are equal in all rows: they are computed once, and receive
the sum of the rows' gradients. Loss and gradient are those of rows computed one by one.
"""

from typing import NamedTuple

import torch

# Probabilities of a row and head that are kept for the gradient; more are computed again. For 8 rows of 456
# to 565 tokens (135M shape) that takes 5.1 s a step and 4.4 GB at the peak, keeping them 4.8 s and 5.5 GB,
# the flash kernel 6.8 s and 4.9 GB.
KEPT = 512**2


class Packed(NamedTuple):
    """Where the rows of a pass lie among its T tokens: [common beginning | rows' own tokens | padding].

    starts: (rows + 2,) int32, where the own tokens of each row begin, where the last ones end, and T.
    position: (T,), the place of every token in its row.
    shared: how many tokens come before the first start; all rows begin with them.
    own: (rows, L), for each row the places of its own tokens, filled up with the place of the last token of
        all, which is padding.
    back: (number of own tokens,), where each of them is in a flattened `own`.
    """

    # `shared`, `own` and `back` depend on the values of `starts`: on CUDA, making them would wait for the
    # device. They are left out where a kernel goes by `starts` alone.

    starts: torch.Tensor
    position: torch.Tensor
    shared: int = 0
    own: torch.Tensor | None = None
    back: torch.Tensor | None = None

    @classmethod
    def of(cls, starts: torch.Tensor, length: int, by_row: bool) -> "Packed":
        """Of `starts` (rows + 2,) and T = `length`; with what attention row by row needs if `by_row`."""
        place = torch.arange(length, device=starts.device)
        row = torch.bucketize(place, starts[1:], right=True)
        if not by_row:
            return cls(starts, place - starts[row])
        shared, sizes = int(starts[0]), starts[1:-1] - starts[:-2]
        begins = torch.cat([starts[:-2] - shared, starts[-2:]])
        slot = torch.arange(int(sizes.max()), device=starts.device)
        filled = slot < sizes[:, None]
        own = torch.where(filled, starts[:-2, None] + slot, length - 1)
        return cls(starts, place - begins[row], shared, own, filled.flatten().nonzero()[:, 0])

    @property
    def longest(self) -> int:
        """Tokens of the longest row, the common beginning included."""
        return self.shared + self.own.shape[1]

    def whole(self) -> "Packed":
        """The same tokens with the common beginning in `own` of every row; `back` reads it from the first."""
        first = torch.arange(self.shared, device=self.own.device)
        row, slot = self.back // self.own.shape[1], self.back % self.own.shape[1]
        back = torch.cat([first, row * self.longest + self.shared + slot])
        own = torch.cat([first.expand(len(self.own), -1), self.own], 1)
        return self._replace(own=own, back=back, shared=0)

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """X (T, ...) of all tokens -> (rows, L, ...) of the rows' own ones, with padding."""
        return x.index_select(0, self.own.flatten()).view(*self.own.shape, *x.shape[1:])


class Heads(NamedTuple):
    """`groups` key heads, `share` query heads to each, of `size` elements; the first `rotary` are turned.

    scale: factor of the products of queries and keys.
    """

    groups: int
    share: int
    size: int
    rotary: int
    scale: float


def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor, rotary: int) -> None:
    """Rotary embedding (arXiv 2104.09864) of x (B, H, L, size) into `out`; with -sin, its inverse.

    cos, sin: (B, 1, L, rotary), each half of them equal.
    """
    half = rotary // 2
    torch.mul(x[..., :rotary], cos, out=out[..., :rotary])
    out[..., :half].addcmul_(x[..., half:rotary], sin[..., :half], value=-1)
    out[..., half:rotary].addcmul_(x[..., :half], sin[..., half:])
    out[..., rotary:] = x[..., rotary:]


def split(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: Heads) -> tuple[torch.Tensor, ...]:
    """Qkv (B, L, width) -> q (B · groups, share · L, size), k and v (B · groups, L, size); q and k turned."""
    # Queries that share a key are one matrix, so that keys and values are never repeated.
    groups, share, size, rotary, _ = heads
    batch, length, _ = qkv.shape
    by_head = qkv.view(batch, length, -1, size).transpose(1, 2)
    q = qkv.new_empty(batch * groups, share * length, size)
    k = qkv.new_empty(batch * groups, length, size)
    turn(by_head[:, : groups * share], cos, sin, q.view(batch, -1, length, size), rotary)
    turn(by_head[:, groups * share : -groups], cos, sin, k.view(batch, -1, length, size), rotary)
    return q, k, by_head[:, -groups:].reshape(-1, length, size)


def joined(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: Heads
) -> torch.Tensor:
    """Backward of `split`: gradients of its q, k and v -> that of qkv (B, L, width)."""
    groups, share, size, rotary, _ = heads
    batch, length = len(cos), cos.shape[2]
    into = q.new_empty(batch, length, groups * (share + 2), size).transpose(1, 2)
    turn(q.view(batch, -1, length, size), cos, -sin, into[:, : groups * share], rotary)
    turn(k.view(batch, -1, length, size), cos, -sin, into[:, groups * share : -groups], rotary)
    into[:, -groups:] = v.view(batch, groups, length, size)
    return into.transpose(1, 2).reshape(batch, length, -1)


def probabilities(q: torch.Tensor, k: torch.Tensor, heads: Heads) -> torch.Tensor:
    """The weights of attention, (B · groups, share · L, keys).

    The last query sees all keys, the one before it all but the last, and so on.
    """
    length, keys = q.shape[1] // heads.share, k.shape[1]
    future = torch.full((length, keys), float("-inf"), dtype=q.dtype, device=q.device)
    future.triu_(1 + keys - length)
    scores = torch.baddbmm(future.repeat(heads.share, 1), q, k.transpose(1, 2), alpha=heads.scale)
    return torch.softmax(scores, -1)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: Heads
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The output, of q's shape, and the probabilities, or None where these are more than are KEPT."""
    weights = probabilities(q, k, heads)
    size = weights.shape[1] // heads.share * weights.shape[2]
    return torch.bmm(weights, v), weights if size <= KEPT else None


def differentiate(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    weights: torch.Tensor | None,
    heads: Heads,
) -> tuple[torch.Tensor, ...]:
    """Backward of `attend`: gradients of q, k and v for `grad`, that of its output, and its `weights`."""
    weights = probabilities(q, k, heads) if weights is None else weights
    scores = torch.bmm(grad, v.transpose(1, 2))
    scores = torch._softmax_backward_data(scores, weights, -1, weights.dtype).mul_(heads.scale)
    grad_k, grad_v = torch.bmm(scores.transpose(1, 2), q), torch.bmm(weights.transpose(1, 2), grad)
    return torch.bmm(scores, k), grad_k, grad_v


class ShortAttention(torch.autograd.Function):
    """Attention of each token to those before it in its row, and itself, by batched matrix products.

    qkv: (T, (groups · (share + 2)) · size), query heads first. cos, sin: (T, rotary), of qkv's dtype.
    Returns (T, groups · share · size).
    """

    # On a CPU these beat PyTorch's flash kernel for rows of up to a thousand tokens (BMM_LENGTH in model.py),
    # the more so where rows have a beginning in common, which the kernel sees once for each: 66 ms against
    # 142 with 130 common tokens and 435 of their own, 46 against 225 with 700 and 150.

    @staticmethod
    def forward(ctx, qkv, cos, sin, heads: Heads, packed: Packed):
        shared, end = packed.shared, packed.shared + len(packed.back)
        mixed = qkv.new_zeros(len(qkv), heads.groups * heads.share * heads.size)
        turns = [packed.rows(part)[:, None] for part in (cos, sin)]
        q, k, v = split(packed.rows(qkv), *turns, heads)
        before = ()
        if shared:
            first = [part[None, None, :shared] for part in (cos, sin)]
            before = split(qkv[None, :shared], *first, heads)
            values, weights = attend(*before, heads)
            mixed[:shared] = merged(values, 1, heads)[0]
            k, v = (behind(part, own) for part, own in zip(before[1:], (k, v), strict=True))
            before = (*before, weights, *first)
        values, weights = attend(q, k, v, heads)
        mixed[shared:end] = merged(values, len(packed.own), heads).flatten(0, 1).index_select(0, packed.back)
        ctx.save_for_backward(q, k, v, weights, *turns, *before)
        ctx.heads, ctx.packed = heads, packed
        return mixed

    @staticmethod
    def backward(ctx, grad):
        saved = ctx.saved_tensors
        (*parts, cos, sin), before = saved[:6], saved[6:]
        heads, packed = ctx.heads, ctx.packed
        shared, end = packed.shared, packed.shared + len(packed.back)
        into = grad.new_zeros(len(grad), heads.groups * (heads.share + 2) * heads.size)
        q, k, v = differentiate(parted(packed.rows(grad), heads), *parts, heads)
        if shared:
            *parts, first_cos, first_sin = before
            first = differentiate(parted(grad[None, :shared], heads), *parts, heads)
            # Keys and values of the common beginning are read by all rows: their gradients are summed.
            for common, of_rows in zip(first[1:], (k, v), strict=True):
                common += of_rows[:, :shared].unflatten(0, (-1, heads.groups)).sum(0)
            into[:shared] = joined(*first, first_cos, first_sin, heads)[0]
            k, v = k[:, shared:], v[:, shared:]
        rows = joined(q, k, v, cos, sin, heads)
        into[shared:end] = rows.flatten(0, 1).index_select(0, packed.back)
        return into, None, None, None, None


def behind(first: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """First (groups, P, size) before each of own (B · groups, L, size)."""
    return torch.cat([first.repeat(len(own) // len(first), 1, 1), own], 1)


def parted(x: torch.Tensor, heads: Heads) -> torch.Tensor:
    """X (B, L, heads · size) -> (B · groups, share · L, size)."""
    batch, length, _ = x.shape
    split = x.reshape(batch, length, -1, heads.size).transpose(1, 2)
    return split.reshape(batch * heads.groups, -1, heads.size)


def merged(x: torch.Tensor, batch: int, heads: Heads) -> torch.Tensor:
    """The inverse of `parted`."""
    split = x.view(batch, heads.groups * heads.share, -1, heads.size)
    return split.transpose(1, 2).flatten(2)


def varlen_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packed: Packed, longest: int, scale: float
) -> torch.Tensor:
    """Attention of every token to its own row up to itself: q, k, v (1, H, T, size) -> (1, T, H, size).

    By PyTorch's flash kernel for rows of several lengths, on CUDA in half precision. No row has more tokens
    than `longest`.
    """
    from torch.nn.attention.varlen import varlen_attn  # of CUDA; not every build of torch has it

    q, k, v = (part[0].transpose(0, 1) for part in (q, k, v))
    starts, causal = packed.starts, (-1, 0)
    return varlen_attn(q, k, v, starts, starts, longest, longest, scale=scale, window_size=causal)[None]
