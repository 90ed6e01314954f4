"""Canonical JSON and the hashes that identities, splits, shards and seeds are made of."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_json(value: Any) -> str:
    return sha256_text(canonical_json(value))


BLOCK = 1 << 24  # bytes: after each, a busy thread of Python may keep this one waiting for 5 ms


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        block = memoryview(bytearray(min(BLOCK, os.fstat(stream.fileno()).st_size + 1)))
        while count := stream.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


def stable_integer(*parts: Any) -> int:
    """A 64-bit integer that depends only on `parts`; the same on every machine."""
    digest = hashlib.sha256(canonical_json(parts).encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big")


def stable_unit(*parts: Any) -> float:
    """A number in [0, 1) that depends only on `parts`; for splits and samples."""
    return stable_integer(*parts) / 2**64


def shard_of(document_id: str, shards: int) -> int:
    """The shard of a document: a hash of its id, so new documents never move old ones."""
    return stable_integer("shard", document_id) % shards


def sha256_folder(folder: Path) -> str:
    """Of the names and contents of all files in a folder."""
    files = sorted(file for file in Path(folder).rglob("*") if file.is_file())
    return sha256_json([(file.relative_to(folder).as_posix(), sha256_file(file)) for file in files])


def model_fingerprint(directory: Path) -> str:
    """A hash of the weights, configuration and tokenizer of a Hugging Face directory."""
    parts = ("*.safetensors", "config.json", "generation_config.json", "tokenizer*.json", "*.jinja")
    files = sorted({file for part in parts for file in Path(directory).glob(part)})
    return sha256_json({file.name: sha256_file(file) for file in files})
