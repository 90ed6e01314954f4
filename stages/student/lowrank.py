"""Linear layers with LoRA (arXiv 2106.09685) in as few passes over memory as PyTorch's own kernels allow."""

import torch
import torch.nn.functional as F

from stages.student.litgpt_import import LoRALinear, LoRAQKVLinear


class LowRank(torch.autograd.Function):
    """`x Wᵀ + b + scale · (x Aᵀ) Bᵀ` for frozen W and b, adding in place where autograd would copy and add.

    x (N, in) and weight (out, in) of one dtype, in which all products are made; a (r, in) and b (out, r) of
    any, in which their gradients are returned.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale):
        ctx.scale, ctx.dtype = scale, a.dtype
        a, b = a.to(x.dtype), b.to(x.dtype)
        low = x @ a.t()
        ctx.save_for_backward(x, weight, a, b, low)
        y = x @ weight.t() if bias is None else torch.addmm(bias.to(x.dtype), x, weight.t())
        return y.addmm_(low, b.t(), alpha=scale)

    @staticmethod
    def backward(ctx, grad):
        x, weight, a, b, low = ctx.saved_tensors
        grad = grad.contiguous()
        grad_low = (grad @ b).mul_(ctx.scale)
        grad_b = (low.t() @ grad).t().to(ctx.dtype).mul_(ctx.scale)
        grad_x = (grad @ weight).addmm_(grad_low, a) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, (grad_low.t() @ x).to(ctx.dtype), grad_b, None


def adapted(layer: LoRALinear, x: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The layer's output with `up` for B. Dropout and quantized weights take the plain way."""
    weight, dropout = layer.linear.weight, layer.lora_dropout
    dropped = layer.training and isinstance(dropout, torch.nn.Dropout)
    if weight.is_floating_point() and not dropped:
        flat = x.to(weight.dtype).reshape(-1, x.shape[-1])
        y = LowRank.apply(flat, weight, layer.linear.bias, layer.lora_A, up, layer.scaling)
        return y.view(*x.shape[:-1], -1)
    low = F.linear(dropout(x), layer.lora_A.to(x.dtype))
    return layer.linear(x) + F.linear(low, up.to(x.dtype)) * layer.scaling


class QuickLinear(LoRALinear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.r == 0 or self.merged:
            return self.linear(x)
        return adapted(self, x, self.lora_B)


class QuickQKVLinear(LoRAQKVLinear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.r == 0 or not any(self.enable_lora) or self.merged:
            return self.linear(x)
        return adapted(self, x, joint_up(self))


def joint_up(layer: LoRAQKVLinear) -> torch.Tensor:
    """B of the enabled projections as one block-diagonal matrix, (q + k + v features, rank × enabled).

    Rows of a projection without LoRA are zero. litgpt runs a grouped convolution and an index copy instead.
    """
    sizes = [layer.head_size * n for n in (layer.n_head, layer.n_query_groups, layer.n_query_groups)]
    blocks = iter(layer.lora_B.split(layer.qkv_shapes))
    parts = zip(layer.enable_lora, sizes, strict=True)
    return torch.block_diag(*(next(blocks) if on else layer.lora_B.new_empty(size, 0) for on, size in parts))
