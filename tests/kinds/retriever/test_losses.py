"""The losses against numbers worked out elsewhere, against sentence-transformers', and their masks."""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    DistillKLDivLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Normalize
from torch.nn.functional import cross_entropy, normalize

from stages.kinds.retriever.knobs import TrainRetrieverKnobs
from stages.kinds.retriever.parts.trainer import retriever_loss
from stages.student.losses import (
    contrastive,
    distilled,
    false_negatives,
    guided,
    own_scores,
    similarities,
    stable,
)

PEER = SentenceTransformer(modules=[Normalize()], device="cpu")  # never called: losses want a model
SCORES = torch.tensor([[2.0, 1, 0, -1], [0.5, 0, 1.5, 1]])
TEACHER = torch.tensor([[1.0, 0], [0, 1]])
PLAIN = {"rows": "r", "base": "b", "distill": "none", "cos_temperature": 0.05}


def knobs(**changes) -> TrainRetrieverKnobs:
    return TrainRetrieverKnobs(**PLAIN | changes)


def vectors(queries=4, group=3, dims=16, seed=0):
    """Random vectors of queries and keys, and scores of a teacher."""
    random = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(*shape, generator=random)  # noqa: E731
    return make(queries, dims), make(queries * group, dims), make(queries, group)


# --- numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (contrastive(SCORES), 0.613764),
        (distilled(own_scores(SCORES), TEACHER), 0.128702),
        (distilled(own_scores(SCORES), TEACHER, teacher_temperature=0.1), 0.643181),
        (stable(SCORES, TEACHER), 0.570246),
    ],
)
def test_losses_are_those_of_the_specification(found, wanted):
    assert found.item() == pytest.approx(wanted, abs=1e-6)


def test_stable_is_contrastive_where_the_teacher_is_sure():
    sure = torch.tensor([[50.0, -50], [50, -50]])
    assert stable(SCORES, sure).item() == pytest.approx(contrastive(SCORES).item(), abs=1e-6)


def test_stable_is_contrastive_of_groups_of_one():
    scores = vectors(4, 4)[2]
    assert stable(scores, torch.zeros(4, 1)).item() == pytest.approx(contrastive(scores).item(), abs=1e-6)


def test_stable_is_the_loop_over_targets():
    """FlagEmbedding's m3_kd_loss, written out: each own key in turn, the earlier ones masked."""
    queries, group = 5, 4
    scores = torch.randn(queries, queries * group, generator=torch.Generator().manual_seed(3)) * 5
    teacher = torch.randn(queries, group, generator=torch.Generator().manual_seed(4))
    total, masked = torch.zeros(()), scores.clone()
    for place in range(group):
        targets = torch.arange(queries) * group + place
        losses = cross_entropy(masked, targets, reduction="none")
        total = total + (teacher.softmax(1)[:, place] * losses).mean()
        masked = masked.scatter(1, targets.unsqueeze(1), float("-inf"))
    assert stable(scores, teacher).item() == pytest.approx(total.item(), abs=1e-5)


@pytest.mark.parametrize("queries", [1, 3])
def test_stable_has_a_gradient_whatever_is_masked(queries):
    """Also of a batch of one, which has no key of another query."""
    scores = torch.randn(queries, queries * 2, requires_grad=True)
    masked = torch.ones_like(scores, dtype=torch.bool)
    loss = stable(scores, torch.zeros(queries, 2), masked)
    loss.backward()
    alone = stable(scores[:1, :2], torch.zeros(1, 2)).item()
    assert torch.isfinite(scores.grad).all() and (queries > 1 or loss.item() == pytest.approx(alone))


# --- against sentence-transformers --------------------------------------------------------------------------


def in_columns(queries, keys, group):
    """[queries, positives, negatives 1, …]: how sentence-transformers takes them."""
    return [queries, *(keys[place::group] for place in range(group))]


@pytest.mark.parametrize("temperature", [0.01, 0.05])
def test_contrastive_is_multiple_negatives_ranking(temperature):
    queries, keys, _ = vectors()
    peer = MultipleNegativesRankingLoss(PEER, scale=1 / temperature)
    wanted = peer.compute_loss_from_embeddings(in_columns(queries, keys, 3), None)
    found = retriever_loss(queries, keys, None, None, knobs(cos_temperature=temperature))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize(("temperature", "teacher_temperature"), [(0.01, 1.0), (0.05, 0.1)])
def test_kl_is_distill_kl_div_less_its_factor(temperature, teacher_temperature):
    queries, keys, teacher = vectors()
    peer = DistillKLDivLoss(
        PEER,
        student_temperature=temperature,
        teacher_temperature=teacher_temperature,
    )
    unit = [normalize(column, dim=-1) for column in in_columns(queries, keys, 3)]
    wanted = peer.compute_loss_from_embeddings(unit, teacher) / temperature**2
    alone = knobs(
        cos_temperature=temperature,
        teacher_temperature=teacher_temperature,
        distill="kl",
        contrastive_weight=0,
    )
    assert retriever_loss(queries, keys, teacher, None, alone).item() == pytest.approx(
        wanted.item(), rel=1e-4
    )


# --- masks, weights, prefixes -------------------------------------------------------------------------------


def test_another_rows_copy_of_a_positive_is_no_negative():
    """Two rows with one positive: as if the other row's column of it were not there."""
    queries, keys, _ = vectors(2, 2)
    keys[2] = keys[0]
    masked = false_negatives([[7, 1], [7, 2]], [[7], [7]])
    assert masked.tolist() == [[True, False, True, False]] * 2
    scores = similarities(queries, keys, "cos") / 0.05
    without = [
        cross_entropy(scores[row : row + 1, columns], torch.tensor([at]))
        for row, columns, at in ((0, [0, 1, 3], 0), (1, [1, 2, 3], 1))
    ]
    found = retriever_loss(queries, keys, None, masked, knobs())
    assert found.item() == pytest.approx(torch.stack(without).mean().item(), abs=1e-6)


def test_any_right_key_is_masked_not_the_drawn_one_alone():
    assert false_negatives([[1, 2], [3, 4]], [[1, 4], [3]]).tolist() == [
        [True, False, False, True],
        [False, False, True, False],
    ]


def test_the_guide_masks_what_it_finds_better_than_the_positive():
    queries = torch.eye(2)
    keys = torch.tensor([[1.0, 1], [1, 0], [0, 1], [1, 0.2]])  # the first query's negative is better
    assert guided(queries, keys).tolist() == [[False, True, False, True], [False, False, False, False]]


def test_logits_are_float32_and_masks_exact_in_bfloat16():
    queries, keys, _ = vectors()
    exact = retriever_loss(queries.bfloat16().float(), keys.bfloat16().float(), None, None, knobs())
    assert retriever_loss(queries.bfloat16(), keys.bfloat16(), None, None, knobs()) == exact


def test_a_margin_is_taken_from_the_positive_before_the_temperature():
    queries, keys, _ = vectors()
    scores = similarities(queries, keys, "cos")
    lowered = scores.clone()
    lowered[torch.arange(4), torch.arange(4) * 3] -= 0.1
    wanted = cross_entropy(lowered / 0.05, torch.arange(4) * 3)
    assert retriever_loss(queries, keys, None, None, knobs(margin=0.1)).item() == pytest.approx(wanted.item())


@pytest.mark.parametrize(
    ("contrast", "distil", "scored", "wanted"),
    [(0.2, 1, True, (0.2, 1)), (0.2, 0, True, (1, 0)), (0, 3, True, (0, 1)), (0.2, 1, False, (1, 0))],
)
@pytest.mark.parametrize("kind", ["kl", "stable"])
def test_two_losses_are_weighted_and_one_alone_is_not(contrast, distil, scored, wanted, kind):
    queries, keys, teacher = vectors()
    given = knobs(contrastive_weight=contrast, distill_weight=distil, distill=kind)
    scores = similarities(queries, keys, "cos") / 0.05
    second = stable(scores, teacher) if kind == "stable" else distilled(own_scores(scores), teacher)
    total = wanted[0] * contrastive(scores) + wanted[1] * second
    found = retriever_loss(queries, keys, teacher if scored else None, None, given)
    assert found.item() == pytest.approx(total.item(), rel=1e-6)


def test_matryoshka_is_the_mean_over_prefixes():
    queries, keys, _ = vectors()
    parts = [retriever_loss(queries[:, :d], keys[:, :d], None, None, knobs()) for d in (4, 8, 16)]
    found = retriever_loss(queries, keys, None, None, knobs(matryoshka=[4, 8]))
    assert found.item() == pytest.approx(torch.stack(parts).mean().item())


def test_similarities_of_three_metrics():
    queries, keys, _ = vectors()
    assert torch.allclose(similarities(queries, keys, "ip"), queries @ keys.T)
    assert torch.allclose(similarities(queries, keys, "l2"), -(torch.cdist(queries, keys) ** 2), atol=1e-4)
    unit = [normalize(part, dim=1) for part in (queries, keys)]
    assert torch.allclose(similarities(queries, keys, "cos"), unit[0] @ unit[1].T)
