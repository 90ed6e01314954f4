"""A small base model from nothing but a dataset's training documents: tokenizer, initialisation, pretraining.

Two kinds of rows, both self-supervised: documents as they are, and recall rows, a document followed by spans
copied out of it, one a line, then EOS. Recall teaches what a query writer needs most: to find a phrase in the
context, copy it, begin another one, and stop. No teacher answer and no held-out document is seen.
"""

import math
import re
from pathlib import Path

import numpy as np
import torch

from stages.core.hashing import stable_integer
from stages.core.progress import Progress

EOS = "<|endoftext|>"
POOL = 8
SHAPE_STEP = 32
SAVE_EVERY = 500  # steps
STOP_ENDS = set(
    "a an the of to in on at by for from with and or is are be as if that this it its which when".split()
)


def train_tokenizer(texts: list[str], vocabulary: int):
    """A byte-level BPE that lowercases, and in which a word has the same tokens wherever it stands.

    Lines and the parts of dotted names begin with a space, so that copying a word is copying its tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\.(?=\w)"), " . "),
            normalizers.Replace(Regex(r"\n"), "\n "),
            normalizers.Replace(Regex(r"(?<=[(\[{/'\"=,-])(?=\w)"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    # what the normalizer parted comes together again
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteLevel(),
            decoders.Strip(" ", 1, 0),
            decoders.Replace("\n ", "\n"),
            decoders.Replace(Regex(r"(?<=\w) \. (?=\w)"), "."),
            decoders.Replace(Regex(r"(?<=[(\[{/\"=]|\w[-']) (?=\w)"), ""),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def copy_init(model, seed: int) -> None:
    """Write down induction heads (Olsson et al. 2022) instead of waiting for them; trains on nothing.

    Two heads of layer 0 attend to the previous token through query/key biases and rotary phases alone, and
    write a random subspace A of its embedding into another subspace B. Two heads of layer 1 match A of the
    current token against B of earlier positions ("what followed an earlier copy of me") in the dimensions
    that rotary embedding leaves alone, and copy the token found there. Expects a litgpt GPT with LayerNorm,
    attention biases, partial rotary embedding and sequential residuals.
    """
    config = model.config
    width, head, rotary = config.n_embd, config.head_size, config.rope_n_elem
    free, half, heads = head - rotary, rotary // 2, config.n_head
    std, generator = 0.08, torch.Generator().manual_seed(seed)
    bases = torch.linalg.qr(torch.randn(width, width, generator=generator))[0].T
    frequencies = 1.0 / config.rope_base ** (torch.arange(half) * 2 / rotary)
    with torch.no_grad():
        model.transformer.wte.weight.normal_(0.0, std, generator=generator)
        for block in model.transformer.h:
            block.attn.qkv.weight[: 2 * width].mul_(0.1)
            block.mlp.proj.weight.mul_(0.3)
        previous, induction = model.transformer.h[0].attn, model.transformer.h[1].attn
        amplitude = torch.full((half,), 6.0)
        amplitude[0] = 12.0
        for index in range(2):
            a, b = bases[index * free : (index + 1) * free], bases[(2 + index) * free : (3 + index) * free]
            c = bases[index * head : (index + 1) * head]
            rows = slice(index * head, (index + 1) * head)
            query, key, value = (
                slice(rows.start + part * width, rows.stop + part * width) for part in range(3)
            )
            for part in (query, key, value):
                for attention in (previous, induction):
                    attention.qkv.weight[part] = 0.0
                    attention.qkv.bias[part] = 0.0
            previous.qkv.bias[key][:half] = amplitude
            previous.qkv.bias[query][:half] = amplitude * torch.cos(frequencies)
            previous.qkv.bias[query][half:rotary] = -amplitude * torch.sin(frequencies)
            previous.qkv.weight[value][:free] = a
            previous.proj.weight[:, rows] = 0.0
            previous.proj.weight[:, rows][:, :free] = std * b.T
            induction.qkv.weight[query][rotary:] = math.sqrt(3.0) * a
            induction.qkv.weight[key][rotary:] = math.sqrt(3.0) * b
            induction.qkv.weight[value] = c
            induction.proj.weight[:, rows] = 4.0 * std * c.T
        assert heads >= 2


def span_lines(words: list[str], rng: np.random.Generator, lines: int) -> list[str]:
    """Up to `lines` distinct spans of two to eight words that neither begin nor end with a function word."""
    found: list[str] = []
    for _ in range(lines * 4):
        length = int(rng.integers(2, 9))
        start = int(rng.integers(0, max(1, len(words) - length)))
        span = [word.strip(".,;:()[]{}'\"") for word in words[start : start + length]]
        while span and (not span[-1] or span[-1].lower() in STOP_ENDS):
            span.pop()
        while span and (not span[0] or span[0].lower() in STOP_ENDS):
            span.pop(0)
        line = " ".join(word for word in span if word)
        if len(span) >= 2 and line.lower() not in (other.lower() for other in found):
            found.append(line)
        if len(found) == lines:
            break
    return found


def recall_text(document: dict, rng: np.random.Generator, prompt_words: int) -> tuple[str, str]:
    """A document's beginning (or a later part of it), and spans of it as an answer."""
    words = document["text"].split()
    start = 0 if rng.random() < 0.6 or len(words) < 40 else int(rng.integers(0, len(words) - 30))
    window = words[start : start + prompt_words]
    lines = span_lines(window, rng, int(rng.integers(3, 8)))
    name = re.sub(r"[._]+", " ", document["title"])
    if rng.random() < 0.5:
        lines.insert(0, name)
    return f"{document['title']}\n{' '.join(window)}\nqueries:", "\n".join(lines)


class Rows:
    """Batches for step after step; the batch of a step depends on the seed and the step alone."""

    def __init__(
        self, documents: list[dict], tokenizer, length: int, batch: int, recall_share: float, seed: int
    ):
        self.documents, self.tokenizer = documents, tokenizer
        self.length, self.batch, self.recall_share, self.seed = length, batch, recall_share, seed
        self.eos = tokenizer.token_to_id(EOS)
        self.pages = [
            np.array([*encoding.ids, self.eos], dtype=np.int64)
            for encoding in tokenizer.encode_batch([f"{d['title']}\n{d['text']}" for d in documents])
        ]

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and labels (-100 where nothing is predicted), both (batch, longest row).

        Eight batches are drawn at a time and sorted by length, so that little is padding.
        """
        pool, place = divmod(step, POOL)
        rng = np.random.default_rng(stable_integer("scratch", self.seed, pool))
        rows = sorted((self._row(rng) for _ in range(POOL * self.batch)), key=len)
        first = int(rng.permutation(POOL)[place]) * self.batch
        rows = rows[first : first + self.batch]
        # few distinct shapes: the CPU kernels keep memory for each one they meet
        longest = -(-(max(map(len, rows)) - 1) // SHAPE_STEP) * SHAPE_STEP + 1
        ids = np.full((self.batch, longest), self.eos, dtype=np.int64)
        labels = np.full_like(ids, -100)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            labels[index, : len(row)] = row
        return torch.from_numpy(ids[:, :-1]), torch.from_numpy(labels[:, 1:])

    def _row(self, rng: np.random.Generator) -> np.ndarray:
        if rng.random() < self.recall_share:
            return self._recall(rng)
        page = self.pages[int(rng.integers(len(self.pages)))]
        start = int(rng.integers(0, max(1, len(page) - self.length)))
        return page[start : start + self.length + 1]

    def _recall(self, rng: np.random.Generator) -> np.ndarray:
        document = self.documents[int(rng.integers(len(self.documents)))]
        prompt, answer = recall_text(document, rng, int(rng.integers(60, 101)))
        prompt_ids = self.tokenizer.encode(prompt).ids
        answer_ids = [*self.tokenizer.encode(answer).ids, self.eos]
        room = self.length + 1 - len(answer_ids)
        return np.array([*prompt_ids[:room], *answer_ids] if room > 0 else answer_ids, dtype=np.int64)


def new_model(vocabulary: int, layers: int, width: int, heads: int, context: int, seed: int):
    """A GPT-NeoX shaped litgpt model (sequential residuals, tied embeddings), copy-ready."""
    from stages.student.formats.litgpt import GPT, Config

    config = Config(
        name="scratch",
        hf_config={},
        block_size=context,
        vocab_size=vocabulary,
        padded_vocab_size=vocabulary,
        n_layer=layers,
        n_head=heads,
        n_embd=width,
        intermediate_size=4 * width,
        rotary_percentage=0.25,
        parallel_residual=False,
        bias=True,
        attn_bias=True,
    )
    torch.manual_seed(seed)
    model = GPT(config)
    model.apply(model._init_weights)
    model.lm_head.weight = model.transformer.wte.weight
    copy_init(model, seed)
    return model


def hidden_states(model, ids: torch.Tensor) -> torch.Tensor:
    """The final hidden states (batch, length, width) of a litgpt GPT, by batched products for attention.

    On a CPU, short sequences in bfloat16 run three times faster through `bmm` than through the fused kernel.
    """
    length, config = ids.shape[1], model.config
    cos, sin = model.cos[:length].unsqueeze(0), model.sin[:length].unsqueeze(0)
    x = model.transformer.wte(ids)
    future = torch.full((length, length), float("-inf"), dtype=torch.bfloat16).triu(1)

    def attention(q, k, v, mask=None):
        q, k, v = (part.to(torch.bfloat16).flatten(0, 1) for part in (q, k, v))
        scores = torch.baddbmm(
            future.expand(len(q), -1, -1), q, k.transpose(1, 2), alpha=config.head_size**-0.5
        )
        mixed = torch.bmm(torch.softmax(scores, -1), v)
        return mixed.unflatten(0, (ids.shape[0], config.n_head)).transpose(1, 2)

    for block in model.transformer.h:
        block.attn.scaled_dot_product_attention = attention
        x = block(x, cos, sin)
        del block.attn.scaled_dot_product_attention
    return model.transformer.ln_f(x)


def pretrain(model, rows: Rows, steps: int, lr: float, state_path: Path) -> list[dict]:
    """AdamW with warmup and cosine decay; returns the loss curve. Goes on from `state_path` if it exists."""
    from stages.core.files import atomic_path

    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=lr,
        betas=(0.9, 0.95),
        fused=True,
    )
    first, curve = 0, []
    if state_path.is_file():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, curve = state["step"], state["curve"]
    warmup = min(200, max(1, steps // 10))
    with Progress(steps, "pretrain", "step", done=first) as shown:
        for step in range(first, steps):
            rate = (
                lr
                * min(1.0, (step + 1) / warmup)
                * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            ids, labels = rows(step)
            targets = labels.flatten()
            with torch.autocast("cpu", torch.bfloat16):
                logits = model.lm_head(hidden_states(model, ids).flatten(0, 1))
            loss = torch.nn.functional.cross_entropy(logits.float(), targets, ignore_index=-100)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if (step + 1) % 20 == 0 or step + 1 == steps:
                curve.append({"step": step + 1, "loss": round(loss.item(), 4)})
            if (step + 1) % SAVE_EVERY == 0:
                with atomic_path(state_path) as temporary:
                    state = {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "step": step + 1,
                        "curve": curve,
                    }
                    torch.save(state, temporary)
            shown.update(note=f"loss {loss.item():.3f}")
    return curve


@torch.no_grad()
def copy_accuracy(model, batches: int = 4) -> float:
    """Top-1 accuracy on the second of two copies of 64 random tokens: copying, with nothing else to go by."""
    generator = torch.Generator().manual_seed(0)
    right = []
    for _ in range(batches):
        once = torch.randint(1, model.config.vocab_size, (8, 64), generator=generator)
        ids = torch.cat([once, once], dim=1)
        right.append((model(ids)[:, 64:-1].argmax(-1) == ids[:, 65:]).float().mean().item())
    return sum(right) / batches


def training_documents(documents: list[dict]) -> list[dict]:
    """The documents that pretraining may see."""
    return [document for document in documents if document["split"] == "train" and document["text"].strip()]


def write_hf(target: Path, model, tokenizer) -> None:
    """The model as a Hugging Face directory, float32, tied embeddings."""
    from transformers import PreTrainedTokenizerFast

    from stages.student.formats import to_hf as export

    eos = tokenizer.token_to_id(EOS)
    target.mkdir(parents=True, exist_ok=True)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, clean_up_tokenization_spaces=False
    )
    fast.save_pretrained(target)
    config = export.neox_config(model.config, tied=True, eos_id=eos)
    state = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    export.write_hf(target, state, config, model.config, companions=None)
