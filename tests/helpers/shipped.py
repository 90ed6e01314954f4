"""The shipped directories that stand for a retrieval method without weights."""

from pathlib import Path

BM25, TFIDF = (str(Path(__file__).parents[2] / "models/shipped" / name) for name in ("bm25", "tfidf"))
