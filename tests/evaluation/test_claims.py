"""Claims of answers, by the figures of who defines the measures."""

import numpy as np
import pytest

from stages.evaluation import claims
from stages.evaluation.claims import CORRUPTIONS, auc, corrupted, diagnosis, validated


def test_one_claim_right_and_found_one_wrong_and_nowhere():
    own = diagnosis(
        "Boats leave at nine. Tickets cost sixty dollars.",
        "Boats leave at nine.",
        ["All boats leave at nine from the harbour.", "Trains run at night."],
    )
    half = ("claim_precision", "faithfulness", "hallucination", "context_precision")
    assert [own[name] for name in half] == [0.5] * 4
    assert own["noise_relevant"] == own["noise_irrelevant"] == own["self_knowledge"] == 0
    assert own["claim_recall"] == own["claim_coverage"] == own["utilisation"] == 1


def test_noise_is_of_relevant_passages_or_of_others():
    sets = {"answer": "wr", "reference": "r", "one": "rw", "two": "w"}  # which claims each entails
    entails = lambda text, claim: claim.split()[0] in sets[text.split()[0]]  # noqa: E731
    split = {"answer": ["w", "r"], "reference": ["r"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "claims_of", split.__getitem__)
        both = diagnosis("answer", "reference", ["one", "two"], entails=entails)
        other = diagnosis("answer", "reference", ["two"], entails=entails)
    assert both["noise_relevant"] == 0.5 and both["noise_irrelevant"] == 0
    assert other["noise_irrelevant"] == 0.5 and other["noise_relevant"] == 0
    assert other["self_knowledge"] == 0.5 and np.isnan(other["utilisation"])
    for own in (both, other):  # each wrong claim is counted once
        wrong = own["noise_relevant"] + own["noise_irrelevant"] + own["hallucination"]
        assert wrong + own["claim_precision"] == 1


def test_what_is_not_defined_is_not_nought():
    own = diagnosis("", "Boats leave.", ["Trains run."])
    assert [name for name in own if not np.isnan(own[name])] == [
        "claim_coverage",
        "claim_recall",
        "context_precision",
    ]
    own = diagnosis("Boats leave.", "It is.", [])  # nothing but stop words
    assert [name for name in own if not np.isnan(own[name])] == ["claim_precision"]


def test_the_stand_in_on_corrupted_answers():
    answer = "It can hold 60 values."
    made = corrupted(answer, "Another one.")
    assert made == {
        "numbers": "It can hold 63 values.",
        "negation": "It can not hold 60 values.",
        "another": "Another one.",
    }
    assert tuple(made) == CORRUPTIONS
    assert corrupted("9" * 6000, "")["numbers"].endswith("92")  # longer than Python reads a number
    rows = [(f"{word} boats leave harbour.", [f"{word} boats leave harbour."]) for word in ("Red", "Two")]
    rows.append(("Trains run at night 7 times.", ["Trains run at night 7 times."]))
    own = validated(rows)
    assert own["another"] == {"rows": 3, "auc": pytest.approx(5 / 6, abs=1e-4)}
    assert own["negation"] == {"rows": 0, "auc": None}
    assert own["numbers"] == {"rows": 1, "auc": 0.5}  # three of four stems are enough: it does not see it
    assert auc([1, 0.5], [0.5, 0]) == 0.875
