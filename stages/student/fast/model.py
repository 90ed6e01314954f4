"""litgpt's LoRA model made quick: the same mathematics in fewer passes over memory.

`Student.forward` returns a loss instead of logits, so that the output head runs on target tokens only and
data-parallel wrappers see one forward call. Against litgpt with the same rows: docs/guide/finetuning.md.
"""

from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from stages.student.fast.attention import Heads, Packed, ShortAttention, varlen_attention
from stages.student.fast.functions import HEAD_ELEMENTS, HeadLoss, LowRank, RMSNorm, SwiGLU, summed_nll
from stages.student.fast.prefixes import Prefixes
from stages.student.formats.litgpt import (
    LoRAAttention,
    LoRABlock,
    LoRAConfig,
    LoRAGPT,
    LoRALinear,
    LoRALlamaMLP,
    LoRANeoxMLP,
    LoRAQKVLinear,
)
from stages.student.formats.litgpt import RMSNorm as PlainRMSNorm
from stages.student.formats.lora import sizes_of, up_of

# Tokens that rows have of their own; up to here, on a CPU, batched matrix products beat the flash kernel:
# 85 ms against 143 (forward and back, 8 rows of 565 tokens, 9 heads of 64, two threads). With 1,024 tokens
# both take as long (125 and 143 ms; with 32 heads 651 and 616).
BMM_LENGTH = 1024


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


def adapted(layer: LoRALinear, x: torch.Tensor, parts: tuple[tuple[int, int], ...]) -> torch.Tensor:
    """The output (..., out) of a layer for x (..., in); `parts` as in LowRank.

    Dropout draws for the LoRA branch alone, and quantized weights are no matrix: these two take litgpt's way,
    but with one block-diagonal product in place of its grouped convolution and index copy.
    """
    weight, dropout = layer.linear.weight, layer.lora_dropout
    dropped = layer.training and isinstance(dropout, nn.Dropout)
    if weight.is_floating_point() and not dropped:
        flat = x.to(weight.dtype).reshape(-1, x.shape[-1])
        bias = layer.linear.bias
        y = LowRank.apply(flat, weight, bias, layer.lora_A, layer.lora_B, layer.scaling, parts)
        return y.view(*x.shape[:-1], -1)
    low = F.linear(dropout(x), layer.lora_A.to(x.dtype))
    return layer.linear(x) + F.linear(low, up_of(layer).to(x.dtype)) * layer.scaling


def quick_linear(
    config: LoRAConfig, inputs: int, outputs: int, *, adapt: bool, bias: bool | None = None
) -> QuickLinear:
    """A layer with LoRA if `adapt`; with a bias as the config says, unless `bias` does."""
    return QuickLinear(
        inputs,
        outputs,
        bias=config.bias if bias is None else bias,
        r=config.lora_r if adapt else 0,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
    )


class QuickAttention(LoRAAttention):
    def __init__(self, config: LoRAConfig, block_idx: int):
        super().__init__(config, block_idx)
        self.qkv = QuickQKVLinear(
            in_features=config.n_embd,
            out_features=(config.n_head + 2 * config.n_query_groups) * config.head_size,
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            enable_lora=(config.lora_query, config.lora_key, config.lora_value),
            bias=config.bias or config.attn_bias,
            head_size=config.head_size,
            n_head=config.n_head,
            n_query_groups=config.n_query_groups,
        )
        width = config.head_size * config.n_head
        self.proj = quick_linear(config, width, config.n_embd, adapt=config.lora_projection)

    def forward(self, x, cos, sin, mask=None, input_pos=None, input_pos_maxp1=None):
        """X (1, T, width), cos and sin (1, T, rotary) -> (1, T, width).

        `mask` is a Packed or Prefixes, which says what rows these tokens are; litgpt's last two arguments are
        unused.
        """
        if isinstance(mask, Prefixes):
            cos, sin = cos[0].to(x.dtype), sin[0].to(x.dtype)
            return self.proj(mask.attend(self.qkv(x)[0], cos, sin, self.heads)[None])
        if mask.own is None:
            return super().forward(x, cos, sin, mask)
        if not self.plain or x.device.type != "cpu" or mask.own.shape[1] > BMM_LENGTH:
            return self.row_by_row(x, cos, sin, mask.whole())
        cos, sin = cos[0].to(x.dtype), sin[0].to(x.dtype)
        return self.proj(ShortAttention.apply(self.qkv(x)[0], cos, sin, self.heads, mask)[None])

    def row_by_row(self, x: torch.Tensor, cos, sin, packed: Packed) -> torch.Tensor:
        """The same by litgpt's attention: rows are padded for it, and put end to end again."""
        y = super().forward(*(packed.rows(part[0]) for part in (x, cos, sin)))
        y = y.flatten(0, 1).index_select(0, packed.back)
        return F.pad(y, (0, 0, 0, x.shape[1] - len(y)))[None]

    @property
    def heads(self) -> Heads:
        config = self.config
        share = config.n_head // config.n_query_groups
        return Heads(config.n_query_groups, share, config.head_size, config.rope_n_elem, self.scale)

    @property
    def scale(self) -> float:
        return self.mscale**2 * (self.config.attention_scores_scalar or self.config.head_size) ** -0.5

    @property
    def plain(self) -> bool:
        """Whether attention is no more than rotary embedding and a softmax over all that came before."""
        config = self.config
        special = config.norm_qk or config.rope_interleave or config.attention_logit_softcapping
        return not special and not self.apply_sliding_window_attention

    def scaled_dot_product_attention(self, q, k, v, mask=None):
        if not isinstance(mask, Packed):
            return super().scaled_dot_product_attention(q, k, v, mask)
        return varlen_attention(q, k, v, mask, min(q.shape[2], self.config.block_size), self.scale)


class QuickLlamaMLP(LoRALlamaMLP):
    def __init__(self, config: LoRAConfig):
        super().__init__(config)
        width, inner, adapt = config.n_embd, config.intermediate_size, config.lora_mlp
        self.fc_1 = quick_linear(config, width, inner, adapt=adapt)
        self.fc_2 = quick_linear(config, width, inner, adapt=adapt)
        self.proj = quick_linear(config, inner, width, adapt=adapt)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(SwiGLU.apply(self.fc_1(x), self.fc_2(x)))


class QuickNeoxMLP(LoRANeoxMLP):
    def __init__(self, config: LoRAConfig):
        super().__init__(config)
        width, inner, adapt = config.n_embd, config.intermediate_size, config.lora_mlp
        self.fc = quick_linear(config, width, inner, adapt=adapt)
        self.proj = quick_linear(config, inner, width, adapt=adapt)


MLPS = {"LLaMAMLP": QuickLlamaMLP, "GptNeoxMLP": QuickNeoxMLP}  # by Config.mlp_class_name


class QuickBlock(LoRABlock):
    def __init__(self, config: LoRAConfig, block_idx: int):
        super().__init__(config, block_idx)
        self.attn = QuickAttention(config, block_idx)
        self.mlp = MLPS[config.mlp_class_name](config)

    def forward(self, x, cos, sin, dtype, packed: Packed | Prefixes, at: torch.Tensor | None = None):
        """X (1, T, width) with this block's additions, in x's dtype; products are made in `dtype`.

        With `at` (N,): only those tokens of the output, (N, width). The last block is called so: its MLP runs
        on the tokens that predict a target alone.
        """
        mixed = self.post_attention_norm(self.attn(normed(self.norm_1, x, dtype), cos, sin, packed))
        if at is not None:
            x, mixed = (part[0].index_select(0, at) for part in (x, mixed))
        after = x + mixed
        inner = x if self.config.parallel_residual else after
        return after + self.post_mlp_norm(self.mlp(normed(self.norm_2 or self.norm_1, inner, dtype)))


def normed(norm: nn.Module, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`norm(x)` in `dtype`."""
    if isinstance(norm, PlainRMSNorm) and not norm.add_unit_offset:
        return RMSNorm.apply(x, norm.weight, norm.eps, dtype)
    return norm(x).to(dtype)


class Student(LoRAGPT):
    """litgpt's GPT with LoRA, for training: same parameters, same names, same function.

    checkpointing: keep each block's input only and run it again for its gradient (1.9 GiB in place of 5.1,
    for 16 rows of about 140 tokens, the shape of SmolLM2-135M).
    """

    # Layers are replaced one for one, as litgpt's own LoRA classes do it: names and order stay, so that the
    # seeded start of the adapter does, too.

    def __init__(self, config: LoRAConfig):
        super().__init__(config)
        self.checkpointing = False
        self.lm_head = quick_linear(
            config,
            config.n_embd,
            config.padded_vocab_size,
            adapt=config.lora_head,
            bias=config.lm_head_bias,
        )
        self.transformer.h = nn.ModuleList(QuickBlock(config, place) for place in range(config.n_layer))

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

    def hidden(self, ids, at, dtype: torch.dtype, starts: torch.Tensor | None = None) -> torch.Tensor:
        """Final normalised hidden states (N, width) at the flattened positions `at`, in `dtype`."""
        return self.states(ids, at, dtype, self.layout(ids, dtype, starts))

    def states(self, ids, at, dtype: torch.dtype, packed: Packed | Prefixes) -> torch.Tensor:
        """The same of tokens that `packed` says the rows of."""
        cos, sin = self.cos[packed.position][None], self.sin[packed.position][None]
        x = self.transformer.wte(ids.view(1, -1))
        *blocks, last = self.transformer.h
        for block in blocks:
            x = self._run(block, x, cos, sin, dtype, packed)
        return normed(self.transformer.ln_f, self._run(last, x, cos, sin, dtype, packed, at), dtype)

    def layout(self, ids: torch.Tensor, dtype: torch.dtype, starts: torch.Tensor | None) -> Packed:
        """Where the rows of ids (B, T) lie; without `starts`, B rows of T tokens each, as memory has them."""
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
        return sum(checkpoint(self._piece, part, target, use_reentrant=False) for part, target in pieces)

    def _piece(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return summed_nll(self.lm_head(hidden), targets)
