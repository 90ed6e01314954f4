"""A retriever's training as one of several processes sees it.

`torchrun --nproc-per-node 2 -m tests.helpers.retrieval_group CHANGES`: loss, tokens and gradient of the first
step with these changes of `knobs`, into two.pt of the working directory.
"""

import json
import sys
from pathlib import Path

import torch

from stages.kinds.retriever.knobs import TrainRetrieverKnobs
from stages.kinds.retriever.parts.trainer import Retrieving, training_rows
from stages.kinds.retriever.train_retriever import encoder
from stages.student.encoding import prepare
from stages.student.fabric import make_fabric
from stages.student.loop import Loop


def knobs(**changes) -> TrainRetrieverKnobs:
    given = {"rows": "d", "base": "models/base/t", "batch_size": 4, "group": 4, "lr": 1e-3}
    given |= {"contrastive_weight": 1.0, "key_max_length": 64, "train": ["qa", "tool"]}
    return TrainRetrieverKnobs(**given | changes)


def training(**changes) -> tuple[Retrieving, torch.nn.Module]:
    """The training of the task qa, and its model."""
    given = knobs(train=["qa"], **changes)
    model = encoder(given)
    fabric = make_fabric(given)
    prepare(model, given.checkpoint)
    return Retrieving(fabric, model, training_rows(given), given), model


def gradients(model) -> dict[str, torch.Tensor]:
    """The gradients by name, which are taken off."""
    taken = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return taken


if __name__ == "__main__":
    made, trained = training(**json.loads(sys.argv[1]))
    loss, tokens = made.gradients(0)
    Loop("test", made.fabric, trained, made.knobs, 1, Path("none"))._sum_gradients()
    if made.fabric.is_global_zero:
        torch.save({"loss": loss, "tokens": tokens, "gradients": gradients(trained)}, "two.pt")
