"""litgpt's LoRA model made quick: the same mathematics in fewer passes over memory.

`Student.forward` returns a loss instead of logits, so that the output head runs on target tokens only and
data-parallel wrappers see one forward call.
"""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from stages.student.litgpt_import import LoRAAttention, LoRAConfig, LoRAGPT, LoRALinear, LoRAQKVLinear
from stages.student.loss import summed_nll

HEAD_ELEMENTS = 1 << 26  # logits kept for the backward pass (256 MiB); beyond this they are recomputed
BMM_LENGTH = 512  # up to here, on CPU, three matrix products beat the flash kernel


def _add_low_rank(base: torch.Tensor, low: torch.Tensor, up: torch.Tensor, scale: float) -> torch.Tensor:
    """`base + scale · low upᵀ` in one kernel, over any leading dimensions."""
    flat = torch.addmm(base.view(-1, base.shape[-1]), low.view(-1, low.shape[-1]), up.t(), alpha=scale)
    return flat.view(base.shape)


class QuickLinear(LoRALinear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        base = self.linear(x)
        if self.r == 0 or self.merged:
            return base
        return _add_low_rank(base, F.linear(self.lora_dropout(x), self.lora_A), self.lora_B, self.scaling)


class QuickQKVLinear(LoRAQKVLinear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
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


QUICK = {LoRALinear: QuickLinear, LoRAQKVLinear: QuickQKVLinear, LoRAAttention: QuickAttention}


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
        hidden = self.hidden(ids).flatten(0, 1).index_select(0, at)
        if targets is None:
            return self.lm_head(hidden)
        rows = max(1, HEAD_ELEMENTS // self.config.padded_vocab_size)
        if len(hidden) <= rows:
            return self.nll(hidden, targets)
        pieces = zip(hidden.split(rows), targets.split(rows), strict=True)
        return sum(checkpoint(self.nll, part, wanted, use_reentrant=False) for part, wanted in pieces)

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """Final normalised hidden states (B, T, width)."""
        length = ids.size(1)
        cos, sin = self.cos[:length].unsqueeze(0), self.sin[:length].unsqueeze(0)
        x = self.transformer.wte(ids)
        for block in self.transformer.h:
            x = block(x, cos, sin)
        return self.transformer.ln_f(x)

    def nll(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return summed_nll(self.lm_head(hidden), targets)
