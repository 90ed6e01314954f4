"""Losses of retrievers, over the similarities of a batch: contrastive, and two distillations of scores.

Everywhere B queries have N keys each, the positive first: row q of `scores` (B, B·N) is about query q, whose
own keys are the columns q·N … q·N + N − 1. Scores are float32 whatever the encoder computes in: at a
temperature of .01 a float16 or bfloat16 logit is off by more than the margin of a hard negative. What may not
count is −inf, so that it is left out of every softmax exactly.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, normalize, softmax

NOTHING = -1e30  # log of a sum of no terms; with −inf its gradient would be no number


def similarities(queries: torch.Tensor, keys: torch.Tensor, metric: str) -> torch.Tensor:
    """Float32 (queries, keys): cosines, inner products, or squared distances less than 0."""
    queries, keys = queries.float(), keys.float()
    if metric == "l2":
        return -(queries.unsqueeze(1) - keys).square().sum(-1)
    if metric == "cos":
        queries, keys = normalize(queries, dim=-1), normalize(keys, dim=-1)
    return queries @ keys.T


def own_columns(scores: torch.Tensor) -> torch.Tensor:
    """Int64 (B, N): where each query's own keys are, the positive first."""
    queries = len(scores)
    return torch.arange(scores.shape[1], device=scores.device).view(queries, -1)


def own_scores(scores: torch.Tensor) -> torch.Tensor:
    """(B, N): those of each query's own keys."""
    return scores.gather(1, own_columns(scores))


def contrastive(
    scores: torch.Tensor, masked: torch.Tensor | None = None, margin: float = 0.0
) -> torch.Tensor:
    """Mean cross entropy of the positive among all keys of the batch (InfoNCE, van den Oord et al. 2018).

    `masked` (B, B·N) are keys that are no negatives of the query; its positive always counts, less `margin`.
    """
    positives = own_columns(scores)[:, :1]
    if masked is not None:
        scores = scores.masked_fill(masked.scatter(1, positives, False), float("-inf"))
    if margin:
        scores = scores.scatter_add(1, positives, torch.full_like(scores[:, :1], -margin))
    return cross_entropy(scores, positives.squeeze(1))


def distilled(
    own: torch.Tensor,
    teacher: torch.Tensor,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
) -> torch.Tensor:
    """Mean KL divergence of the student's from the teacher's softmax, each over a query's own keys (B, N)."""
    wanted = log_softmax(teacher.float() / teacher_temperature, dim=1)
    found = log_softmax(own / student_temperature, dim=1)
    return kl_div(found, wanted, log_target=True, reduction="batchmean")


def stable(scores: torch.Tensor, teacher: torch.Tensor, masked: torch.Tensor | None = None) -> torch.Tensor:
    """Stable distillation of LLM-Embedder (Zhang et al. 2023): every own key is a positive in its turn.

    Key i counts by the teacher's softmax, and is set against the own keys after it and all keys of the other
    queries; keys are in order of the teacher's scores but for the positive. `masked` as in `contrastive`, of
    other queries' keys only.
    """
    columns, own = own_columns(scores), own_scores(scores)
    hidden = torch.zeros_like(scores, dtype=torch.bool) if masked is None else masked
    hidden = hidden.scatter(1, columns, True)
    hidden_all = hidden.all(1, keepdim=True)
    others = scores.masked_fill(hidden, float("-inf")).masked_fill(hidden_all, NOTHING)
    others = others.logsumexp(1, keepdim=True)
    at_or_after = own.flip(1).logcumsumexp(1).flip(1)
    weights = softmax(teacher.float(), dim=1)
    return (weights * (torch.logaddexp(at_or_after, others) - own)).sum(1).mean()


def false_negatives(keys: Sequence[Sequence[int]], positives: Sequence[Sequence[int]]) -> torch.Tensor:
    """Bool (B, B·N): keys whose text is that of a positive of the query.

    keys: texts of each query's N keys. positives: texts of all that is right for each query.
    """
    columns = np.asarray(keys).reshape(-1)
    return torch.from_numpy(np.stack([np.isin(columns, list(right)) for right in positives]))


def guided(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Bool (B, B·N): keys that a guide, whose vectors these are, finds better than the query's positive.

    GISTEmbed (Solatorio 2024).
    """
    cosines = similarities(queries, keys, "cos")
    return cosines > cosines.gather(1, own_columns(cosines)[:, :1])
