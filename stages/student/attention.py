"""Causal self-attention of short rows: rotary embedding, scores and mixing in one function with one gradient.

Batched matrix products beat PyTorch's flash kernel on a CPU for rows of some hundred tokens; queries that
share a key are one matrix, so that keys and values are never repeated.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F


class Heads(NamedTuple):
    """`groups` key heads, `share` query heads to each, of `size` elements; the first `rotary` are turned."""

    groups: int
    share: int
    size: int
    rotary: int
    scale: float


def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor, rotary: int) -> None:
    """Rotary embedding (arXiv 2104.09864) of x (B, H, T, size) into `out`; with -sin, its inverse.

    cos, sin: (T, rotary), each half of them equal.
    """
    half = rotary // 2
    torch.mul(x[..., :rotary], cos, out=out[..., :rotary])
    out[..., :half].addcmul_(x[..., half:rotary], sin[:, :half], value=-1)
    out[..., half:rotary].addcmul_(x[..., :half], sin[:, half:])
    out[..., rotary:] = x[..., rotary:]


class ShortAttention(torch.autograd.Function):
    """Attention of each row's tokens to itself and those before.

    qkv: (B, T, (groups · (share + 2)) · size), query heads first. cos, sin: (T, rotary), of qkv's dtype.
    Returns (B, T, groups · share · size). Keeps the probabilities, (B, heads, T, T).
    """

    @staticmethod
    def forward(ctx, qkv, cos, sin, heads: Heads):
        groups, share, size, rotary, scale = heads
        batch, length, _ = qkv.shape
        split = qkv.view(batch, length, -1, size).transpose(1, 2)
        q = qkv.new_empty(batch * groups, share * length, size)
        k = qkv.new_empty(batch * groups, length, size)
        turn(split[:, : groups * share], cos, sin, q.view(batch, -1, length, size), rotary)
        turn(split[:, groups * share : -groups], cos, sin, k.view(batch, -1, length, size), rotary)
        v = split[:, -groups:].reshape(-1, length, size)
        future = torch.full((length, length), float("-inf"), dtype=q.dtype, device=q.device).triu_(1)
        scores = torch.baddbmm(future.repeat(share, 1), q, k.transpose(1, 2), alpha=scale)
        shares = torch.softmax(scores, -1)
        ctx.save_for_backward(q, k, v, shares, cos, sin)
        ctx.heads = heads
        mixed = torch.bmm(shares, v).view(batch, groups * share, length, size)
        return mixed.transpose(1, 2).reshape(batch, length, -1)

    @staticmethod
    def backward(ctx, grad):
        q, k, v, shares, cos, sin = ctx.saved_tensors
        groups, share, size, rotary, scale = ctx.heads
        batch, length, _ = grad.shape
        grad = grad.view(batch, length, -1, size).transpose(1, 2).reshape(-1, share * length, size)
        into = grad.new_empty(batch, length, groups * (share + 2), size).transpose(1, 2)
        into[:, -groups:] = torch.bmm(shares.transpose(1, 2), grad).view(batch, groups, length, size)
        wanted = torch.bmm(grad, v.transpose(1, 2))
        wanted = torch._softmax_backward_data(wanted, shares, -1, shares.dtype).mul_(scale)
        grad_q = torch.bmm(wanted, k).view(batch, -1, length, size)
        grad_k = torch.bmm(wanted.transpose(1, 2), q).view(batch, -1, length, size)
        turn(grad_q, cos, -sin, into[:, : groups * share], rotary)
        turn(grad_k, cos, -sin, into[:, groups * share : -groups], rotary)
        return into.transpose(1, 2).reshape(batch, length, -1), None, None, None


class Packed(NamedTuple):
    """Rows end to end: `starts` (rows + 1,) int32, and the `row` and `position` (T,) of every token."""

    starts: torch.Tensor
    row: torch.Tensor
    position: torch.Tensor

    @classmethod
    def of(cls, starts: torch.Tensor, length: int) -> "Packed":
        place = torch.arange(length, device=starts.device)
        row = torch.bucketize(place, starts[1:], right=True)
        return cls(starts, row, place - starts[row])


def packed_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packed: Packed, longest: int, scale: float
) -> torch.Tensor:
    """Attention of every token to its own row up to itself: q, k, v (1, H, T, size) -> (1, T, H, size).

    On CUDA in half precision by PyTorch's variable-length flash kernel, which leaves out what another row
    holds; elsewhere with a mask over all T · T pairs, for short packs. longest: no row has more tokens.
    """
    if q.is_cuda and q.dtype != torch.float32:
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (part[0].transpose(0, 1) for part in (q, k, v))
        starts, causal = packed.starts, (-1, 0)
        return varlen_attn(q, k, v, starts, starts, longest, longest, scale=scale, window_size=causal)[None]
    place = torch.arange(q.shape[2], device=q.device)
    seen = (packed.row[:, None] == packed.row) & (place[:, None] >= place)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale).transpose(1, 2)
