"""Functions whose gradients are written by hand, so that each reads and writes as little memory as it can.

On a CPU a step waits for memory wherever it does not multiply matrices. Autograd keeps and passes over every
intermediate tensor; here sums are added in place and what is cheap is computed again.
"""

import torch
import torch.nn.functional as F

IGNORE = -100
# Logits that exist at a time: 128 MiB in bfloat16. A whole batch of a 50,000-token vocabulary would be GBs.
HEAD_ELEMENTS = 1 << 26
PIECE = 1 << 20  # of these, as many are in float32 at a time: they stay in a core's cache


class LowRank(torch.autograd.Function):
    """A linear layer with LoRA (arXiv 2106.09685): `x Wᵀ + b + scale · (x Aᵀ) Bᵀ` for frozen W and b.

    x (N, in) and weight (out, in) of one dtype, in which all products are made; a and b of any, in which
    their gradients are returned. parts: the outputs (from, to) of every projection that the layer makes with
    LoRA; a has r rows for each, one below the other, b (their outputs, r) a row for each of those.
    """

    # One projection after the other: query, key and value as one block-diagonal B took 1.26 ms in place of
    # 0.51 (2,048 rows, forward and gradients, one thread), 4% of a step; two thirds of it were zeros.
    # addmm_ adds to the frozen product in place, where autograd would make a second (N, out) and a sum.

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale, parts):
        ctx.scale, ctx.dtype, ctx.parts = scale, a.dtype, parts
        a, b = a.to(x.dtype), b.to(x.dtype)
        low = x @ a.t()
        ctx.save_for_backward(x, weight, a, b, low)
        y = x @ weight.t() if bias is None else torch.addmm(bias.to(x.dtype), x, weight.t())
        for out, up, part in zip(*of_each(parts, y, b), low.chunk(len(parts), 1), strict=True):
            out.addmm_(part, up.t(), alpha=scale)
        return y

    @staticmethod
    def backward(ctx, grad):
        x, weight, a, b, low = ctx.saved_tensors
        grad = grad.contiguous()
        grads, ups = of_each(ctx.parts, grad, b)
        lows = low.chunk(len(ctx.parts), 1)
        grad_low = torch.cat([part @ up for part, up in zip(grads, ups, strict=True)], 1).mul_(ctx.scale)
        grad_b = torch.cat([(down.t() @ part).t() for down, part in zip(lows, grads, strict=True)])
        grad_x = (grad @ weight).addmm_(grad_low, a) if ctx.needs_input_grad[0] else None
        grad_a, grad_b = (grad_low.t() @ x).to(ctx.dtype), grad_b.to(ctx.dtype).mul_(ctx.scale)
        return grad_x, None, None, grad_a, grad_b, None, None


def of_each(parts: tuple, y: torch.Tensor, b: torch.Tensor) -> tuple[list[torch.Tensor], ...]:
    """The columns of y (N, out) and the rows of b (sum of outputs, r) that belong to each projection."""
    return [y[:, start:end] for start, end in parts], b.split([end - start for start, end in parts])


class RMSNorm(torch.autograd.Function):
    """`x / sqrt(mean(x²) + eps) · weight` (arXiv 1910.07467), in float32 for a frozen weight.

    x (..., width) of any dtype; the result is of `dtype`.
    """

    @staticmethod
    def forward(ctx, x, weight, eps, dtype):
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
        rate = square.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, rate)  # rate has one number a token; autograd would keep x · rate
        return (x * rate).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx, grad):
        x, weight, rate = ctx.saved_tensors
        grad_x = grad * weight.float()
        share = (grad_x * x).sum(-1, keepdim=True)
        share.mul_(rate.pow(3)).div_(x.shape[-1])
        return grad_x.mul_(rate).addcmul_(x, share, value=-1).to(x.dtype), None, None, None


class SwiGLU(torch.autograd.Function):
    """`silu(gate) · up` (arXiv 2002.05202) for two tensors of one shape and dtype."""

    @staticmethod
    def forward(ctx, gate, up):
        opened = F.silu(gate)
        ctx.save_for_backward(gate, up, opened)
        return opened * up

    @staticmethod
    def backward(ctx, grad):
        gate, up, opened = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), grad * opened


# The loss is a sum over target tokens, divided once by the target tokens of the whole optimizer step. A mean
# of each micro-batch would weigh a token by the rows beside it: accumulation, length grouping and data
# parallelism would each change the gradient.


def summed_nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log likelihood in nats summed over targets (N,) that are not IGNORE; logits (N, V).

    The logarithm is taken in float32: in bfloat16 the loss is biased by about half a per cent.
    """
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORE, reduction="sum")


class HeadLoss(torch.autograd.Function):
    """`summed_nll(hidden Wᵀ + b, targets)` for a frozen head, whose gradient is made in the forward pass.

    hidden (N, width) and weight (V, width) of one dtype; targets (N,) int64. Returns a float32 scalar.
    """

    # The gradient with respect to the logits is softmax - onehot: it replaces them in place, piece by piece,
    # and is multiplied back through W at once. So of N · V numbers no more than HEAD_ELEMENTS ever exist.

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets):
        rows = max(1, HEAD_ELEMENTS // len(weight))
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), device=hidden.device)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = F.linear(hidden[part], weight, bias)
            total += differentiate_(logits, targets[part], grad is not None)
            if grad is not None:
                torch.mm(logits, weight, out=grad[part])
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx, scale):
        (grad,) = ctx.saved_tensors
        return (grad.float() * scale).to(grad.dtype), None, None, None


def differentiate_(logits: torch.Tensor, targets: torch.Tensor, with_gradient: bool) -> torch.Tensor:
    """The summed loss (scalar); `with_gradient`, `logits` (N, V) become its gradient with respect to them."""
    total = torch.zeros((), device=logits.device)
    rows = max(1, PIECE // logits.shape[1])
    for piece, target in zip(logits.split(rows), targets.split(rows), strict=True):
        logprobs = torch.log_softmax(piece.float(), -1)
        total += F.nll_loss(logprobs, target, ignore_index=IGNORE, reduction="sum")
        if with_gradient:
            counted = target != IGNORE
            gradient = logprobs.exp_().mul_(counted[:, None])
            gradient[counted.nonzero()[:, 0], target[counted]] -= 1
            piece.copy_(gradient)
    return total
