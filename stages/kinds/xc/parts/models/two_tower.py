"""A dense retriever: one encoder for points and for the labels' own texts, trained on their pairs.

A batch holds points, each with one of its labels; the other labels of the batch are the negatives, but for
those that are true of the point, too (in-batch softmax: Henderson et al. 2017, Karpukhin et al. 2020).
sentence-transformers' MultipleNegativesRankingLoss knows neither these nor weights of pairs.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.util import batch_to_device
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch.nn.functional import cross_entropy, normalize
from torch.utils.checkpoint import checkpoint

from stages.core.errors import UserError
from stages.core.text import tokens
from stages.kinds.xc.knobs import XcKnobs
from stages.retrieval.encoders import LatentSemantic
from stages.retrieval.neighbours import nearest, threads

UNKNOWN = "[UNK]"
SCALE = 20.0  # of cosines before the softmax, the default of MultipleNegativesRankingLoss
AT_ONCE = 16  # texts whose activations a transformer holds, whatever the size of a batch


def predict(
    texts: Sequence[str],
    matrix: csr_matrix,
    labels: Sequence[str],
    queries: Sequence[str],
    k: int,
    knobs: XcKnobs,
) -> np.ndarray:
    """Train on `texts` and `matrix`, (texts, labels), and predict for `queries`.

    Returns int32 (queries, at most k): the labels of each query, nearest first; exact neighbours. Rows
    without a label are left out; labels without a row can be found by their text. The same on any number of
    threads with word vectors, else on a CPU and one number of threads. Raises UserError for a tower
    that cannot be loaded.
    """
    texts, labels, queries = (
        [" ".join(text.split()[: knobs.words]) for text in part] for part in (texts, labels, queries)
    )
    if knobs.is_static:
        model = static([*texts, *labels], knobs.dims)
        texts, labels, queries = (
            [" ".join(tokens(text)) for text in part] for part in (texts, labels, queries)
        )
    else:
        model = pretrained(knobs.tower)
    # one thread: PyTorch adds in another order on another number
    with threads() if knobs.is_static else nullcontext():
        train(model, texts, matrix, labels, knobs)
        vectors = [
            model.encode(part, normalize_embeddings=True, show_progress_bar=False)
            for part in (queries, labels)
        ]
    return nearest(*(part.astype(np.float16) for part in vectors), min(k, len(labels)))[0]


def static(fit: Sequence[str], dims: int) -> SentenceTransformer:
    """The mean of word vectors, which start as latent semantic analysis of `fit`; reads stems with spaces."""
    start = LatentSemantic(dims, fit)
    vocabulary = {word: int(place) for word, place in start.vectorizer.vocabulary_.items()}
    components = np.eye(len(vocabulary)) if start.components is None else start.components
    weights = components * start.vectorizer.idf_[:, None]
    weights = np.concatenate([weights, np.zeros((1, weights.shape[1]))])
    weights /= np.linalg.norm(weights, axis=1).mean()  # a step of training is then alike for any `dims`
    tokenizer = Tokenizer(WordLevel({**vocabulary, UNKNOWN: len(vocabulary)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    module = StaticEmbedding(tokenizer, embedding_weights=weights.astype(np.float32))
    module.embedding.sparse = True
    return SentenceTransformer(modules=[module], device="cpu")


def pretrained(directory: str) -> SentenceTransformer:
    """The model in a directory, which runs none of its own code. Raises UserError if it is none."""
    try:
        return SentenceTransformer(directory, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"tower: {directory!r} is no sentence-transformers model ({reason})") from None


def train(
    model: SentenceTransformer,
    texts: Sequence[str],
    matrix: csr_matrix,
    labels: Sequence[str],
    knobs: XcKnobs,
) -> None:
    """Adam over `epochs` passes through the pairs of `matrix`; its rate falls to 0 by equal steps."""
    torch.manual_seed(knobs.seed)
    model.train()
    # word vectors are many, and a batch has few of them: only those are touched
    adam = torch.optim.SparseAdam if knobs.is_static else torch.optim.Adam
    optimizer = adam(list(model.parameters()), lr=knobs.lr)
    texts, labels = tokenized(model, texts), tokenized(model, labels)
    steps = knobs.epochs * -(-matrix.nnz // knobs.batch_size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for rows, columns, values in shuffled(matrix, knobs):
        points, answers = embed(model, [texts[n] for n in rows]), embed(model, [labels[n] for n in columns])
        loss = in_batch_loss(
            points @ answers.T, torch.from_numpy(values), true_elsewhere(matrix, rows, columns)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def tokenized(model: SentenceTransformer, texts: Sequence[str]) -> Sequence:
    """For word vectors the ids of each text, cut once and not in each epoch. Else the texts."""
    if not isinstance(model[0], StaticEmbedding):
        return texts
    return [torch.tensor(one.ids) for one in model.tokenizer.encode_batch(texts, add_special_tokens=False)]


def embed(model: SentenceTransformer, texts: Sequence) -> torch.Tensor:
    """(texts, dims), rows of length 1, with gradients; `texts` as `tokenized` gives them."""
    if isinstance(model[0], StaticEmbedding):
        lengths = torch.tensor([len(ids) for ids in texts])
        features = {"input_ids": torch.cat(texts), "offsets": lengths.cumsum(0) - lengths}
        return normalize(model(features)["sentence_embedding"], dim=-1)

    def forward(part: list[str]) -> torch.Tensor:
        return model(batch_to_device(model.preprocess(part), model.device))["sentence_embedding"]

    # A batch of 256 pairs held 19.5 GB of activations. A checkpoint holds none: its part is computed again on
    # the way back (gradient caching, Gao et al. 2021). Texts of a part have about one length, and so little
    # padding, which saves the time that this takes.
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    parts = ([texts[n] for n in order[start : start + AT_ONCE]] for start in range(0, len(order), AT_ONCE))
    vectors = torch.cat([checkpoint(forward, part, use_reentrant=False) for part in parts])
    return normalize(vectors, dim=-1)[np.argsort(order)]


def shuffled(matrix: csr_matrix, knobs: XcKnobs) -> Iterator[tuple[np.ndarray, ...]]:
    """Batches of all pairs of `matrix`, in another order each epoch: rows, columns, values."""
    random, pairs = np.random.default_rng(knobs.seed), matrix.tocoo()
    for _ in range(knobs.epochs):
        order = random.permutation(matrix.nnz)
        for start in range(0, matrix.nnz, knobs.batch_size):
            batch = order[start : start + knobs.batch_size]
            yield pairs.row[batch], pairs.col[batch], pairs.data[batch]


def true_elsewhere(matrix: csr_matrix, rows: np.ndarray, columns: np.ndarray) -> torch.Tensor:
    """Bool (rows, columns): labels of the batch that are true of a row, but were not drawn for it."""
    true = torch.from_numpy(matrix[rows][:, columns].toarray() > 0)
    return true.fill_diagonal_(False)


def in_batch_loss(cosines: torch.Tensor, values: torch.Tensor, left_out: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of choosing each row's own column, weighted by `values`; `left_out` are no negatives.

    `cosines` (points, labels) of a batch, `values` (points,), `left_out` bool (points, labels).
    """
    values, left_out = values.to(cosines.device), left_out.to(cosines.device)
    logits = (SCALE * cosines).masked_fill(left_out, float("-inf"))
    diagonal = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, diagonal, reduction="none") * values).sum() / values.sum()
