"""A dense retriever: one encoder for points and for the labels' own texts, trained on their pairs.

A batch holds points, each with one of its labels; the other labels of the batch are the negatives, but for
those that are true of the point, too (in-batch softmax: Henderson et al. 2017, Karpukhin et al. 2020).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.util import batch_to_device
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from stages.core.errors import UserError
from stages.core.text import tokens
from stages.retrieval.latent import LatentSemantic
from stages.retrieval.neighbours import nearest

STATIC = "static"
UNKNOWN = "[UNK]"
SCALE = 20.0  # of cosines before the softmax, the default of MultipleNegativesRankingLoss
BLOCK = 1024  # texts encoded at once after training


class Settings(NamedTuple):
    tower: str
    dims: int
    words: int
    epochs: int
    batch_size: int
    lr: float
    seed: int


def predict(
    texts: Sequence[str], matrix, labels: Sequence[str], queries: Sequence[str], k: int, how: Settings
):
    """Train on `texts` and `matrix`, csr (texts, labels), and predict for `queries`.

    Returns int32 (queries, at most k): the labels of each query, nearest first; exact neighbours. Rows
    without a label are left out; labels without a row can be found by their text. The same on any number of
    threads with `static`, on a CPU and one number of threads with other towers. Raises UserError for a tower
    that cannot be loaded.
    """
    texts, labels, queries = (
        [" ".join(text.split()[: how.words]) for text in part] for part in (texts, labels, queries)
    )
    if how.tower == STATIC:
        model = static([*texts, *labels], how.dims)
        texts, labels, queries = map(stemmed, (texts, labels, queries))
    else:
        model = pretrained(how.tower)
    points, answers, asked = (reader(model, part) for part in (texts, labels, queries))
    with threads(1 if how.tower == STATIC else torch.get_num_threads()):
        train(model, points, matrix, answers, how)
        found = [vectors(model, *part) for part in ((asked, len(queries)), (answers, len(labels)))]
    return nearest(*found, min(k, len(labels)))[0]


def stemmed(texts: Sequence[str]) -> list[str]:
    return [" ".join(tokens(text)) for text in texts]


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


def pretrained(name: str) -> SentenceTransformer:
    try:
        return SentenceTransformer(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"tower: {name!r} is neither `{STATIC}` nor a sentence-transformers model ({reason})"
        ) from None


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Reader = Callable[[Sequence[int]], dict[str, torch.Tensor]]


def reader(model: SentenceTransformer, texts: Sequence[str]) -> Reader:
    """What the model takes for the texts in some places; for word vectors they are tokenized once."""
    if not isinstance(model[0], StaticEmbedding):
        return lambda places: model.preprocess([texts[place] for place in places])
    encoded = model.tokenizer.encode_batch(texts, add_special_tokens=False)
    words = [torch.tensor(one.ids, dtype=torch.long) for one in encoded]

    def bags(places: Sequence[int]) -> dict[str, torch.Tensor]:
        chosen = [words[place] for place in places]
        ends = torch.tensor([len(one) for one in chosen]).cumsum(0)
        return {"input_ids": torch.cat(chosen), "offsets": ends.roll(1).index_fill(0, torch.tensor(0), 0)}

    return bags


def embed(model: SentenceTransformer, features: dict[str, torch.Tensor]) -> torch.Tensor:
    """(texts, dims), rows of length 1, with gradients."""
    found = model(batch_to_device(features, model.device))["sentence_embedding"]
    return torch.nn.functional.normalize(found, dim=-1)


def vectors(model: SentenceTransformer, read: Reader, count: int) -> np.ndarray:
    """float16 (texts, dims), rows of length 1."""
    starts = range(0, count, BLOCK)
    with torch.inference_mode():
        blocks = [embed(model, read(range(start, min(start + BLOCK, count)))) for start in starts]
    return torch.cat(blocks).half().cpu().numpy()


def train(model: SentenceTransformer, points: Reader, matrix, labels: Reader, how: Settings) -> None:
    """Adam over `epochs` passes through the pairs of `matrix`; its rate falls to 0 by equal steps."""
    torch.manual_seed(how.seed)
    model.train()
    # word vectors are many, and a batch has few of them: only those are touched
    adam = torch.optim.SparseAdam if how.tower == STATIC else torch.optim.Adam
    optimizer = adam(list(model.parameters()), lr=how.lr)
    steps = how.epochs * -(-matrix.nnz // how.batch_size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for rows, columns, values in shuffled(matrix, how):
        cosines = embed(model, points(rows)) @ embed(model, labels(columns)).T
        loss = in_batch_loss(cosines, torch.from_numpy(values), true_elsewhere(matrix, rows, columns))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def shuffled(matrix, how: Settings) -> Iterator[tuple[np.ndarray, ...]]:
    """Batches of all pairs of `matrix`, in another order each epoch: rows, columns, values."""
    random, pairs = np.random.default_rng(how.seed), matrix.tocoo()
    for _ in range(how.epochs):
        order = random.permutation(matrix.nnz)
        for start in range(0, matrix.nnz, how.batch_size):
            chosen = order[start : start + how.batch_size]
            yield pairs.row[chosen], pairs.col[chosen], pairs.data[chosen]


def true_elsewhere(matrix, rows: np.ndarray, columns: np.ndarray) -> torch.Tensor:
    """bool (rows, columns): labels of the batch that are true of a row, but were not drawn for it."""
    found = torch.from_numpy(matrix[rows][:, columns].toarray() > 0)
    return found.fill_diagonal_(False)


def in_batch_loss(cosines: torch.Tensor, values: torch.Tensor, left_out: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of choosing each row's own column, weighted by `values`; `left_out` are no negatives."""
    values, left_out = values.to(cosines.device), left_out.to(cosines.device)
    logits = (SCALE * cosines).masked_fill(left_out, float("-inf"))
    own = torch.arange(len(logits), device=logits.device)
    return (torch.nn.functional.cross_entropy(logits, own, reduction="none") * values).sum() / values.sum()
