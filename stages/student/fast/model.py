"""litgpt's LoRA model made quick: the same mathematics in fewer passes over memory.

`Student.forward` returns a loss instead of logits, so that the output head runs on target tokens only and
data-parallel wrappers see one forward call.
"""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from stages.student.fast.attention import Heads, Packed, ShortAttention, varlen_attention
from stages.student.fast.loss import HEAD_ELEMENTS, HeadLoss, summed_nll
from stages.student.fast.lowrank import QuickLinear, QuickQKVLinear
from stages.student.fast.pointwise import RMSNorm, SwiGLU
from stages.student.formats.litgpt import (
    LoRAAttention,
    LoRABlock,
    LoRAConfig,
    LoRAGPT,
    LoRALinear,
    LoRAMLP,
    LoRAQKVLinear,
)
from stages.student.formats.litgpt import RMSNorm as PlainRMSNorm

BMM_LENGTH = 1024  # own tokens of a row; up to here, on a CPU, batched matrix products beat the flash kernel


class QuickAttention(LoRAAttention):
    attend = staticmethod(ShortAttention.apply)

    def forward(self, x, cos, sin, mask=None, input_pos=None, input_pos_maxp1=None):
        """Attention of (1, T, width), the rows that `mask`, a Packed, tells of. cos, sin: (1, T, rotary)."""
        if mask.own is None:
            return super().forward(x, cos, sin, mask)
        if not self.plain or x.device.type != "cpu" or mask.own.shape[1] > BMM_LENGTH:
            return self.row_by_row(x, cos, sin, mask.whole())
        config = self.config
        share = config.n_head // config.n_query_groups
        heads = Heads(config.n_query_groups, share, config.head_size, config.rope_n_elem, self.scale)
        cos, sin = cos[0].to(x.dtype), sin[0].to(x.dtype)
        return self.proj(self.attend(self.qkv(x)[0], cos, sin, heads, mask)[None])

    def row_by_row(self, x: torch.Tensor, cos, sin, packed: Packed) -> torch.Tensor:
        """litgpt's attention, of rows that are padded for it."""
        y = super().forward(*(packed.rows(part[0]) for part in (x, cos, sin)))
        y = y.flatten(0, 1).index_select(0, packed.back)
        return F.pad(y, (0, 0, 0, x.shape[1] - len(y)))[None]

    @property
    def scale(self) -> float:
        return self.mscale**2 * (self.config.attention_scores_scalar or self.config.head_size) ** -0.5

    @property
    def plain(self) -> bool:
        config = self.config
        special = config.norm_qk or config.rope_interleave or config.attention_logit_softcapping
        return not special and not self.apply_sliding_window_attention

    def scaled_dot_product_attention(self, q, k, v, mask=None):
        if not isinstance(mask, Packed):
            return super().scaled_dot_product_attention(q, k, v, mask)
        return varlen_attention(q, k, v, mask, min(q.shape[2], self.config.block_size), self.scale)


class QuickMLP(LoRAMLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(SwiGLU.apply(self.fc_1(x), self.fc_2(x)))


class QuickBlock(LoRABlock):
    def forward(self, x, cos, sin, dtype, packed: Packed, at: torch.Tensor | None = None):
        """x (1, T, width) with this block's additions, in x's dtype; products are made in `dtype`.

        With `at` (N,): only those tokens of the output, (N, width). The MLP runs on them alone.
        """
        mixed = self.post_attention_norm(self.attn(normed(self.norm_1, x, dtype), cos, sin, packed))
        if at is not None:
            x, mixed = (part[0].index_select(0, at) for part in (x, mixed))
        after = x + mixed
        inner = x if self.config.parallel_residual else after
        return after + self.post_mlp_norm(self.mlp(normed(self.norm_2 or self.norm_1, inner, dtype)))


def normed(norm: torch.nn.Module, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if isinstance(norm, PlainRMSNorm) and not norm.add_unit_offset:
        return RMSNorm.apply(x, norm.weight, norm.eps, dtype)
    return norm(x).to(dtype)


QUICK = {
    LoRALinear: QuickLinear,
    LoRAQKVLinear: QuickQKVLinear,
    LoRAAttention: QuickAttention,
    LoRAMLP: QuickMLP,
    LoRABlock: QuickBlock,
}


class Student(LoRAGPT):
    """litgpt's GPT with LoRA, for training: same parameters, same names, same function.

    checkpointing: keep each block's input only and run it again for its gradient.
    """

    def __init__(self, config: LoRAConfig):
        super().__init__(config)
        self.checkpointing = False
        for module in self.modules():
            module.__class__ = QUICK.get(type(module), type(module))

    def forward(
        self,
        ids: torch.Tensor,
        at: torch.Tensor,
        targets: torch.Tensor | None = None,
        starts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Summed negative log likelihood of `targets` (float32 scalar), or logits where there are none.

        ids: (B, T) token ids, right-padded with anything: attention is causal, padding never a target.
        at: (N,) positions in the flattened (B·T) hidden states that predict `targets` (N,); -100 is ignored.
        starts: int32, where ids (1, T) are several rows end to end, as TokenRows.batch makes them.
        Under autocast the products are in its format; what is between the blocks stays as the embedding is.
        """
        device = ids.device.type
        mixed = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if mixed else self.transformer.wte.weight.dtype
        with torch.autocast(device, enabled=False):
            hidden = self.hidden(ids, at, dtype, starts)
            return self.lm_head(hidden) if targets is None else self.nll(hidden, targets)

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Run the blocks through torch.compile, once for all lengths.

        Without the attention of short rows: compiled for any length, it is several times slower.
        """
        for block in self.transformer.h:
            block.attn.attend = torch.compiler.disable(ShortAttention.apply)
            block.compile(dynamic=True, backend=backend)

    def hidden(self, ids, at, dtype: torch.dtype, starts: torch.Tensor | None = None) -> torch.Tensor:
        """Final normalised hidden states (N, width) at the flattened positions `at`, in `dtype`."""
        packed = self.layout(ids, dtype, starts)
        cos, sin = self.cos[packed.position][None], self.sin[packed.position][None]
        x = self.transformer.wte(ids.view(1, -1))
        *blocks, last = self.transformer.h
        for block in blocks:
            x = self._run(block, x, cos, sin, dtype, packed)
        return normed(self.transformer.ln_f, self._run(last, x, cos, sin, dtype, packed, at), dtype)

    def layout(self, ids: torch.Tensor, dtype: torch.dtype, starts: torch.Tensor | None) -> Packed:
        """Rows end to end; those of a rectangle are, as it lies in memory."""
        config, length = self.config, ids.numel()
        special = config.sliding_window_size is not None or config.attention_logit_softcapping is not None
        kernel = starts is not None and ids.is_cuda and dtype != torch.float32 and not special
        if starts is None:
            starts = torch.arange(0, length + 1, ids.shape[1], device=ids.device)
            starts = torch.cat([starts, starts[-1:]])
        return Packed.of(starts, length, by_row=not kernel)

    def _run(self, block: QuickBlock, *inputs) -> torch.Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def nll(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The summed loss; no more than HEAD_ELEMENTS logits, or their gradients, exist at a time."""
        head = self.lm_head
        if head.r == 0:
            return HeadLoss.apply(hidden, head.linear.weight, head.linear.bias, targets)
        rows = max(1, HEAD_ELEMENTS // self.config.padded_vocab_size)
        if len(hidden) <= rows:
            return self._piece(hidden, targets)
        pieces = zip(hidden.split(rows), targets.split(rows), strict=True)
        return sum(checkpoint(self._piece, part, wanted, use_reentrant=False) for part, wanted in pieces)

    def _piece(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return summed_nll(self.lm_head(hidden), targets)
