"""Eight-bit weights for an OpenVINO model, and how far its predictions move with them.

Each row of a weight matrix is rounded to 255 steps of its own size (symmetric, per output channel); products
are computed in the precision of the engine. Embeddings and everything else stay as they are.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.core.errors import UserError
from stages.core.tokenizer import TextCodec

ROWS, LENGTH = 16, 48  # texts that the exact model draws for the comparison, tokens of each
LARGEST_KL, LEAST_AGREEMENT = 0.01, 0.95


class Drift(NamedTuple):
    """Means over tokens: divergence of next-token distributions in nats, share of equal likeliest ones."""

    kl: float
    agreement: float


def compressed(graph, directory: Path) -> Drift:
    """Give a stateful openvino.Model eight-bit weights, in place; what that does to its predictions.

    Raises UserError where it does too much.
    """
    import openvino

    codec, core = TextCodec(directory), openvino.Core()
    exact = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    compress(graph)
    other = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = drift(exact, other, codec.prefix[-1] if codec.prefix else codec.eos_id)
    if found.kl > LARGEST_KL or found.agreement < LEAST_AGREEMENT:
        raise UserError(
            f"weights: int8 changes what {directory} predicts: mean KL {found.kl} nats a token (at most "
            f"{LARGEST_KL}), likeliest token the same for {found.agreement:.1%} (at least "
            f"{LEAST_AGREEMENT:.0%}); set weights to exact in params.yaml"
        )
    return found


def compress(graph) -> None:
    """Replace the weights (out, in) of the matrix products of an openvino.Model, in place."""
    from openvino import opset13 as op

    for product in graph.get_ops():
        if product.get_type_name() != "MatMul" or not product.get_attributes()["transpose_b"]:
            continue
        weights = product.input_value(1).get_node()
        if weights.get_type_name() == "Constant":
            steps, scale = rounded(weights.data)
            # The pattern that plugins know as compressed weights.
            own = op.multiply(op.convert(op.constant(steps), "f32"), op.constant(scale))
            product.input(1).replace_source_output(own.output(0))


def rounded(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 (out, in) and float32 scales (out, 1), whose product is near the `weights`."""
    scale = np.abs(weights).max(1, keepdims=True) / 127
    scale[scale == 0] = 1
    return np.round(weights / scale).astype(np.int8), scale.astype(np.float32)


def drift(exact, other, first: int) -> Drift:
    """Between two compiled stateful models, over texts that begin with the token `first`.

    The exact one draws them (temperature 1, seeded), so that they are of the kind that it writes.
    """
    draw, requests = np.random.default_rng(0), [model.create_infer_request() for model in (exact, other)]
    ids, divergences, equal = np.full((ROWS, 1), first), [], []
    for step in range(LENGTH):
        inputs = {
            "input_ids": ids,
            "attention_mask": np.ones((ROWS, step + 1), np.int64),
            "position_ids": np.full((ROWS, 1), step),
            "beam_idx": np.arange(ROWS, dtype=np.int32),
        }
        p, q = (_log_softmax(request.infer(inputs)[0][:, -1].astype(np.float64)) for request in requests)
        divergences.append((np.exp(p) * (p - q)).sum(-1))
        equal.append(p.argmax(-1) == q.argmax(-1))
        ids = (np.exp(p).cumsum(-1) > draw.random((ROWS, 1))).argmax(-1)[:, None]
    return Drift(round(float(np.mean(divergences)), 5), round(float(np.mean(equal)), 4))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
