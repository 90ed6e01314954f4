"""The texts of a training as token ids, and a step's forward and backward pass over the distinct ones.

A text that comes in many groups of a step is encoded once. The texts of a step are sorted by length and cut
into parts, so that next to nothing is padding; several processes share the parts. The loss is computed from
all vectors on every process, and each sends the gradients of its own vectors back through the model. So any
number of processes, and any size of the parts, gives the gradient of the whole batch. With `sub_batch` no
graph is kept between the two passes: GradCache (Gao et al. 2021).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from stages.student.data import micro_batches
from stages.student.formats.litgpt import Fabric

PART = 32  # texts of a forward pass where memory sets no limit
BLOCK = 4096  # texts that are tokenised at once


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
    """Distinct texts, each under a number, and their token ids.

    tokenizer: transformers', which also cuts. A text is a string, or a pair of strings.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.numbers: dict[tuple, int] = {}
        self.ids: list[np.ndarray] = []
        self.types: list[np.ndarray] = []  # which of a pair a token is of
        self.cut = 0  # texts that were longer than their limit

    def add(self, texts: Sequence, limit: int) -> list[int]:
        """The numbers of `texts`, each of `limit` tokens at most; new ones are tokenised."""
        new = [text for text in dict.fromkeys(texts) if (text, limit) not in self.numbers]
        for start in range(0, len(new), BLOCK):
            block = new[start : start + BLOCK]
            first, second = zip(*block, strict=True) if isinstance(block[0], tuple) else (block, None)
            made = self.tokenizer(
                list(first),
                None if second is None else list(second),
                truncation=True,
                max_length=limit,
                return_token_type_ids=second is not None,
            )
            for place, text in enumerate(block):
                self.numbers[text, limit] = len(self.ids)
                self.ids.append(np.asarray(made["input_ids"][place], dtype=np.int32))
                if second is not None:
                    self.types.append(np.asarray(made["token_type_ids"][place], dtype=np.int8))
            self.cut += sum(bool(encoding.overflowing) for encoding in made.encodings or [])
        return [self.numbers[text, limit] for text in texts]

    def by_length(self, numbers: np.ndarray) -> np.ndarray:
        """The distinct ones of `numbers`, shortest first."""
        distinct = np.unique(numbers)
        return distinct[np.argsort([len(self.ids[n]) for n in distinct], kind="stable")]

    def tokens(self, numbers: np.ndarray) -> int:
        return sum(len(self.ids[number]) for number in numbers)

    def features(self, numbers: np.ndarray, device: torch.device) -> dict[str, torch.Tensor]:
        """What a sentence-transformers model takes, padded to the longest text."""
        chosen = [self.ids[number] for number in numbers]
        width = max(map(len, chosen))
        ids = np.full((len(chosen), width), self.tokenizer.pad_token_id or 0, dtype=np.int64)
        made = {"input_ids": ids, "attention_mask": np.zeros_like(ids)}
        if self.types:
            made["token_type_ids"] = np.zeros_like(ids)
        for place, (number, row) in enumerate(zip(numbers, chosen, strict=True)):
            ids[place, : len(row)] = row
            made["attention_mask"][place, : len(row)] = 1
            if self.types:
                made["token_type_ids"][place, : len(row)] = self.types[number]
        return {name: torch.from_numpy(array).to(device) for name, array in made.items()}


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
        with self.fabric.autocast():
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
