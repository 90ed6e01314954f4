"""How near an answer is to a text, by the figures of who defines each measure."""

import random

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from stages.evaluation.overlap import bleu, bleu_counts, bleu_ngrams, common_subsequence, overlaps

MAT = "the cat sat on the mat"

ROUGE = ("rouge_1", "rouge_2", "rouge_l")


def test_words_are_counted_as_squad_does():
    own = overlaps("a cat sat down", "The cat sat.")
    assert (own["precision"], own["recall"], own["f1"]) == (1, pytest.approx(2 / 3), pytest.approx(0.8))
    assert not any(overlaps("a cat", "").values()) and not any(overlaps("", "a cat").values())
    assert overlaps("the a", "an the")["f1"] == 0  # nothing but articles


def test_rouge_is_what_rouge_score_gives():
    own = overlaps(MAT, "cat on mat")
    assert [own[name] for name in ROUGE] == pytest.approx([2 / 3, 0, 2 / 3])
    scorer, chance = RougeScorer(["rouge1", "rouge2", "rougeL"]), random.Random(0)
    vocabulary = "cat Größe np.sum don't 3.5 mat, (a) x_y 中文 İ e-mail\n".split(" ")
    for _ in range(200):
        one, other = (" ".join(chance.choices(vocabulary, k=chance.randrange(30))) for _ in range(2))
        theirs = [score.fmeasure for score in scorer.score(one, other).values()]
        assert [overlaps(one, other)[name] for name in ROUGE] == pytest.approx(theirs, abs=1e-12)
    assert common_subsequence([], ["a"]) == common_subsequence(["a"], []) == 0


def test_words_of_other_scripts():
    assert overlaps("中文分词", "中文")["rouge_l"] == 0 and overlaps("Größe", "Größe")["rouge_2"] == 1
    own = overlaps("中文分词", "中文", unicode=True)
    assert own["f1"] == own["rouge_l"] == pytest.approx(2 / 3)


def test_bleu_is_sacrebleus_without_smoothing():
    pairs = [("yes it is", "yes it is"), ("the cat sat on a mat", MAT)]
    counts = np.array([bleu_counts(*pair) for pair in pairs])
    assert bleu(counts) == pytest.approx([0, 0.5373], abs=5e-5)
    # sacrebleu 2.6.0, BLEU(smooth_method="none").corpus_score of the two pairs
    assert bleu(counts.sum(axis=0)) == pytest.approx(0.596949, abs=1e-6)
    assert bleu(counts.mean(axis=0)) == pytest.approx(bleu(counts.sum(axis=0)))
    assert bleu(np.array(bleu_counts(MAT, ""))) == 0
    assert [gram for gram, in bleu_ngrams('a-\nb 3,5 x,y 7-8 &quot;co&amp;&lt;<skipped>')[0]] == (
        ["ab", "3,5", "x", ",", "y", "7", "-", "8", '"', "co", "&", "<"]
    )  # fmt: skip


# Rankings
