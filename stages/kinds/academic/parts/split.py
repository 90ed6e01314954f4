"""Which papers are trained on, validated with and held out, and which texts are too short to take part.

Papers are in a split whole, and those of one text together.
"""

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np

from stages.core.errors import UserError
from stages.kinds.academic.knobs import CorpusPapersKnobs
from stages.sources.near import near_duplicate_groups
from stages.sources.papers import Paper
from stages.sources.splits import split_groups

SAME = 0.5  # of runs of four words that two papers share: a preprint and what was published of it


def shortest_kept(texts: Sequence[str], share: float) -> float:
    """The least characters of a text that is kept: the `share` left out, the shortest, have strictly less."""
    return float(np.quantile([len(text) for text in texts], share)) if texts else 0.0


def split_papers(
    papers: Sequence[Paper], knobs: CorpusPapersKnobs
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """(the split of each paper by name, pairs of papers of nearly the same text).

    `val` and `test` name papers; those of a split that names none, and of no other, are drawn by hash. Raises
    UserError for a name that is no paper's, and where papers of one text, or one paper, are of two splits.
    """
    texts = [" ".join(page.text for page in paper.pages) for paper in papers]
    rows = [
        {"id": paper.name, "text": text, "metadata": {}} for paper, text in zip(papers, texts, strict=True)
    ]
    names = [paper.name for paper in papers]
    groups = dict(zip(names, near_duplicate_groups(rows, SAME), strict=True))
    named: dict[str, str] = {}  # the split of a group
    for split in ("val", "test"):
        for pattern in getattr(knobs, split):
            matching = [
                one for one in papers if any(fnmatchcase(name, pattern) for name in (one.name, one.path.name))
            ]
            if not matching:
                known = ", ".join(paper.path.name for paper in papers[:8])
                raise UserError(f"{split}: {pattern!r} is no paper's name; expected some of {known}")
            for paper in matching:
                if named.setdefault(groups[paper.name], split) != split:
                    raise UserError(
                        f"{split}: {paper.path.name}, or a paper of nearly its text, is named in val, too; "
                        "name them in one of the two"
                    )
    rest = Counter(group for group in groups.values() if group not in named)
    shares = [0 if getattr(knobs, split) else getattr(knobs, f"{split}_share") for split in ("val", "test")]
    named |= split_groups(rest, *shares)
    like = [(name, group) for name, group in groups.items() if name != group]
    return {name: named[group] for name, group in groups.items()}, like
