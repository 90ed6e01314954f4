"""Measures of rankings, by the figures of who defines them."""

import pytest

from stages.kinds.rag.parts.measures import found

PASSAGES = {
    name: {"id": name, "title": "", "text": text, "source": source}
    for name, text, source in (
        ("g1", "boats leave the small harbour at nine", "boats"),
        ("g2", "tickets are sold on board", "boats"),
        ("n1", "boats leave the big harbour at nine", "boats"),
        ("n2", "something else", "other"),
        ("n3", "trains run at night", "other"),
    )
}


@pytest.mark.parametrize(
    ("ranked", "gold", "expected"),
    [
        (["g1", "n1", "n2", "n3"], ["g1"], [1, 1, 1, 1, 1, 1, 1, 0.25, 1, 1, 1, 1]),
        (["n2", "n1", "g1"], ["g1"], [0, 1, 0, 1, 0, 0.5, 0, 1 / 3, 0, 1, 0, 1]),  # n1 has 5 of its 6 words
        (["g1", "n2"], ["g1", "g2"], [0, 0, 0.5, 0.5, 1, 0.6131, 1, 0.5, 0, 0, 1, 1]),
        ([], ["g1"], [0] * 12),
    ],
)
def test_passages_found(ranked, gold, expected):
    own = found(ranked, gold, PASSAGES, [1, 4])
    names = ("recall", "found", "ndcg", "accuracy", "likely", "source")
    assert [own[f"{name}@{k}"] for name in names for k in (1, 4)] == pytest.approx(expected, abs=5e-5)
