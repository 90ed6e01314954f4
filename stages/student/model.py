"""litgpt's LoRA model made quick: the same mathematics in fewer passes over memory.

`Student.forward` returns a loss instead of logits, so that the output head runs on target tokens only and
data-parallel wrappers see one forward call.
"""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from stages.student.litgpt_import import (
    LoRAAttention,
    LoRABlock,
    LoRAConfig,
    LoRAGPT,
    LoRALinear,
    LoRAQKVLinear,
)
from stages.student.loss import summed_nll

HEAD_ELEMENTS = 1 << 26  # logits kept for the backward pass (256 MiB); beyond this they are recomputed
BMM_LENGTH = 512  # up to here, in bfloat16 on CPU, matrix products beat the flash kernel


class LowRankLinear(torch.autograd.Function):
    """`x Wᵀ + b + scale · (x Aᵀ) Bᵀ` for frozen W and b, adding in place where autograd would copy and add.

    x (N, in), weight (out, in), a (r, in), b (out, r), all of one dtype.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale):
        low = x @ a.t()
        ctx.save_for_backward(x, weight, a, b, low)
        ctx.scale = scale
        y = x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())
        return y.addmm_(low, b.t(), alpha=scale)

    @staticmethod
    def backward(ctx, grad):
        x, weight, a, b, low = ctx.saved_tensors
        grad = grad.contiguous()
        grad_low = (grad @ b).mul_(ctx.scale)
        grad_b = (grad.t() @ low).mul_(ctx.scale)
        grad_x = (grad @ weight).addmm_(grad_low, a) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, grad_low.t() @ x, grad_b, None


def _adapted(layer: LoRALinear, x: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The layer's output with `up` for B. Dropout and quantized weights take the plain way."""
    weight, bias = layer.linear.weight, layer.linear.bias
    if not weight.is_floating_point():
        return layer.linear(x) + F.linear(F.linear(layer.lora_dropout(x), layer.lora_A), up) * layer.scaling
    x = x.to(weight.dtype)  # autocast would cast it once for the weight and once more for A
    if layer.training and isinstance(layer.lora_dropout, torch.nn.Dropout):
        low = F.linear(layer.lora_dropout(x), layer.lora_A.to(x.dtype))
        return layer.linear(x) + F.linear(low, up.to(x.dtype)) * layer.scaling
    with torch.autocast(x.device.type, enabled=False):
        bias = bias if bias is None else bias.to(x.dtype)
        a, b = layer.lora_A.to(x.dtype), up.to(x.dtype)
        y = LowRankLinear.apply(x.reshape(-1, x.shape[-1]), weight, bias, a, b, layer.scaling)
    return y.view(*x.shape[:-1], -1)


class QuickLinear(LoRALinear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.r == 0 or self.merged:
            return self.linear(x)
        return _adapted(self, x, self.lora_B)


class QuickQKVLinear(LoRAQKVLinear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.r == 0 or not any(self.enable_lora) or self.merged:
            return self.linear(x)
        return _adapted(self, x, joint_up(self))


def joint_up(layer: LoRAQKVLinear) -> torch.Tensor:
    """B of the enabled projections as one block-diagonal matrix, (q + k + v features, rank × enabled).

    Rows of a projection without LoRA are zero. litgpt runs a grouped convolution and an index copy instead.
    """
    sizes = [layer.head_size * n for n in (layer.n_head, layer.n_query_groups, layer.n_query_groups)]
    blocks = iter(layer.lora_B.split(layer.qkv_shapes))
    parts = zip(layer.enable_lora, sizes, strict=True)
    return torch.block_diag(*(next(blocks) if on else layer.lora_B.new_empty(size, 0) for on, size in parts))


class QuickAttention(LoRAAttention):
    def scaled_dot_product_attention(self, q, k, v, mask=None):
        batch, heads, length, size = q.shape
        plain = mask is None and self.config.attention_logit_softcapping is None and self.mscale == 1.0
        if not plain or q.device.type != "cpu" or q.dtype != torch.bfloat16 or length > BMM_LENGTH:
            return super().scaled_dot_product_attention(q, k, v, mask)
        flat = (batch * heads, length, size)
        scale = (self.config.attention_scores_scalar or size) ** -0.5
        future = torch.full((length, length), float("-inf"), dtype=q.dtype).triu(1)
        scores = torch.baddbmm(future, q.reshape(flat), k.reshape(flat).transpose(1, 2), alpha=scale)
        mixed = scores.softmax(-1).to(v.dtype) @ v.reshape(flat)
        return mixed.view(batch, heads, length, size).transpose(1, 2)


class QuickBlock(LoRABlock):
    def forward(self, x, cos, sin, mask=None, input_pos=None, input_pos_maxp1=None, at=None):
        """With `at` (N,): only those rows of the flattened output, (N, width). The MLP runs on them alone."""
        if at is None:
            return super().forward(x, cos, sin, mask, input_pos, input_pos_maxp1)
        mixed = self.post_attention_norm(self.attn(self.norm_1(x), cos, sin))
        before, mixed = (part.flatten(0, 1).index_select(0, at) for part in (x, mixed))
        after = before + mixed
        narrowed = self.norm_2(before if self.config.parallel_residual else after)
        return self.post_mlp_norm(self.mlp(narrowed)) + after


QUICK = {
    LoRALinear: QuickLinear,
    LoRAQKVLinear: QuickQKVLinear,
    LoRAAttention: QuickAttention,
    LoRABlock: QuickBlock,
}


class Student(LoRAGPT):
    """litgpt's GPT with LoRA, for training: same parameters, same names, same function."""

    def __init__(self, config: LoRAConfig):
        super().__init__(config)
        for module in self.modules():
            module.__class__ = QUICK.get(type(module), type(module))

    def forward(
        self, ids: torch.Tensor, at: torch.Tensor, targets: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Summed negative log likelihood of `targets` (float32 scalar), or logits where there are none.

        ids: (B, T) token ids, right-padded with anything: attention is causal, padding never a target.
        at: (N,) positions in the flattened (B·T) hidden states that predict `targets` (N,); -100 is ignored.
        """
        hidden = self.hidden(ids, at)
        if targets is None:
            return self.lm_head(hidden)
        rows = max(1, HEAD_ELEMENTS // self.config.padded_vocab_size)
        if len(hidden) <= rows:
            return self.nll(hidden, targets)
        pieces = zip(hidden.split(rows), targets.split(rows), strict=True)
        return sum(checkpoint(self.nll, part, wanted, use_reentrant=False) for part, wanted in pieces)

    def hidden(self, ids: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Final normalised hidden states (N, width) at the flattened positions `at`."""
        length = ids.size(1)
        cos, sin = self.cos[:length].unsqueeze(0), self.sin[:length].unsqueeze(0)
        x = self.transformer.wte(ids)
        *blocks, last = self.transformer.h
        for block in blocks:
            x = block(x, cos, sin)
        return self.transformer.ln_f(last(x, cos, sin, at=at))

    def nll(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return summed_nll(self.lm_head(hidden), targets)
