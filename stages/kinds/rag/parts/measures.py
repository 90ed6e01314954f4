"""Where a retriever ranks the passages that hold an answer."""

from collections.abc import Collection, Mapping, Sequence

from stages.evaluation.overlap import shared, words_in
from stages.evaluation.ranking import measured, ranks_of
from stages.retrieval.passages import Passage

LIKELY = 0.7  # of a gold passage's words: so much in another makes it as good, by LocalRQA


def found(
    ranked: Sequence[str],
    gold: Collection[str],
    passages: Mapping[str, Passage],
    cutoffs: Sequence[int],
    unicode: bool = False,
) -> dict[str, float]:
    """For each cut-off k how much of the gold passages is among the first k ids of a ranking, best first.

    recall: all; found: the share; ndcg; accuracy: the share of the first k that is gold; likely: as recall,
    for LIKELY of the words of each; source: as recall, for their documents.
    """
    ranks = ranks_of(ranked, gold)
    texts = [words_in(passages[name]["text"], unicode).squad for name in ranked[: max(cutoffs)]]
    wanted = [words_in(passages[name]["text"], unicode).squad for name in gold]
    covered = [[shared(text, right)[1] > LIKELY for text in texts] for right in wanted]
    sources = [passages[name]["source"] for name in ranked]
    made = {}
    for k in cutoffs:
        share, ndcg = measured(ranks, len(gold), ["recall", "ndcg"], [k])
        made |= {
            f"recall@{k}": float(share == 1),
            f"found@{k}": share,
            f"ndcg@{k}": ndcg,
            f"accuracy@{k}": share * len(gold) / max(1, len(ranked[:k])),
            f"likely@{k}": float(all(any(own[:k]) for own in covered)),
            f"source@{k}": float({passages[name]["source"] for name in gold} <= set(sources[:k])),
        }
    return made
