"""Vectors of texts, kept in the scratch folder by content of texts and model: made once for all stages."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from stages.core import layout
from stages.core.files import read_object
from stages.core.hashing import sha256_json
from stages.retrieval.encoders import embeddings, fingerprint, finished, load
from stages.retrieval.knobs import Encoder


class Vectors:
    """Loads an encoder when a text's vector is not there yet; the last few stay in memory."""

    def __init__(self) -> None:
        # Two encoders are compared, each with the length and the prompt of a query and of a key.
        self.fingerprint = lru_cache(maxsize=4)(fingerprint)
        self.load = lru_cache(maxsize=4)(lambda knobs: load(knobs, fit=()))

    def of(self, texts: Sequence[str], folder: str, max_length: int, prompt: str = "") -> np.ndarray:
        """float16 unit rows (texts, dims) of texts behind `prompt`, cut to `max_length` tokens.

        folder: a sentence-transformers directory. Raises UserError for one that cannot be loaded.
        """
        knobs = Encoder(encoder=folder, max_length=max_length, observed_prompt=prompt)
        path = layout.SCRATCH / "vectors" / f"{sha256_json([self.fingerprint(knobs), texts])}.npy"
        made = finished(path)
        return embeddings(self.load(knobs), texts, "observed", path) if made is None else made


def prompt_of(folder: str, side: str, task: str = "qa") -> str:
    """Of the prompts of a sentence-transformers directory the task's own, else that of the side.

    side: query or document. What trained it put this before each text.
    """
    config = Path(folder) / "config_sentence_transformers.json"
    known = (read_object(config) if config.is_file() else {}).get("prompts") or {}
    return known.get(f"{task}_{side}") or known.get(side) or ""
