"""Generated rows, written and read whole: what tests hold in memory and stages never do."""

from pathlib import Path

from stages.core.hashing import shard_of
from stages.core.shards import iter_generated, write_shards


def write_generated(directory: Path, rows: list[dict], shards: int, producer: str) -> None:
    """Write rows, in any order, as `shards` files and a manifest; their texts are in the column `queries`."""
    parts: list[list[dict]] = [[] for _ in range(shards)]
    for row in rows:
        parts[shard_of(row["document_id"], shards)].append(row)
    write_shards(directory, parts, producer, "queries")


def read_generated(directory: Path) -> list[dict]:
    """The rows of a generated directory, sorted by (document_id, sample)."""
    return list(iter_generated(directory))
