"""Linear layers with LoRA (arXiv 2106.09685) in as few passes over memory as PyTorch's own kernels allow."""

from itertools import accumulate

import torch
import torch.nn.functional as F

from stages.student.formats.litgpt import LoRALinear, LoRAQKVLinear


class LowRank(torch.autograd.Function):
    """`x Wᵀ + b + scale · (x Aᵀ) Bᵀ` for frozen W and b, adding in place where autograd would copy and add.

    x (N, in) and weight (out, in) of one dtype, in which all products are made; a and b of any, in which
    their gradients are returned. parts: the outputs from … to of every projection that the layer makes with
    LoRA; a has r rows for each, one below the other, b (their outputs, r) a row for each of those.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale, parts):
        ctx.scale, ctx.dtype, ctx.parts = scale, a.dtype, parts
        a, b = a.to(x.dtype), b.to(x.dtype)
        low = x @ a.t()
        ctx.save_for_backward(x, weight, a, b, low)
        y = x @ weight.t() if bias is None else torch.addmm(bias.to(x.dtype), x, weight.t())
        for out, up, its in zip(*of_each(parts, y, b), low.chunk(len(parts), 1), strict=True):
            out.addmm_(its, up.t(), alpha=scale)
        return y

    @staticmethod
    def backward(ctx, grad):
        x, weight, a, b, low = ctx.saved_tensors
        grad = grad.contiguous()
        grads, ups = of_each(ctx.parts, grad, b)
        lows = low.chunk(len(ctx.parts), 1)
        grad_low = torch.cat([part @ up for part, up in zip(grads, ups, strict=True)], 1).mul_(ctx.scale)
        grad_b = torch.cat([(its.t() @ part).t() for its, part in zip(lows, grads, strict=True)])
        grad_x = (grad @ weight).addmm_(grad_low, a) if ctx.needs_input_grad[0] else None
        grad_a, grad_b = (grad_low.t() @ x).to(ctx.dtype), grad_b.to(ctx.dtype).mul_(ctx.scale)
        return grad_x, None, None, grad_a, grad_b, None, None


def of_each(parts: tuple, y: torch.Tensor, b: torch.Tensor) -> tuple[list[torch.Tensor], ...]:
    """What of y (N, out) and of b each projection has."""
    return [y[:, start:end] for start, end in parts], b.split([end - start for start, end in parts])


def adapted(layer: LoRALinear, x: torch.Tensor, parts: tuple) -> torch.Tensor:
    """The layer's output. Dropout and quantized weights take the plain way."""
    weight, dropout = layer.linear.weight, layer.lora_dropout
    dropped = layer.training and isinstance(dropout, torch.nn.Dropout)
    if weight.is_floating_point() and not dropped:
        flat = x.to(weight.dtype).reshape(-1, x.shape[-1])
        bias = layer.linear.bias
        y = LowRank.apply(flat, weight, bias, layer.lora_A, layer.lora_B, layer.scaling, parts)
        return y.view(*x.shape[:-1], -1)
    low = F.linear(dropout(x), layer.lora_A.to(x.dtype))
    return layer.linear(x) + F.linear(low, up_of(layer).to(x.dtype)) * layer.scaling


class QuickLinear(LoRALinear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.r == 0 or self.merged:
            return self.linear(x)
        return adapted(self, x, ((0, len(self.lora_B)),))


class QuickQKVLinear(LoRAQKVLinear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.r == 0 or not any(self.enable_lora) or self.merged:
            return self.linear(x)
        ends = list(accumulate(sizes_of(self)))
        parts = zip([0, *ends], ends, self.enable_lora, strict=False)
        return adapted(self, x, tuple((start, end) for start, end, on in parts if on))


def sizes_of(layer: LoRAQKVLinear) -> list[int]:
    """Outputs of query, key and value."""
    return [layer.head_size * n for n in (layer.n_head, layer.n_query_groups, layer.n_query_groups)]


def up_of(layer: LoRALinear) -> torch.Tensor:
    """B as one matrix (out, all ranks): of several projections, a block-diagonal one.

    Rows of a projection without LoRA are zero. litgpt runs a grouped convolution and an index copy instead.
    """
    if not isinstance(layer, LoRAQKVLinear):
        return layer.lora_B
    blocks = iter(layer.lora_B.split(layer.qkv_shapes))
    parts = zip(layer.enable_lora, sizes_of(layer), strict=True)
    return torch.block_diag(*(next(blocks) if on else layer.lora_B.new_empty(size, 0) for on, size in parts))
