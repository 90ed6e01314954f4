"""A Hugging Face directory as a litgpt checkpoint, from its own config.json: no hub, no list of names."""

import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from stages.core.chat_template import check_chat_template
from stages.core.errors import UserError, reason
from stages.core.files import write_json
from stages.core.tokenizer import TextCodec
from stages.student.formats.card import CARD
from stages.student.formats.hf_folder import (
    COMPANIONS,
    copy_companions,
    own_file,
    read_hf_config,
    read_weights,
)
from stages.student.formats.litgpt import GPT, Config, from_hf, save_config
from stages.student.formats.weights import SAFETENSORS, Unfilled, blocks, create_state, load_state

FAMILIES = {
    "gpt_neox": "pythia",
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2.5",
    "qwen3": "Qwen3",
    "phi": "phi",
    "phi3": "Phi-3",
}
HEADS = {"gpt_neox": "embed_out.weight"}
EMBEDDINGS = {"gpt_neox": "gpt_neox.embed_in.weight"}
HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"  # litgpt's names
SIZES = (
    *("hidden_size", "intermediate_size", "max_position_embeddings"),
    *("num_attention_heads", "num_hidden_layers", "vocab_size"),
)
LARGEST = 1 << 22  # of SIZES: a number that is a mistake must not fill the memory
# What transformers fills in by family where config.json says nothing, as far as `litgpt_config` reads it.
FILLED_IN = (
    *(*SIZES, "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "layer_norm_eps"),
    *("sliding_window", "tie_word_embeddings", "use_parallel_residual", "attention_bias"),
)
QUANTISED = ("quantization_config", "compression_config")


def head_key(hf: dict) -> str:
    """The name of the output head's weight in Hugging Face files."""
    return HEADS.get(hf["model_type"], "lm_head.weight")


def litgpt_config(hf: dict, where: str = "config.json") -> Config:
    """Litgpt's Config of a model of one of the FAMILIES, from its transformers config.

    Raises UserError for another architecture, or for a setting that litgpt cannot express.
    """
    family = hf.get("model_type")
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(f"{where}: model_type {family!r} is not supported; use a base model of type {known}")

    def expect(key: str, default, *allowed) -> None:
        if hf.get(key, default) not in allowed:
            raise UserError(f"{where}: {key} = {hf[key]!r} is not supported, only {allowed[0]!r}")

    heads = hf["num_attention_heads"]
    config = {
        "name": f"{FAMILIES[family]}-local",  # litgpt's own tools choose the weight map by this prefix
        "block_size": _context(hf),
        "n_layer": hf["num_hidden_layers"],
        "n_embd": hf["hidden_size"],
        "n_head": heads,
        "intermediate_size": hf["intermediate_size"],
        "vocab_size": hf["vocab_size"],
        "padded_vocab_size": hf["vocab_size"],
        **_rope(hf, where),
    }
    if family in ("gpt_neox", "phi"):
        phi, usual = family == "phi", {"gpt_neox": "gelu", "phi": "gelu_new"}[family]
        expect("attention_bias", True, True)
        expect("qk_layernorm", False, False)
        expect("hidden_act", usual, "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")
        return Config(
            **config,
            n_query_groups=hf.get("num_key_value_heads") or heads,
            norm_eps=float(hf.get("layer_norm_eps", 1e-5)),
            parallel_residual=phi or hf.get("use_parallel_residual", True),
            shared_attention_norm=phi,
            lm_head_bias=phi,
            gelu_approximate="none" if hf.get("hidden_act", usual) == "gelu" else "tanh",
            bias=True,
            attn_bias=True,
        )
    expect("hidden_act", "silu", "silu")
    expect("use_sliding_window", False, False)
    expect("mlp_bias", False, False)
    if family != "qwen2":
        expect("attention_bias", False, False)
    return Config(
        **config,
        n_query_groups=hf.get("num_key_value_heads") or heads,
        head_size=int(hf.get("head_dim") or hf["hidden_size"] // heads),
        norm_class_name="RMSNorm",
        norm_eps=float(hf.get("rms_norm_eps", 1e-6)),
        norm_qk=family == "qwen3",
        parallel_residual=False,
        bias=False,
        attn_bias=family == "qwen2",
        mlp_class_name="LLaMAMLP",
    )


def _context(hf: dict) -> int:
    """Positions a model may be used with: up to its sliding window, litgpt computes the same attention."""
    windowed = hf["model_type"] in ("mistral", "phi3") and hf.get("sliding_window")
    return min(hf["max_position_embeddings"], windowed or hf["max_position_embeddings"])


def _rope(hf: dict, where: str) -> dict:
    """Rotary settings, as transformers 5 writes them (rope_parameters) and as earlier releases did."""
    rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    share = rope.get("partial_rotary_factor", hf.get("rotary_pct", hf.get("partial_rotary_factor")))
    if share is None:
        share = {"gpt_neox": 0.25, "phi": 0.5}.get(hf["model_type"], 1.0)
    base = rope.get("rope_theta") or hf.get("rope_theta") or hf.get("rotary_emb_base") or 10000
    settings = {"rope_base": int(base), "rotary_percentage": float(share)}
    if kind == "linear":
        settings["rope_adjustments"] = {"factor": rope["factor"]}
    elif kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor")
        original = rope["original_max_position_embeddings"]
        settings["rope_adjustments"] = {**{n: rope[n] for n in names}, "original_max_seq_len": original}
    elif kind != "default":
        raise UserError(f"{where}: rope_type {kind!r} is not supported; use default, linear or llama3")
    return settings


def for_all_releases(hf: dict) -> dict:
    """The config with its rotary settings under the names of transformers 4, too.

    Without them transformers 4 would silently take its defaults for what 5 writes in `rope_parameters`.
    """
    rope = hf.get("rope_parameters") or {}
    names = {"rope_theta": "rope_theta", "partial_rotary_factor": "partial_rotary_factor"}
    if hf["model_type"] == "gpt_neox":
        names = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
    known = {old: rope[new] for new, old in names.items() if new in rope}
    scaled = {"rope_scaling": rope} if rope.get("rope_type", "default") != "default" else {}
    return {**hf, **known, **scaled}


def to_litgpt(weights: dict[str, torch.Tensor], hf: dict, config: Config) -> dict[str, torch.Tensor]:
    """Litgpt's state of Hugging Face `weights`; a tied head is the same tensor as the embedding."""
    if hf.get("tie_word_embeddings"):
        # Some files carry a tied head all the same; transformers would ignore it.
        weights = {name: value for name, value in weights.items() if name != head_key(hf)}
    state: dict[str, torch.Tensor] = {}
    copy = {
        "gpt_neox": lambda: from_hf.copy_weights_gpt_neox(config, state, weights),
        "llama": lambda: from_hf.copy_weights_hf_llama(config, {}, state, weights),
        "mistral": lambda: from_hf.copy_weights_hf_llama(config, {}, state, weights),
        "phi": lambda: from_hf.copy_weights_phi(config, {}, state, weights),
        "phi3": lambda: from_hf.copy_weights_phi(config, {}, state, weights),
        "qwen2": lambda: from_hf.copy_weights_qwen_2_5(config, {}, state, weights),
        "qwen3": lambda: from_hf.copy_weights_qwen_3(config, {}, state, weights),
    }
    try:
        copy[hf["model_type"]]()
    except KeyError as error:
        raise UserError(f"weights: unexpected tensor {error} for model_type {hf['model_type']!r}") from None
    if hf.get("tie_word_embeddings"):
        state["lm_head.weight"] = state["transformer.wte.weight"]
    return state


def mapped_model(kind: type, config: Config, state: dict[str, torch.Tensor]):
    """A litgpt model of class `kind` that holds the very tensors of `state`, ready to run."""
    with Unfilled():
        model = kind(config)
    model.load_state_dict(state, assign=True)
    return model.eval()


def dtype_name(state: dict[str, torch.Tensor]) -> str:
    return str(state["transformer.wte.weight"].dtype).removeprefix("torch.")


def import_base(source: Path, target: Path, chat: bool = True) -> dict:
    """Write in `target` (an existing directory) the model of `source` as both kinds of checkpoint.

    Without `chat` it is a model of plain text, even if it comes with a chat template.
    Returns its figures. Raises UserError when the tokenizer, weights or config are missing or do not fit.
    """
    source = Path(source)
    for name in ("config.json", CARD, *COMPANIONS):
        if (source / name).is_file():
            own_file(source / name, source)
    hf, config = source_config(source)
    if chat:
        check_chat_template(source)
    codec = TextCodec(source, chat)
    codec.prompts(["a message"])  # a template that refuses is reported before anything is read
    if not (source / "tokenizer_config.json").is_file():
        raise UserError(f"{source}: no tokenizer_config.json; copy it beside tokenizer.json")
    if codec.vocabulary_size > config.padded_vocab_size:
        raise UserError(
            f"{source / 'tokenizer.json'}: {codec.vocabulary_size} tokens, but the model embeds "
            f"{config.padded_vocab_size}; this tokenizer belongs to another model"
        )
    weights = _named_as_whole(read_weights(source), hf)
    _check_shapes({name: value.to("meta") for name, value in weights.items()}, hf, config, source)
    _write_litgpt(target, weights, hf, config, source)
    whole = {name: value.contiguous() for name, value in weights.items()}
    save_file(whole, target / "model.safetensors", {"format": "pt"})
    state = load_state(target)
    write_json(target / "config.json", for_all_releases({**hf, "dtype": dtype_name(state)}))
    copy_companions(source, target, chat)
    if (source / CARD).is_file():
        shutil.copyfile(source / CARD, target / CARD)
    return figures(state, hf, config)


def source_config(source: Path) -> tuple[dict, Config]:
    """(config.json with what transformers would fill in, litgpt's of it) of a directory that people bring.

    Raises UserError for a quantised model, one of no known family, and settings that cannot be.
    """
    from transformers import AutoConfig  # seconds, which `finetune` and `merge` do without

    file, hf = source / "config.json", read_hf_config(source)
    if found := next((hf[key] for key in QUANTISED if hf.get(key)), None):
        method = found.get("quant_method") if isinstance(found, dict) else None
        raise _quantised(file, method or "it has a quantization_config")
    for name in SIZES:
        if name in hf and (type(hf[name]) is not int or not 0 < hf[name] <= LARGEST):
            raise UserError(f"{file}: {name} = {hf[name]!r} is not a whole number from 1 to {LARGEST:,}")
    try:
        if hf.get("model_type") in FAMILIES:
            given = {name: hf[name] for name in ("model_type", *FILLED_IN) if name in hf}
            usual = AutoConfig.for_model(**given).to_dict()
            hf = {**{name: usual[name] for name in FILLED_IN if name in usual}, **hf}
        return hf, litgpt_config(hf, str(file))
    except (ArithmeticError, AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: its settings make no model ({error!r})") from None


def _quantised(where: Path, form: object) -> UserError:
    return UserError(f"{where}: the weights are quantised ({form}); take the model that this was made from")


def _named_as_whole(weights: dict[str, torch.Tensor], hf: dict) -> dict[str, torch.Tensor]:
    """`weights` of a model that was saved without its head, under the names that they have in a whole one."""
    stem = "gpt_neox." if hf["model_type"] == "gpt_neox" else "model."
    if any(name.startswith(stem) for name in weights):
        return weights
    head = head_key(hf).removesuffix("weight")  # its bias, too
    return {name if name.startswith(head) else f"{stem}{name}": value for name, value in weights.items()}


def _write_litgpt(
    target: Path, weights: dict[str, torch.Tensor], hf: dict, config: Config, source: Path
) -> None:
    """lit_model.pth and model_config.yaml of Hugging Face `weights`, converted a block at a time.

    Raises UserError for a weight that is not a number.
    """
    embedding = EMBEDDINGS.get(hf["model_type"], "model.embed_tokens.weight")
    sources = {EMBEDDING: embedding, HEAD: head_key(hf)}
    meta = to_litgpt({name: value.to("meta") for name, value in weights.items()}, hf, config)
    like = {name: torch.empty(value.shape, dtype=value.dtype) for name, value in meta.items()}
    if hf.get("tie_word_embeddings"):
        like[HEAD] = like[EMBEDDING]
    create_state(target, like)
    for block in blocks(weights):
        if broken := next((name for name in block if not weights[name].isfinite().all()), None):
            raise UserError(
                f"{source}: {broken} holds NaN or infinite numbers; take another copy of the model"
            )
        # litgpt's functions ask for the embedding whatever they convert
        converted = to_litgpt({name: weights[name] for name in (embedding, *block)}, hf, config)
        state = load_state(target, shared=True)
        for name, value in converted.items():
            if name not in sources or sources[name] in block:
                state[name].copy_(value)
    save_config(config, target)


def figures(state: dict[str, torch.Tensor], hf: dict, config: Config) -> dict:
    """Family, size and shape of a model; tied tensors count once."""
    storages = {value.data_ptr(): value.numel() for value in state.values()}
    return {
        "family": hf["model_type"],
        "parameters": sum(storages.values()),
        "layers": config.n_layer,
        "width": config.n_embd,
        "context": config.block_size,
        "vocabulary": config.padded_vocab_size,
        "tied": bool(hf.get("tie_word_embeddings")),
        "dtype": dtype_name(state),
    }


def _check_shapes(weights: dict[str, torch.Tensor], hf: dict, config: Config, source: Path) -> None:
    """Raises UserError unless Hugging Face `weights` (on meta) are those of a litgpt model of that config."""
    for name, value in weights.items():
        packed = name.endswith(".weight") and value.dtype not in SAFETENSORS
        if packed or name.endswith((".qweight", ".weight_scale", ".weight_scale_inv")):
            raise _quantised(source, f"{name} is of {value.dtype}")
    disagree = f"{source}: weights and config.json disagree"
    layers = {number[1] for name in weights if (number := re.search(r"\.layers\.(\d+)\.", name))}
    if len(layers) != config.n_layer:
        raise UserError(f"{disagree}: {len(layers)} layers, expected {config.n_layer}")
    if not hf.get("tie_word_embeddings") and head_key(hf) not in weights:
        raise UserError(f"{disagree}: {head_key(hf)} is missing; the model was saved without its head")
    try:
        state = to_litgpt(weights, hf, config)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{disagree} ({reason(error)})") from None
    with Unfilled():
        expected = {name: tuple(tensor.shape) for name, tensor in GPT(config).state_dict().items()}
    for name in sorted(set(expected) | set(state)):
        shape, right = tuple(state[name].shape) if name in state else "missing", expected.get(name, "none")
        if shape != right:
            raise UserError(f"{disagree}: {name} is {shape}, expected {right}")
