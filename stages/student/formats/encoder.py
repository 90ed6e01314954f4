"""A sentence-transformers directory, taken over with a check that its files alone make its vectors."""

import shutil
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from stages.core.errors import UserError, reason
from stages.student.formats.hf_folder import own_file
from stages.student.formats.parity import TEXTS, difference

TOLERANCE = 1e-5  # of a vector of length 1
READ = (".json", ".txt", ".model", ".safetensors")  # no code, no pickles


def is_encoder(source: Path) -> bool:
    """Whether `source` is a sentence-transformers directory: modules.json lists its parts."""
    return (source / "modules.json").is_file()


def import_encoder(source: Path, target: Path) -> dict:
    """Copy the model of `source` to `target`, an existing directory; returns its figures.

    Raises UserError if a file leads out of `source`, it does not load from safetensors alone, or its vectors
    of some texts are not the mean (or first) of the token vectors that plain transformers gives, as its own
    settings say.
    """
    for file in sorted(source.rglob("*")):
        if file.suffix in READ and file.is_file():
            own_file(file, source)
            (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / file.relative_to(source))
    try:
        model = SentenceTransformer(
            str(target.resolve()), trust_remote_code=False, local_files_only=True, device="cpu"
        )
    except Exception as error:  # of many kinds, for files that could be anything
        raise UserError(
            f"{source}: no sentence-transformers model with safetensors ({reason(error)})"
        ) from None
    config = model[0].config
    return {
        "family": config.model_type,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": config.num_hidden_layers,
        "width": model.get_embedding_dimension(),
        "context": model.max_seq_length,
        "vocabulary": config.vocab_size,
        "parity": {"sentence_transformers": _check(model, target)},
    }


@torch.no_grad()
def _check(model: SentenceTransformer, directory: Path) -> float | None:
    """The largest difference to pooling by hand; None where its parts are more than pooling and a norm."""
    parts = [type(part).__name__ for part in model]
    mode = getattr(model[1], "pooling_mode", None) if len(parts) > 1 else None
    if set(parts[1:]) - {"Pooling", "Normalize"} or mode not in ("mean", "cls"):
        return None
    tokenizer, plain = AutoTokenizer.from_pretrained(directory), AutoModel.from_pretrained(directory).eval()
    inputs = tokenizer(
        list(TEXTS), padding=True, truncation=True, max_length=model.max_seq_length, return_tensors="pt"
    )
    states, mask = plain(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
    pooled = states[:, 0] if mode == "cls" else (states * mask).sum(1) / mask.sum(1)
    vectors = model.encode(list(TEXTS), normalize_embeddings=True, convert_to_tensor=True)
    delta = difference(torch.nn.functional.normalize(pooled, dim=-1), vectors)
    if not delta <= TOLERANCE:
        raise UserError(
            f"{directory}: sentence-transformers and plain transformers differ by {delta:g}; its tokenizer "
            "or pooling settings are not those of the model"
        )
    return delta
