"""A Hugging Face causal language model as an OpenVINO model with a hidden key/value cache.

What openvino-genai asks for: inputs input_ids, attention_mask, position_ids and beam_idx, output logits, and
the cache as state that beam_idx reorders. The model's own code is traced, so every architecture follows whose
attention goes through `scaled_dot_product_attention`. The result is derived data and lies in scratch.

torch and transformers are imported by what converts alone: workers find the model converted, and would wait
seconds for both.
"""

import fcntl
import re
import shutil
import warnings
from pathlib import Path

import openvino
from openvino import opset13 as op
from openvino._offline_transformations import apply_make_stateful_transformation

from stages.core import layout
from stages.core.files import atomic_directory
from stages.core.hashing import model_fingerprint, sha256_json

VERSION = 1  # of this file's conversion


def converted(directory: Path) -> Path:
    """The directory in scratch of the converted model of a Hugging Face `directory`, which is made if absent.

    Conversions of earlier weights of the same `directory` are removed.
    """
    directory = Path(directory)
    key = sha256_json([model_fingerprint(directory), openvino.__version__, VERSION])[:16]
    prefix = f"openvino-{'-'.join(directory.parts[-2:])}-"
    target = layout.SCRATCH / (prefix + key)
    layout.SCRATCH.mkdir(parents=True, exist_ok=True)
    with open(layout.SCRATCH / f".{prefix}lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two datasets may share a base model and be built at once
        if not target.is_dir():
            with atomic_directory(target, "openvino") as temporary:
                graph = convert(directory)
                openvino.save_model(graph, temporary / "openvino_model.xml", compress_to_fp16=False)
                shutil.copy(directory / "config.json", temporary)
            for old in layout.SCRATCH.iterdir():
                if old != target and re.fullmatch(re.escape(prefix) + "[0-9a-f]{16}", old.name):
                    shutil.rmtree(old)
    return target


def convert(directory: Path):
    """Trace the model of `directory` in float32; returns a stateful openvino.Model."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False
    ).eval()
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layers = config.num_hidden_layers
    past = [(torch.zeros(2, heads, 3, size), torch.zeros(2, heads, 3, size)) for _ in range(layers)]
    example = {
        "input_ids": torch.ones(2, 4, dtype=torch.long),
        "attention_mask": torch.ones(2, 7, dtype=torch.long),
        "position_ids": torch.arange(3, 7).expand(2, 4).contiguous(),
        "past": past,
    }
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of branches that no input here takes
        graph = openvino.convert_model(_step(model), example_input=example)

    for name, port in zip(("input_ids", "attention_mask", "position_ids"), graph.inputs[:3], strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
    graph.outputs[0].get_tensor().set_names({"logits"})
    beam = op.parameter([-1], openvino.Type.i32, name="beam_idx")
    beam.output(0).get_tensor().set_names({"beam_idx"})
    pairs = {}
    for number, (before, after) in enumerate(zip(graph.inputs[3:], graph.outputs[1:], strict=True)):
        before.get_tensor().set_names({f"past.{number}"})
        after.get_tensor().set_names({f"present.{number}"})
        before.get_node().set_partial_shape(openvino.PartialShape([-1, heads, -1, size]))
        before.get_node().set_element_type(openvino.Type.f32)
        readers = before.get_target_inputs()
        reordered = op.gather(before, beam, op.constant(0))
        for reader in readers:
            reader.replace_source_output(reordered.output(0))
        pairs[f"past.{number}"] = f"present.{number}"
    graph.add_parameters([beam])
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, pairs)

    # The state starts with no positions, for as many rows as input_ids has.
    rows = op.gather(op.shape_of(graph.inputs[0], output_type="i64"), op.constant([0]), op.constant(0))
    empty = op.concat([rows, op.constant([heads]), op.constant([0]), op.constant([size])], axis=0)
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([op.broadcast(op.constant(0.0, dtype=openvino.Type.f32), empty)])
    graph.validate_nodes_and_infer_types()
    return graph


def _step(model):
    """A torch module to trace: one forward pass of `model`, with its cache as plain tensors in and out.

    Inputs: ids and positions (rows, new), mask (rows, all), and keys and values (rows, heads, past, size) of
    each layer. Outputs: logits, then the longer keys and values. The causal mask is spelt out.
    """
    import torch

    class Past:
        """The three things that a model's layers ask of a transformers cache."""

        is_compileable = False

        def __init__(self, past):
            self.past, self.present = past, [None] * len(past)

        def update(self, keys, values, layer, *_, **__):
            before = self.past[layer]
            self.present[layer] = (torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2))
            return self.present[layer]

        def get_seq_length(self, layer=0):
            return self.past[0][0].shape[2]

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, position_ids, past):
            cache = Past(past)
            query = torch.arange(input_ids.shape[1]).view(1, 1, -1, 1) + past[0][0].shape[2]
            key = torch.arange(attention_mask.shape[1]).view(1, 1, 1, -1)
            out = self.model(
                input_ids=input_ids,
                attention_mask=(key <= query) & attention_mask[:, None, None, :].bool(),
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            )
            return (out.logits, *[tensor for pair in cache.present for tensor in pair])

    return Step()
