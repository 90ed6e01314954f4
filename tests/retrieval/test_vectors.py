"""Vectors that are kept: read again, and forgotten when they take more room than is theirs."""

import os
from pathlib import Path

import numpy as np
import pytest

from stages.retrieval import vectors

TEXTS = [["a", "b"], ["c", "d"], ["e", "f"]]
SIZE = 128 + 2 * 4 * 2  # bytes of a file of two texts


class Counting:
    """An encoder of four dimensions that counts what it encodes."""

    dims = 4

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, texts: list[str], side: str) -> np.ndarray:
        self.encoded += texts
        return np.eye(4, dtype=np.float32)[[ord(text) % 4 for text in texts]]


@pytest.fixture
def encoder(tmp_path, monkeypatch) -> Counting:
    monkeypatch.chdir(tmp_path)
    model = Counting()
    monkeypatch.setattr(vectors, "load", lambda knobs, fit: model)
    monkeypatch.setattr(vectors, "fingerprint", lambda knobs: knobs.encoder)
    return model


def asked(*numbers: int) -> None:
    """Ask for some TEXTS, a second after whatever is there was last used."""
    kept = vectors.Vectors()
    for number in numbers:
        for path in Path("data/.work/vectors").glob("*.npy"):
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
        kept.of(TEXTS[number], "model", 8)


@pytest.mark.parametrize(
    "room, used, again",
    [
        (3, [], ""),  # all are kept
        (2, [], "ab"),  # the oldest goes
        (2, [0], "cd"),  # unless it was used since
        (1, [], "abcd"),
        (0, [], "abcdef"),
    ],
)
def test_the_vectors_used_longest_ago_are_forgotten(encoder, monkeypatch, room, used, again):
    asked(0, 1, 2, *used)
    assert encoder.encoded == list("abcdef")
    monkeypatch.setattr(vectors, "KEPT", room * SIZE)
    vectors.Vectors()
    left = {path.suffix for path in Path("data/.work/vectors").iterdir()}
    assert left == ({".npy", ".rows"} if room else set())
    encoder.encoded.clear()
    monkeypatch.setattr(vectors, "KEPT", 3 * SIZE)
    asked(0, 1, 2)
    assert encoder.encoded == list(again)


def test_vectors_in_use_stay_readable(encoder, monkeypatch):
    made = vectors.Vectors().of(TEXTS[0], "model", 8)
    monkeypatch.setattr(vectors, "KEPT", 0)
    vectors.Vectors()
    assert not list(Path("data/.work/vectors").iterdir()) and made.tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]
