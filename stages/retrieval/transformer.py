"""A sentence-transformers model as an encoder, with the weights of an NGAME-style checkpoint where given."""

import pickle
import re
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from transformers.utils import logging as transformers_logging

from stages.core.errors import UserError, reason
from stages.core.messages import say
from stages.retrieval.knobs import Encoder
from stages.retrieval.neighbours import coarse_type

TRIAL = ["a text", "another text, which is longer"]  # of two lengths: some tokenizers cannot pad
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")


def narrow(device: torch.device) -> torch.autocast:
    """A context in which models on a CPU that multiplies bfloat16 do; weights stay float32."""
    able = coarse_type() is torch.bfloat16 and device.type == "cpu"
    return torch.autocast("cpu", torch.bfloat16, enabled=able)


class Transformer:
    def __init__(self, knobs: Encoder):
        """Load the model, without running code from its repository.

        Raises UserError if it or its weights cannot be loaded, or texts would be longer than it can read.
        """
        self.model = open_model(knobs.encoder, "encoder")
        check_length(self.model, knobs.max_length, "max_length", knobs.encoder)
        if knobs.max_length:
            self.model.max_seq_length = knobs.max_length
        if knobs.weights:
            load_weights(self.model, Path(knobs.weights))
        self.prompts = {"synthetic": knobs.synthetic_prompt, "observed": knobs.observed_prompt}
        self.batch_size, self.dims = knobs.batch_size, self.model.get_embedding_dimension()

    def encode(self, texts: list[str], side: str) -> np.ndarray:
        """float32 (texts, dims), rows of length 1; the side chooses the prompt.

        On a CPU that multiplies bfloat16, matrix products are in it: MiniLM encodes pages of 82 tokens 1.7
        times as fast, and no cosine between 256 of them moved by more than .003.
        """
        with narrow(self.model.device):
            vectors = self.model.encode(
                texts,
                prompt=self.prompts[side],
                batch_size=self.batch_size,
                normalize_embeddings=True,
                show_progress_bar=False,
                convert_to_tensor=True,
            )
        return vectors.float().cpu().numpy()


def open_model(directory: str, knob: str) -> SentenceTransformer:
    """The sentence-transformers model in a directory, which has encoded a trial.

    Raises UserError, naming the knob, if there is none, or its files do not make one.
    """
    if not (Path(directory) / "modules.json").is_file():
        raise UserError(
            f"{knob}: {directory}: holds no modules.json; expected a sentence-transformers directory, like "
            "models/base/minilm"
        )
    if not any(found for name in VOCABULARIES for found in Path(directory).rglob(name)):
        raise UserError(  # transformers would make a tokenizer that knows no word
            f"{knob}: {directory}: holds no tokenizer ({', '.join(VOCABULARIES)}); copy its files there"
        )
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # a warning for each weight that pooling has no use for
    try:
        model = SentenceTransformer(directory, trust_remote_code=False, local_files_only=True)
        model.encode(TRIAL, show_progress_bar=False)
    except Exception as error:  # of many kinds, for files that could be anything
        raise UserError(
            f"{knob}: {directory!r} is no sentence-transformers model ({reason(error)})"
        ) from None
    return model


def check_length(model: torch.nn.Sequential, tokens: int, knob: str, directory: str) -> None:
    """Raises UserError, naming the knob, where texts of so many tokens are longer than the model reads."""
    config = getattr(model[0], "config", None)  # a static embedding has none, and no positions
    positions = getattr(config, "max_position_embeddings", None)
    if positions and tokens > positions:
        raise UserError(f"{knob}: {tokens} is more than the {positions} tokens of {directory}")


def load_weights(model: SentenceTransformer, path: Path) -> None:
    """Give `model` the weights of a wrapper that was trained around it (NGAME, Dahiya et al. 2023).

    `path` is the wrapper's state dict: the model's tensors behind a prefix, and the projection `transform`
    where it has one, which becomes the model's last layer. Nothing is unpickled but tensors. Raises
    UserError unless each tensor of the model is there, in its shape.
    """
    stored = {_current(name): tensor for name, tensor in _state_dict(path).items()}
    state = model.state_dict()
    first = next(iter(state))
    prefixes = [name.removesuffix(first) for name in stored if re.search(rf"(^|\.){re.escape(first)}$", name)]
    if len(prefixes) != 1:
        raise UserError(
            f"weights: {path}: expected one tensor called …{first}, found {len(prefixes)}; {LAYOUT}"
        )
    fitting = {name: stored.pop(prefixes[0] + name, None) for name in state}
    try:
        model.load_state_dict({name: tensor for name, tensor in fitting.items() if tensor is not None})
    except RuntimeError as error:  # names the tensors that are missing or of another shape
        why = " ".join(str(error).split())
        raise UserError(f"weights: {path}: was it trained from another model? {why}") from None
    _add_projection(model, stored, path)
    if stored:
        names = ", ".join(sorted(stored)[:5])
        say(f"weights: {path}: {len(stored)} tensors are none of the encoder's: {names}")


LAYOUT = "it has to be the state dict (.pt) of a wrapper around the model in `encoder`"


def _current(name: str) -> str:
    """sentence-transformers called the model `auto_model` before version 6."""
    return re.sub(r"(^|\.)0\.auto_model\.", r"\g<1>0.model.", name)


def _state_dict(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise UserError(f"weights: {path}: no such file")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        raise UserError(f"weights: {path}: not a file of tensors alone; {LAYOUT}") from None
    if not isinstance(stored, dict) or not all(isinstance(v, torch.Tensor) for v in stored.values()):
        raise UserError(f"weights: {path}: holds more than tensors by name; {LAYOUT}")
    return stored


def _add_projection(model: SentenceTransformer, stored: dict[str, torch.Tensor], path: Path) -> None:
    """Move a `transform` from `stored` to the end of `model`."""
    weight = next((name for name in stored if re.search(r"(^|\.)transform\.weight$", name)), None)
    if weight is None:
        return
    matrix, bias = stored.pop(weight).float(), stored.pop(weight.removesuffix("weight") + "bias", None)
    narrow, wide = matrix.shape
    dims = model.get_embedding_dimension()
    if wide != dims:
        raise UserError(f"weights: {path}: {weight} projects {wide} dimensions, the model has {dims}")
    layer = Dense(
        wide,
        narrow,
        bias=bias is not None,
        activation_function=None,
        init_weight=matrix,
        init_bias=None if bias is None else bias.float(),
    )
    model.append(layer.to(model.device))
