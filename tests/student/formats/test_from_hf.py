"""From a Hugging Face directory to a litgpt checkpoint: same function, same tokens, clear refusals."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.base import run as base
from stages.base_hub import run as base_hub
from stages.core.errors import UserError
from stages.core.files import verify_manifest
from stages.core.tokenizer import TextCodec
from stages.knobs import BaseHubKnobs, BaseKnobs
from stages.student.formats import from_hf as convert
from stages.student.formats import parity
from stages.student.formats import to_hf as export
from tests.helpers.cli import invoke
from tests.helpers.tiny import KINDS, tiny_model
from tests.helpers.workspace import ROOT

pytestmark = pytest.mark.slow  # loads models

CASES = [(kind, tied) for kind in KINDS for tied in (False, True)]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(("kind", "tied"), CASES)
def test_base_is_both_kinds_of_checkpoint_and_back(tmp_path, kind, tied):
    tiny_model(tmp_path / "src", kind, tied)
    found = base("m", BaseKnobs(path="src"))
    directory = tmp_path / "models/base/m"
    verify_manifest(directory)
    assert found["parity"]["litgpt_transformers"] < 1e-5 and found["tied"] is tied
    hf, state = convert.read_hf_config(directory), convert.load_state(directory)
    config = convert.litgpt_config(hf)
    back, source = export.hf_weights(state, hf, config), convert.read_weights(tmp_path / "src")
    assert back.keys() == source.keys()
    assert all(torch.equal(back[name], source[name]) for name in source)
    shared = state["lm_head.weight"].data_ptr() == state["transformer.wte.weight"].data_ptr()
    assert shared is tied


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("pythia", {"rotary_emb_base": 10000.0, "rotary_pct": 0.25}),
        ("llama", {"rope_theta": 10000.0}),
        ("phi", {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
        ("phi3", {"rope_theta": 10000.0, "partial_rotary_factor": 1.0}),
    ],
)
def test_transformers_4_finds_the_rotary_settings(tmp_path, kind, expected):
    """Release 4 does not read `rope_parameters`, and would take its defaults without a word."""
    tiny_model(tmp_path / "src", kind)
    base("m", BaseKnobs(path="src"))
    config = convert.read_hf_config(tmp_path / "models/base/m")
    assert config | expected == config and "rope_scaling" not in config
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e4}
    old = convert.for_all_releases({"model_type": "llama", "rope_parameters": scaled})
    assert old["rope_scaling"] == scaled and old["rope_theta"] == 5e4


def test_parity_notices_a_wrong_setting(tmp_path):
    """The gate can fail: a rotary share that differs from the one trained with is caught at import."""
    tiny_model(tmp_path / "src", "pythia")
    base("m", BaseKnobs(path="src"))
    file = tmp_path / "models/base/m/model_config.yaml"
    file.write_text(file.read_text().replace("rotary_percentage: 0.25", "rotary_percentage: 0.5"))
    with pytest.raises(UserError, match="litgpt and transformers logits differ"):
        parity.check_base(tmp_path / "models/base/m")


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("pythia", {"model_type": "mamba"}, "model_type 'mamba' is not supported"),
        ("pythia", {"attention_bias": False}, "attention_bias = False"),
        ("pythia", {"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm = True"),
        ("llama", {"mlp_bias": True}, "mlp_bias = True"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window = True"),
        ("qwen3", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type 'yarn'"),
        ("qwen3", {"num_hidden_layers": 3}, "weights and config.json disagree"),
        ("llama", {"intermediate_size": 96}, "weights and config.json disagree"),
        ("llama", {"vocab_size": 300}, "this tokenizer belongs to another model"),
    ],
)
def test_what_cannot_be_expressed_is_refused(tmp_path, kind, changes, message):
    tiny_model(tmp_path / "src", kind)
    edit(tmp_path / "src/config.json", **changes)
    with pytest.raises(UserError, match=message):
        base("m", BaseKnobs(path="src"))
    assert not (tmp_path / "models/base/m").exists()


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
UP = "model.layers.0.mlp.up_proj"


def weigh(source, change, name=WHOLE):
    """Save `change` of the weights as `name`."""
    weights = {key: value.clone() for key, value in change(load_file(source / WHOLE)).items()}
    save_file(weights, source / name)


def setting(**changes):
    return lambda source: edit(source / "config.json", **changes)


def ends(ids):
    return lambda source: edit(source / "generation_config.json", eos_token_id=ids)


def write(name, text):
    return lambda source: (source / name).write_text(text)


def cut(name):
    return lambda source: (source / name).write_bytes((source / name).read_bytes()[:1000])


def link(name):
    """The file lies beside the directory."""

    def harm(source):
        (source / name).rename(source.parent / name)
        (source / name).symlink_to(f"../{name}")

    return harm


def reweigh(change):
    return lambda source: weigh(source, change)


def instead(name, text):
    def harm(source):
        (source / WHOLE).unlink()
        (source / name).write_text(text)

    return harm


HARMS = [
    (write(WHOLE, POINTER), "model.safetensors: a git-lfs pointer.*`git lfs pull`"),
    (write("tokenizer.json", POINTER), "tokenizer.json: a git-lfs pointer"),
    (write("config.json", POINTER), "config.json: a git-lfs pointer"),
    (cut(WHOLE), "model.safetensors: not a whole file of weights"),
    (write(WHOLE, ""), "model.safetensors: not a whole file of weights"),
    (cut("tokenizer.json"), "tokenizer.json: not a whole tokenizer"),
    (write("tokenizer.json", "{}"), "tokenizer.json: not a whole tokenizer"),
    (write("config.json", "[]"), "config.json: expected a JSON object, found list"),
    (write("tokenizer_config.json", "[]"), "tokenizer_config.json: expected a JSON object"),
    (write("generation_config.json", "[]"), "generation_config.json: expected a JSON object"),
    (setting(num_attention_heads=0), "num_attention_heads = 0 is not a whole number from 1"),
    (setting(hidden_size="x"), "hidden_size = 'x' is not a whole number"),
    (setting(num_hidden_layers=10**9), "num_hidden_layers = 1000000000 is not"),
    (setting(num_hidden_layers=10**6), "disagree: 2 layers, expected 1000000"),
    (setting(num_attention_heads=3), "config.json: its settings make no model"),
    (setting(num_key_value_heads=3), "config.json: its settings make no model"),
    (setting(rms_norm_eps="x"), "config.json: its settings make no model"),
    (setting(head_dim="x"), "config.json: its settings make no model"),
    (setting(hidden_size=64), "weights and config.json disagree"),
    (setting(quantization_config={"quant_method": "gptq"}), r"the weights are quantised \(gptq\)"),
    (setting(quantization_config={"load_in_4bit": True}), "the weights are quantised"),
    (reweigh(lambda w: w | {f"{UP}.qweight": torch.zeros(2, dtype=torch.int32)}), "quantised .*qweight is"),
    (
        reweigh(lambda w: w | {f"{UP}.weight": w[f"{UP}.weight"].to(torch.float8_e4m3fn)}),
        "quantised .*float8",
    ),
    (reweigh(lambda w: w | {f"{UP}.weight": w[f"{UP}.weight"] * float("nan")}), f"{UP}.weight holds NaN"),
    (reweigh(lambda w: {k: v for k, v in w.items() if k != "lm_head.weight"}), "lm_head.weight is missing"),
    (ends([]), r"eos_token_id \[\] is no token"),
    (ends(9999), "eos_token_id 9999 is no token"),
    (
        instead(INDEX, '{"weight_map": {"a": "model-2-of-2.safetensors"}}'),
        "model-2-of-2.safetensors: not there",
    ),
    (instead(INDEX, '{"weight_map": ["a"]}'), "index.json: has no weight_map"),
    (instead("pytorch_model.bin", "garbage" * 99), "pytorch_model.bin: not a whole file of weights"),
    (
        lambda source: (source / "vocab.txt").symlink_to("/etc/passwd"),
        "vocab.txt: leads to /etc/passwd, outside",
    ),
    (link("config.json"), "config.json: leads to .*config.json, outside"),
    (link(WHOLE), "model.safetensors: leads to .*model.safetensors, outside"),
]


@pytest.mark.parametrize(("harm", "message"), HARMS, ids=range(len(HARMS)))
def test_what_is_no_whole_model_is_one_line(tmp_path, harm, message):
    harm(tiny_model(tmp_path / "src", "llama"))
    with pytest.raises(UserError, match=message) as caught:
        base("m", BaseKnobs(path="src"))
    assert "\n" not in str(caught.value) and not (tmp_path / "models/base/m").exists()


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("beside", ["consolidated.safetensors", "adapter_model.safetensors"])
def test_the_files_that_transformers_reads_are_read_and_no_others(tmp_path, beside, pickled):
    source = tiny_model(tmp_path / "src", "mistral")
    plain = base("m", BaseKnobs(path="src"))
    weigh(source, lambda w: {"norm.weight": w["model.norm.weight"]}, beside)
    if pickled:
        torch.save(convert.read_weights(source), source / "pytorch_model.bin")
        (source / WHOLE).unlink()
    else:
        (source / "model-00001-of-00009.safetensors").write_text("of an older download")
    assert base("m", BaseKnobs(path="src")) == plain


def test_shards_are_those_that_the_index_names(tmp_path):
    source = tiny_model(tmp_path / "src", "llama")
    plain, names = base("m", BaseKnobs(path="src")), sorted(convert.read_weights(source))
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        weigh(source, lambda w, part=part: {n: w[n] for n in part}, f"model-{number}-of-2.safetensors")
    shards = {name: f"model-{place % 2 + 1}-of-2.safetensors" for place, name in enumerate(names)}
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (source / "model.safetensors").unlink()
    (source / "model-3-of-3.safetensors").write_text("an older download")
    assert base("m", BaseKnobs(path="src")) == plain


@pytest.mark.parametrize(
    ("kind", "left_out"),
    [
        ("llama", ["max_position_embeddings"]),
        ("llama", ["num_key_value_heads", "rms_norm_eps", "hidden_act", "tie_word_embeddings"]),
        ("mistral", ["sliding_window", "max_position_embeddings"]),
        ("qwen3", ["head_dim"]),
        ("pythia", ["max_position_embeddings", "use_parallel_residual"]),
        ("phi", ["num_key_value_heads", "hidden_act", "layer_norm_eps", "max_position_embeddings"]),
    ],
)
def test_what_the_config_leaves_out_is_what_transformers_fills_in(tmp_path, kind, left_out):
    from transformers import AutoConfig, AutoModelForCausalLM

    source = tiny_model(tmp_path / "src", kind)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in left_out}))
    usual = AutoConfig.from_pretrained(source)
    AutoModelForCausalLM.from_config(usual).save_pretrained(source)  # weights of the shape that this gives
    (source / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in left_out}))
    base("m", BaseKnobs(path="src"))
    found = json.loads((tmp_path / "models/base/m/config.json").read_text())
    assert {name: found[name] for name in left_out} == {name: getattr(usual, name) for name in left_out}


@pytest.mark.parametrize("kind", ["llama", "phi"])
def test_a_tied_model_that_was_saved_without_its_head_is_taken(tmp_path, kind):
    """What a head has besides the tied weight, its bias, keeps its name."""
    source = tiny_model(tmp_path / "src", kind, tied=True)
    weigh(source, lambda w: {name.removeprefix("model."): value for name, value in w.items()})
    assert base("m", BaseKnobs(path="src"))["tied"]


def test_the_links_of_the_hub_cache_are_its_own(tmp_path):
    source = tiny_model(tmp_path / "hub/snapshots/abc", "llama")
    (tmp_path / "hub/blobs").mkdir()
    for file in list(source.iterdir()):
        file.rename(tmp_path / "hub/blobs" / file.name)
        file.symlink_to(f"../../blobs/{file.name}")
    base("m", BaseKnobs(path="hub/snapshots/abc"))


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x' * 6000000000 }}",
        "{{ '%9999999999d' | format(1) }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    ],
)
def test_a_chat_template_that_does_not_end_is_one_line(tmp_path, template):
    source = tiny_model(tmp_path / "src", "pythia")
    (source / "chat_template.jinja").write_text(template)
    with pytest.raises(
        UserError, match=r"src: the chat template takes more than 3 s or 1024 MiB.*`chat: false`"
    ):
        base("m", BaseKnobs(path="src"))
    base("m", BaseKnobs(path="src", chat=False))


def test_old_style_configs_are_read():
    """Released checkpoints carry the names of earlier transformers: rotary_pct, rope_theta, rope_scaling."""
    neox = {
        "model_type": "gpt_neox",
        "num_attention_heads": 4,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 128,
        "vocab_size": 100,
    }
    config = convert.litgpt_config({**neox, "rotary_pct": 0.5, "rotary_emb_base": 5000})
    assert (config.rotary_percentage, config.rope_base, config.parallel_residual) == (0.5, 5000, True)
    config = convert.litgpt_config(
        {**neox, "model_type": "phi", "num_key_value_heads": None, "rope_scaling": None}
    )
    assert (config.rotary_percentage, config.gelu_approximate, config.lm_head_bias) == (0.5, "tanh", True)
    assert (config.shared_attention_norm, config.n_query_groups) == (True, 4)
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config = convert.litgpt_config(
        {**neox, "model_type": "llama", "rope_theta": 500000.0, "rope_scaling": scaling}
    )
    assert config.rope_base == 500000 and config.rope_adjustments["original_max_seq_len"] == 64
    assert config.rotary_percentage == 1.0 and config.n_query_groups == 4


def test_stale_and_truncated_checkpoints_are_replaced(tmp_path):
    """Litgpt's tools take an existing lit_model.pth for finished, even a torn one; here it is made anew."""
    tiny_model(tmp_path / "src", "llama")
    (tmp_path / "src/lit_model.pth").write_bytes(b"torn")
    base("m", BaseKnobs(path="src"))
    file = tmp_path / "models/base/m/lit_model.pth"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    with pytest.raises(UserError, match="lit_model.pth: missing or damaged"):
        convert.load_state(file.parent)
    base("m", BaseKnobs(path="src"))
    assert file.read_bytes() == whole


def test_pickled_and_sharded_weights(tmp_path):
    source = tiny_model(tmp_path / "src", "qwen2")
    weights = convert.read_weights(source)
    (source / "model.safetensors").unlink()
    torch.save(weights, source / "pytorch_model.bin")
    first = base("m", BaseKnobs(path="src"))
    names = sorted(weights)
    save_file({n: weights[n] for n in names[::2]}, source / "model-00001-of-00002.safetensors")
    save_file({n: weights[n] for n in names[1::2]}, source / "model-00002-of-00002.safetensors")
    torch.save({"not": torch.zeros(1)}, source / "pytorch_model.bin")  # must not be mixed in
    assert base("m", BaseKnobs(path="src")) == first
    assert sorted(convert.read_weights(tmp_path / "models/base/m")) == names


def test_every_tokenizer_file_comes_along(tmp_path):
    source = tiny_model(tmp_path / "src", "pythia")
    (source / "special_tokens_map.json").write_text("{}")
    base("m", BaseKnobs(path="src"))
    for name in ("chat_template.jinja", "special_tokens_map.json", "tokenizer.json"):
        assert (tmp_path / "models/base/m" / name).read_bytes() == (source / name).read_bytes()
    assert json.loads((tmp_path / "models/base/m/generation_config.json").read_text())["eos_token_id"] == 1


@pytest.mark.parametrize("blank", [False, True])
def test_transformers_4_finds_the_tokenizer(tmp_path, blank):
    """Release 5 writes a class, and a list of tokens, that release 4 fails at; blanks it forgets silently."""
    source = tiny_model(tmp_path / "src", "llama")
    edit(source / "tokenizer_config.json", extra_special_tokens=["<|end|>"])
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["add_prefix_space"] = blank
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    base("m", BaseKnobs(path="src"))
    written = json.loads((source / "tokenizer_config.json").read_text())
    found = json.loads((tmp_path / "models/base/m/tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "TokenizersBackend"
    assert found["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert found.get("add_prefix_space", False) is blank
    assert found["additional_special_tokens"] == ["<|end|>"] and "extra_special_tokens" not in found
    assert found["model_input_names"] == ["input_ids", "attention_mask"]
    assert found["eos_token"] == written["eos_token"]


@pytest.mark.parametrize("where", ["a file of its own", "tokenizer_config.json"])
def test_a_chat_template_can_be_left_behind(tmp_path, where):
    source, target = tiny_model(tmp_path / "src", "pythia"), tmp_path / "models/base/m"
    template = source / "chat_template.jinja"
    if where == "tokenizer_config.json":
        config = json.loads((source / where).read_text()) | {"chat_template": template.read_text()}
        (source / where).write_text(json.dumps(config))
        template.unlink()
    base("m", BaseKnobs(path="src"))
    assert TextCodec(target).chat.render("hello") == "hello\n"
    base("m", BaseKnobs(path="src", chat=False))
    assert TextCodec(target).chat is None and not (target / "chat_template.jinja").exists()
    kept = json.loads((target / "tokenizer_config.json").read_text())
    assert "chat_template" not in kept and kept["eos_token"] == "<|end|>"


@pytest.mark.parametrize("chat", [True, False])
def test_a_chat_template_of_the_hub_can_be_left_behind(tmp_path, monkeypatch, chat):
    source = tiny_model(tmp_path / "src", "pythia")
    monkeypatch.setattr("stages.base_hub.download", lambda name, knobs: source)
    base_hub("m", BaseHubKnobs(id="org/tiny", revision="0" * 40, chat=chat))
    assert (TextCodec(tmp_path / "models/base/m").chat is not None) == chat


def test_a_chat_template_that_fails_is_told_before_anything_is_made(tmp_path):
    source = tiny_model(tmp_path / "src", "pythia")
    (source / "chat_template.jinja").write_text("{{ raise_exception('two users only') }}")
    with pytest.raises(UserError, match=r"chat_template.jinja.*two users only.*`chat: false`"):
        base("m", BaseKnobs(path="src"))
    base("m", BaseKnobs(path="src", chat=False))


def test_base_without_tokenizer_is_one_line_and_exit_2(tmp_path):
    source = tiny_model(tmp_path / "src", "pythia")
    (source / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="no tokenizer_config.json"):
        base("m", BaseKnobs(path="src"))
    (source / "tokenizer.json").unlink()
    done = invoke("base", ["m", "--path", "src"])
    last = done.stderr.splitlines()[-1]
    assert done.exit_code == 2 and last.startswith("error: ") and "no tokenizer.json" in last


def test_import_is_light_and_leaves_no_stub():
    code = (
        "import sys, stages.student.formats.litgpt as l\n"
        "names = ('transformers', 'sklearn', 'torchmetrics', 'torch._dynamo', 'sympy')\n"
        "heavy = [name for name in names if name in sys.modules]\n"
        "assert not heavy, heavy\n"
        "import importlib.util as u; assert u.find_spec('torchmetrics').origin and l.LoRAGPT\n"
        "import torch; from lightning.fabric.wrappers import _unwrap_compiled as plain\n"
        "layer = torch.nn.Linear(2, 2); assert plain(layer)[0] is layer\n"
        "compiled = torch.compile(layer); assert plain(compiled)[0] is layer is not compiled\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_import_falls_back_when_the_stub_is_too_small():
    code = (
        "import sys, types, pathlib\n"
        "source = pathlib.Path('stages/student/formats/litgpt.py').read_text()\n"
        "assert 'stub.MetricCollection' in source\n"
        "module = types.ModuleType('changed')\n"
        "exec(source.replace('stub.MetricCollection', 'stub.Unknown'), module.__dict__)\n"
        "assert module.LoRAGPT and sys.modules['torchmetrics'].MeanMetric\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_hub_revision_must_be_a_commit():
    with pytest.raises(UserError, match="'main' is not a commit hash"):
        base_hub("m", BaseHubKnobs(id="org/tiny", revision="main"))


def test_hub_offline_and_from_the_cache(tmp_path, monkeypatch):
    """Offline without a cached snapshot is a clear error; with one, the real client finds it."""
    revision, hub = "0123456789abcdef" * 2 + "01234567", tmp_path / "hub"
    command = ["m", "--id", "org/tiny", "--revision", revision]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    done = invoke("base_hub", command)
    assert done.exit_code == 2 and "hub cannot be reached" in done.stderr
    snapshot = hub / "models--org--tiny/snapshots" / revision
    shutil.copytree(tiny_model(tmp_path / "src", "qwen3", tied=True), snapshot)
    done = invoke("base_hub", command)
    assert done.exit_code == 0, done.stderr
    found = json.loads((tmp_path / "reports/m/figures/base_hub.json").read_text())
    assert found["revision"] == revision and found["family"] == "qwen3"
