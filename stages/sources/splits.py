"""Which split a document is in, by the group that it shares with its near-duplicates."""

from stages.core.hashing import stable_unit
from stages.sources.near import near_duplicate_groups

__all__ = ["near_duplicate_groups", "split_of"]


def split_of(group: str, val_share: float, test_share: float) -> str:
    """train, val or test: a function of the group id only, so new pages never move old ones."""
    unit = stable_unit("split", group)
    return "test" if unit < test_share else "val" if unit < test_share + val_share else "train"
