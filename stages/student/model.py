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
BMM_LENGTH = 512  # up to here, on CPU, three matrix products beat the flash kernel


def _add_low_rank(base: torch.Tensor, low: torch.Tensor, up: torch.Tensor, scale: float) -> torch.Tensor:
    """`base + scale · low upᵀ` in one kernel, over any leading dimensions."""
    flat = torch.addmm(base.view(-1, base.shape[-1]), low.view(-1, low.shape[-1]), up.t(), alpha=scale)
    return flat.view(base.shape)


def _as_weight(x: torch.Tensor, layer: torch.nn.Linear) -> torch.Tensor:
    """`x` in the weight's dtype: autocast would cast it once for the weight and once more for A."""
    return x.to(layer.weight.dtype) if layer.weight.is_floating_point() else x


class QuickLinear(LoRALinear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = _as_weight(x, self.linear)
        base = self.linear(x)
        if self.r == 0 or self.merged:
            return base
        return _add_low_rank(base, F.linear(self.lora_dropout(x), self.lora_A), self.lora_B, self.scaling)


class QuickQKVLinear(LoRAQKVLinear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = _as_weight(x, self.linear)
        base = self.linear(x)
        if self.r == 0 or not any(self.enable_lora) or self.merged:
            return base
        low = F.linear(self.lora_dropout(x), self.lora_A)
        return _add_low_rank(base, low, joint_up(self), self.scaling)


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
        if not plain or q.device.type != "cpu" or length > BMM_LENGTH:
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
