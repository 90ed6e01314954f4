"""The texts of a training as tokens, and a step's forward and backward pass over the distinct ones.

A text that comes in many groups of a step is encoded once. The texts of a step are sorted by length and cut
into parts, so that next to nothing is padding; several processes share the parts. The loss is computed from
all vectors on every process, and each sends the gradients of its own vectors back through the model. So any
number of processes, and any size of the parts, gives the gradient of the whole batch. With `sub_batch` no
graph is kept between the two passes: GradCache (Gao et al. 2021).
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from stages.student.data import micro_batches
from stages.student.formats.litgpt import Fabric

PART = 32  # texts of a forward pass where memory sets no limit
BLOCK = 256  # texts that are tokenised at once


def prepare(model: torch.nn.Module, checkpoint: bool = False) -> None:
    """Make a step the same on any number of devices and in any parts: without dropout.

    Attention then takes its fast path, too. `checkpoint`: gradient checkpointing.
    """
    model.train(checkpoint)  # transformers looks at the mode for both
    if checkpoint:
        model.gradient_checkpointing_enable()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


class Texts:
    """Distinct texts, each under a number, and their tokens, as the model itself makes them.

    model: of sentence-transformers. A text is a string; of a cross-encoder, a pair of strings.
    """

    def __init__(self, model):
        self.model = model
        self.padding = {"input_ids": (model.tokenizer and model.tokenizer.pad_token_id) or 0}
        self.numbers: dict[tuple, int] = {}
        self.features_of: list[dict[str, np.ndarray]] = []  # of each text: its ids, its attention mask, …
        self.cut = 0  # texts that were longer than their limit

    def add(self, texts: Sequence, limit: int, prompt: str = "") -> list[int]:
        """The numbers of `texts` behind `prompt`, `limit` tokens of each; new ones are tokenised."""
        new = [text for text in dict.fromkeys(texts) if (prompt, text, limit) not in self.numbers]
        for start in range(0, len(new), BLOCK):
            block = new[start : start + BLOCK]
            made = self.model.preprocess(block, prompt=prompt or None, max_length=limit)
            self.cut += sum(bool(encoding.overflowing) for encoding in getattr(made, "encodings", None) or [])
            real = made["attention_mask"].bool()
            by_token = {
                name: value.numpy()
                for name, value in made.items()
                if isinstance(value, torch.Tensor) and value.shape == real.shape
            }
            for place, text in enumerate(block):
                self.numbers[prompt, text, limit] = len(self.features_of)
                kept = real[place].numpy()
                row = {name: value[place][kept].astype(np.int32) for name, value in by_token.items()}
                self.features_of.append(row)
        return [self.numbers[prompt, text, limit] for text in texts]

    def length(self, number: int) -> int:
        return len(self.features_of[number]["input_ids"])

    def by_length(self, numbers: np.ndarray) -> np.ndarray:
        """The distinct ones of `numbers`, shortest first, those of one length as they come.

        Not by number, which depends on what steps before this one have seen: a continued run would add in
        another order.
        """
        return np.array(sorted(dict.fromkeys(numbers.reshape(-1).tolist()), key=self.length))

    def tokens(self, numbers: Iterable[int]) -> int:
        return sum(map(self.length, numbers))

    def features(self, numbers: Sequence[int], device: torch.device) -> dict[str, torch.Tensor]:
        """What the model takes, padded at the end to the longest text."""
        rows, width, made = (
            [self.features_of[number] for number in numbers],
            max(map(self.length, numbers)),
            {},
        )
        for name in rows[0]:
            array = np.full((len(rows), width), self.padding.get(name, 0), dtype=np.int64)
            for place, row in enumerate(rows):
                array[place, : len(row[name])] = row[name]
            made[name] = torch.from_numpy(array).to(device)
        return made


class Float32Attention(TorchFunctionMode):
    """Attention in float32 where autocast computes in bfloat16, for the sake of CPUs.

    PyTorch's bfloat16 kernel goes back in 113 ms where float32's takes 33 (32 texts of 100 tokens, 12 heads
    of 32, one thread of an AMD EPYC); all else is faster in bfloat16.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs)
        given = [*args, *kwargs.values()]
        wide = [each.float() if getattr(each, "dtype", None) == torch.bfloat16 else each for each in given]
        with torch.autocast("cpu", enabled=False):
            made = func(*wide[: len(args)], **dict(zip(kwargs, wide[len(args) :], strict=True)))
        return made.to(given[0].dtype)


def places_in(order: np.ndarray, numbers: np.ndarray) -> torch.Tensor:
    """Where each of `numbers`, of any shape, stands in `order`; int64 in the same shape."""
    place = {number: at for at, number in enumerate(order.tolist())}
    return torch.tensor([place[number] for number in numbers.ravel().tolist()]).view(*numbers.shape)


class Encoding:
    """The model's outputs for texts, float32 (texts, dims), and the way back.

    output: the name of what the model gives for a text. sub_batch: texts in memory at once; 0: all.
    """

    def __init__(self, fabric: Fabric, model, texts: Texts, output: str, dims: int, sub_batch: int):
        self.fabric, self.model, self.texts, self.output = fabric, model, texts, output
        self.dims, self.sub_batch = dims, sub_batch

    def outputs(self, order: np.ndarray, model=None) -> torch.Tensor:
        """Of the texts in `order` (as `by_length` gives them), without a gradient."""
        return self._gathered(order, self._parts(order), model or self.model, graph=False)[0]

    def step(self, order: np.ndarray, loss_of: Callable[[torch.Tensor], torch.Tensor]) -> float:
        """Add this process's part of the gradient of `loss_of(outputs)`; returns the loss."""
        parts = self._parts(order)
        gathered, graphs = self._gathered(order, parts, self.model, graph=not self.sub_batch)
        gathered.requires_grad_()
        loss = loss_of(gathered)
        loss.backward()
        for place, part in enumerate(parts):
            vectors = self._forward(order[part], self.model) if self.sub_batch else graphs[place]
            vectors.backward(gathered.grad[torch.from_numpy(part)])
            if graphs:
                graphs[place] = None  # frees its memory
        return loss.item()

    def _parts(self, order: np.ndarray) -> list[np.ndarray]:
        """This process's parts, as places in `order`."""
        size, ranks = self.sub_batch or PART, self.fabric.world_size
        parts = micro_batches(
            np.arange(len(order)), min(size, -(-len(order) // ranks)), self.fabric.global_rank, ranks
        )
        return [part for part in parts if len(part)]

    def _forward(self, numbers: np.ndarray, model) -> torch.Tensor:
        cpu = self.fabric.device.type == "cpu"
        with self.fabric.autocast(), Float32Attention() if cpu else nullcontext():
            made = model(self.texts.features(numbers, self.fabric.device))[self.output]
        return made.float().view(len(numbers), -1)

    def _gathered(self, order, parts, model, graph: bool) -> tuple[torch.Tensor, list]:
        whole, graphs = torch.zeros(len(order), self.dims, device=self.fabric.device), []
        for part in parts:
            with torch.set_grad_enabled(graph):
                made = self._forward(order[part], model)
            whole[torch.from_numpy(part)] = made.detach()
            if graph:
                graphs.append(made)
        if self.fabric.world_size > 1:
            whole = self.fabric.all_reduce(whole, reduce_op="sum")
        return whole, graphs
