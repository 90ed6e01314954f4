"""Vectors of texts, kept in the scratch folder by content of texts and model: made once for all stages."""

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np

from stages.core import layout
from stages.core.files import read_object
from stages.core.hashing import sha256_json
from stages.retrieval.encoders import embeddings, fingerprint, finished, load
from stages.retrieval.knobs import Encoder

KEPT = 4 << 30  # bytes: MiniLM's vectors of five million texts


class Vectors:
    """Loads an encoder when a text's vector is not there yet; the last few stay in memory.

    Of what is kept, files beyond KEPT bytes are forgotten, those first that were not used for longest.
    """

    def __init__(self) -> None:
        self.folder = layout.SCRATCH / "vectors"
        forget(self.folder, KEPT)
        # Two encoders are compared, each with the length and the prompt of a query and of a key.
        self.fingerprint = lru_cache(maxsize=4)(fingerprint)
        self.load = lru_cache(maxsize=4)(lambda knobs: load(knobs, fit=()))

    def of(self, texts: Sequence[str], folder: str, max_length: int, prompt: str = "") -> np.ndarray:
        """float16 unit rows (texts, dims) of texts behind `prompt`, cut to `max_length` tokens.

        folder: a sentence-transformers directory. Raises UserError for one that cannot be loaded.
        """
        knobs = Encoder(encoder=folder, max_length=max_length, observed_prompt=prompt)
        path = self.folder / f"{sha256_json([self.fingerprint(knobs), texts])}.npy"
        made = finished(path)
        if made is None:
            return embeddings(self.load(knobs), texts, "observed", path)
        with suppress(FileNotFoundError):
            os.utime(path)
        return made


def forget(folder: Path, limit: int) -> None:
    """Remove the vectors used longest ago, so that `limit` bytes remain. What is open stays readable."""
    files = []
    for path in folder.glob("*.npy"):
        with suppress(FileNotFoundError):  # another process forgets, too
            told = path.stat()
            files.append((told.st_mtime_ns, told.st_size, path))
    files.sort(reverse=True)
    for total, (_, _, path) in zip(accumulate(size for _, size, _ in files), files, strict=True):
        if total > limit:
            path.with_suffix(".rows").unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def prompt_of(folder: str, side: str, task: str = "qa") -> str:
    """Of the prompts of a sentence-transformers directory the task's own, else that of the side.

    side: query or document. What trained it put this before each text.
    """
    config = Path(folder) / "config_sentence_transformers.json"
    known = (read_object(config) if config.is_file() else {}).get("prompts") or {}
    return known.get(f"{task}_{side}") or known.get(side) or ""
