"""RMSNorm and SwiGLU with gradients written down: autograd would keep and pass over twice as much memory."""

import torch
import torch.nn.functional as F


class RMSNorm(torch.autograd.Function):
    """`x / sqrt(mean(x²) + eps) · weight` (arXiv 1910.07467), in float32 for a frozen weight.

    x (..., width) of any dtype; the result is of `dtype`.
    """

    @staticmethod
    def forward(ctx, x, weight, eps, dtype):
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
        rate = square.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, rate)
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
