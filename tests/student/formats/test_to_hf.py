"""From adapter to what is delivered: merge, export and the parity gate; and the rows it was trained on."""

import json
import logging
import re
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.base import run as base
from stages.core import layout
from stages.core import rows as xc_rows
from stages.core.errors import UserError
from stages.core.files import read_json, verify_manifest, write_json, write_manifest
from stages.core.tokenizer import TextCodec
from stages.export import run as export
from stages.finetune import run as finetune
from stages.knobs import BaseKnobs, ExportKnobs, FinetuneKnobs, MergeKnobs, TokenizeKnobs
from stages.merge import run as merge
from stages.student.data import TokenRows
from stages.student.formats import parity
from stages.student.formats.card import CARD
from stages.student.formats.from_hf import load_state
from stages.tokenize import ARRAYS, encode
from stages.tokenize import run as tokenize
from tests.helpers.tiny import BOS, EOS, KINDS, made_once, tiny_dataset, tiny_model

pytestmark = pytest.mark.slow  # loads models

HF, PEFT, MERGED = (layout.model("d", part) for part in ("hf", "peft", "merged"))
BASE = layout.base_model("m")
SOME = {f"lora_{name}": False for name in ("key", "projection", "mlp")}


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@made_once
def student(kind="pythia", tied=False, dtype=None, chat=True, **knobs):
    """The chain up to merge; returns merge's metrics."""
    source = tiny_model(layout.SCRATCH.parent / "src", kind, tied)
    if dtype:
        weights = load_file(source / "model.safetensors")
        save_file(
            {k: v.to(dtype) for k, v in weights.items()}, source / "model.safetensors", {"format": "pt"}
        )
        config = read_json(source / "config.json")
        (source / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "dtype"}))
    base("m", BaseKnobs(path=str(source), chat=chat))
    tiny_dataset("d")
    tokenize("d", TokenizeKnobs(base="m", max_length=256))
    finetune("d", FinetuneKnobs(**{"base": "m", "lr": 1e-2, "epochs": 1, "lora_r": 4} | knobs))
    return merge("d", MergeKnobs(base="m"))


def loaded(**options):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(HF.resolve(), local_files_only=True, **options).eval()


# --- merge --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [4, 32])
def test_merge_uses_the_scale_that_was_trained(alpha):
    student(lora_alpha=alpha)
    adapter = load_file(layout.model("d", "adapter") / "adapter.safetensors")
    name = "transformer.h.1.mlp.fc"
    update = adapter[f"{name}.lora_B"] @ adapter[f"{name}.lora_A"] * (alpha / 4)
    before, after = load_state(BASE)[f"{name}.weight"], load_state(MERGED)[f"{name}.weight"]
    assert update.abs().max() > 1e-3
    assert (after - before - update).abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["pythia", "llama", "qwen2", "qwen3", "phi"])
def test_head_adapter_of_a_tied_model_leaves_the_embedding_alone(kind):
    """In place, litgpt adds the head's update to the embedding too, for both are one tensor."""
    student(kind, tied=True, lora_head=True)
    before, after = load_state(BASE), load_state(MERGED)
    assert torch.equal(before["transformer.wte.weight"], after["transformer.wte.weight"])
    assert (after["lm_head.weight"] - before["lm_head.weight"]).abs().max() > 1e-3
    assert export("d", ExportKnobs(base="m"))["parity"]["tied"] is False
    assert read_json(HF / "config.json")["tie_word_embeddings"] is False
    model = loaded()
    assert torch.equal(model.get_output_embeddings().weight, after["lm_head.weight"])
    assert torch.equal(model.get_input_embeddings().weight, before["transformer.wte.weight"])


def test_an_adapter_in_bfloat16_is_summed_in_float32():
    student("llama", precision="bf16-true")
    adapter = load_file(layout.model("d", "adapter") / "adapter.safetensors")
    assert {value.dtype for value in adapter.values()} == {torch.bfloat16}
    name = "transformer.h.1.mlp.proj"
    update = adapter[f"{name}.lora_B"].float() @ adapter[f"{name}.lora_A"].float() * 8.0
    before, after = load_state(BASE)[f"{name}.weight"], load_state(MERGED)[f"{name}.weight"]
    assert update.abs().max() > 1e-3 and (after - before - update).abs().max() < 1e-6
    export("d", ExportKnobs(base="m"))


def test_merge_refuses_another_base_and_replaces_a_torn_result(tmp_path):
    student()
    whole = (MERGED / "lit_model.pth").read_bytes()
    (MERGED / "lit_model.pth").write_bytes(whole[:100])
    with pytest.raises(UserError, match="lit_model.pth: torn or edited"):
        export("d", ExportKnobs(base="m"))
    merge("d", MergeKnobs(base="m"))
    assert (MERGED / "lit_model.pth").read_bytes() == whole
    base("n", BaseKnobs(path="data/src"))
    with pytest.raises(UserError, match=r"trained on m, but params.yaml says base: n"):
        merge("d", MergeKnobs(base="n"))


# --- export -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_everything_computes_the_same(kind, tied, caplog):
    """Adapter = merged = reloaded = PEFT, loaded as a user does, without a warning about tied weights."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as hf_logging

    student(kind, tied, **({} if tied else {**SOME, "lora_head": True}))
    found = export("d", ExportKnobs(base="m"))["parity"]
    modules = read_json(PEFT / "adapter_config.json")["target_modules"]
    assert modules == sorted(modules)  # the same bytes in every process
    assert max(found[name] for name in ("adapter_merged", "merged_reloaded", "adapter_peft")) < 1e-4
    assert found["tied"] is tied
    verify_manifest(HF)  # its checksum of the weights was taken while they were written
    hf_logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            model = loaded()
    finally:
        hf_logging.disable_propagation()
    assert not [record for record in caplog.records if "tie" in record.getMessage()]
    tokenizer = AutoTokenizer.from_pretrained(HF.resolve())
    codec = TextCodec(BASE)
    assert len(tokenizer) == codec.vocabulary_size == 512
    text = "how to compute the mean of a data frame\nqueries:"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == codec.plain([text])[0]
    asked = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
    assert asked["input_ids"] == TextCodec(HF).prompts([text])[0] == codec.prompts([text])[0]
    assert ids[0, 0].item() == 0 or kind != "llama"  # llama puts BOS first, in training and here
    start = AutoModelForCausalLM.from_pretrained(BASE.resolve())
    with torch.no_grad():
        plain = start(ids).logits
        adapted = PeftModel.from_pretrained(start, str(PEFT)).eval()(ids).logits
        assert (adapted - model(ids).logits).abs().max() < 1e-4 < (adapted - plain).abs().max()


@pytest.mark.parametrize("kind", ["phi", "llama"])
def test_an_adapter_trained_in_4_bits_is_merged_into_the_full_base(kind):
    pytest.importorskip("bitsandbytes")
    student(kind, quantize="nf4")
    found = export("d", ExportKnobs(base="m"))["parity"]
    assert max(found[name] for name in ("adapter_merged", "merged_reloaded", "adapter_peft")) < 1e-4
    before, after = (load_state(place)["transformer.h.1.mlp.proj.weight"] for place in (BASE, MERGED))
    assert 1e-3 < (after - before).abs().max() < 0.2


def snippets() -> list[str]:
    """The code in the README.md of an export, of which both have the same."""
    found = [
        re.findall(r"```python\n(.*?)```", (part / "README.md").read_text(), re.S) for part in (HF, PEFT)
    ]
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize("chat", [True, False])
def test_the_code_in_the_card_runs_and_both_exports_answer_alike(chat):
    student("llama", chat=chat)
    (BASE / CARD).write_text("---\nlicense: apache-2.0\n---\n")
    export("d", ExportKnobs(base="m"))
    row = read_json(layout.litgpt_data("d") / "train.json")[0]
    card = (HF / CARD).read_text()
    assert card.startswith('---\nlicense: "apache-2.0"\nlibrary_name: transformers\n')
    for text in ("{{ document.title }}", row["instruction"].splitlines()[0], row["output"].splitlines()[0]):
        assert f"    {text}" in card
    load, adapt, client = snippets()
    seen = {"prompt": row["instruction"]}
    exec(load, seen)
    answer = seen["answer"]
    ids = TextCodec(HF).prompts([row["instruction"]])[0]
    assert seen["inputs"]["input_ids"][0].tolist() == ids
    exec(adapt, seen)
    exec(load.splitlines()[-1], seen)
    assert seen["answer"] == answer != ""
    assert 'extra_body={"title"' in client and compile(client, "card", "exec")


def test_the_answer_of_a_loader_ends_where_those_in_training_did():
    student()
    config = read_json(MERGED / "generation_config.json") | {"temperature": 0.7, "top_p": 0.9}
    write_json(MERGED / "generation_config.json", config)
    reseal(MERGED)
    export("d", ExportKnobs(base="m"))
    found = read_json(HF / "generation_config.json")
    longest = max(TokenRows.load(layout.tokens("d"), "train").targets)
    expected = {"eos_token_id": 1, "pad_token_id": 1, "do_sample": False, "max_new_tokens": longest}
    assert found == found | expected and not {"temperature", "top_p"} & found.keys()


@pytest.mark.parametrize(
    ("origin", "name", "revision", "told"),
    [
        (None, "models/base/m", None, "licence | unknown"),
        ({"hub_id": "org/tiny", "revision": "0" * 40}, "org/tiny", "0" * 40, 'base_model: "org/tiny"'),
        ({"hub_id": "org/tiny", "package": "tiny"}, "org/tiny", None, "quantised before"),
        ({"hub_id": "", "package": "tiny"}, "models/base/m", None, "as in the wheel `tiny`"),
    ],
)
def test_an_adapter_names_its_base_where_others_find_it(origin, name, revision, told):
    student()
    if origin:
        write_json(BASE / "provenance.json", origin)
    export("d", ExportKnobs(base="m"))
    first = {file: file.read_bytes() for part in (HF, PEFT) for file in part.iterdir()}
    config = read_json(PEFT / "adapter_config.json")
    assert (config["base_model_name_or_path"], config["revision"]) == (name, revision)
    assert told in (PEFT / CARD).read_text()
    assert len({file.stat().st_mode for file in first}) == 1  # safetensors' own are for their owner alone
    export("d", ExportKnobs(base="m"))
    assert {file: file.read_bytes() for file in first} == first


def test_tokenizer_keeps_its_template_and_special_tokens():
    from transformers import AutoTokenizer

    student()
    export("d", ExportKnobs(base="m"))
    tokenizer = AutoTokenizer.from_pretrained(HF.resolve())
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False) == "hello\n"
    assert (tokenizer.bos_token, tokenizer.eos_token) == (BOS, EOS)
    assert loaded().generation_config.eos_token_id == 1


def test_dtype_is_the_bases_and_written_down():
    """A bfloat16 base gives a bfloat16 student: summed in float32, cast once, and loaded as such."""
    assert student(tied=True, dtype=torch.bfloat16)["dtype"] == "bfloat16"
    export("d", ExportKnobs(base="m"))
    assert read_json(HF / "config.json")["dtype"] == "bfloat16"
    assert read_json(BASE / "config.json")["dtype"] == "bfloat16"
    assert loaded().dtype == torch.bfloat16
    adapter = load_file(layout.model("d", "adapter") / "adapter.safetensors")
    name = "transformer.h.0.mlp.proj"
    update = adapter[f"{name}.lora_B"] @ adapter[f"{name}.lora_A"] * 8.0
    exact = load_state(BASE)[f"{name}.weight"].float() + update
    assert torch.equal(load_state(MERGED)[f"{name}.weight"], exact.to(torch.bfloat16))


# --- the gate can fail --------------------------------------------------------------------------------------


def reseal(directory):
    """Make the manifest fit again, so that only the gate can notice."""
    write_manifest(directory, "test", {})


def test_stale_merge_is_refused():
    student()
    # copied: the file is about to be overwritten, and a memory map of it would break
    state = {name: value.clone() for name, value in load_state(MERGED).items()}
    state["transformer.h.0.mlp.fc.weight"] = state["transformer.h.0.mlp.fc.weight"] + 1e-3
    torch.save(state, MERGED / "lit_model.pth")
    reseal(MERGED)
    with pytest.raises(UserError, match=r"transformer.h.0.mlp.fc.weight is not base \+ adapter"):
        export("d", ExportKnobs(base="m"))
    assert not HF.exists() and not PEFT.exists()


@pytest.mark.parametrize(
    ("place", "sealed", "told"),
    [(0, True, None), (0, False, "checksum differs"), (-1, True, r"mlp.proj.weight is not base \+ adapter")],
)
def test_sums_rounded_by_another_cpu_are_taken_if_the_file_is_the_one_that_was_made(place, sealed, told):
    """A sum that lies in the middle of two numbers may become either, and no other one."""
    student(dtype=torch.bfloat16)
    state = {name: value.clone() for name, value in load_state(MERGED).items()}
    adapter = load_file(layout.model("d", "adapter") / "adapter.safetensors")
    name = "transformer.h.0.mlp.proj"
    update = adapter[f"{name}.lora_B"] @ adapter[f"{name}.lora_A"] * 8.0
    exact, stored = load_state(BASE)[f"{name}.weight"].float() + update, state[f"{name}.weight"]
    away = torch.where(exact.abs() > stored.abs(), 1, -1).to(torch.int16)
    other = (stored.view(torch.int16) + away).view(torch.bfloat16)
    further = ((other - exact).abs() - (stored - exact).abs()) / exact.abs()
    chosen = further.flatten().argsort()[place]
    stored.flatten()[chosen] = other.flatten()[chosen]
    torch.save(state, MERGED / "lit_model.pth")
    if sealed:
        reseal(MERGED)
    if told is None:
        export("d", ExportKnobs(base="m"))
        return
    with pytest.raises(UserError, match=told):
        export("d", ExportKnobs(base="m"))
    assert not HF.exists()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("pythia", {"use_parallel_residual": False}),
        ("phi", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.25}}),
        ("phi", {"layer_norm_eps": 1e-3}),
        ("llama", {"rms_norm_eps": 1e-3}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
        ("llama", {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}),
        ("qwen3", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
    ],
)
def test_wrong_config_is_refused(kind, changes):
    student(kind)
    write_json(MERGED / "config.json", read_json(MERGED / "config.json") | changes)
    reseal(MERGED)
    with pytest.raises(UserError, match="merged and reloaded logits differ by"):
        export("d", ExportKnobs(base="m"))
    assert not HF.exists()


def test_swapped_weights_are_refused(monkeypatch):
    from stages.student.formats import to_hf as module

    student("llama")
    gate, up = (f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up"))
    names, right = {gate: up, up: gate}, module.hf_weights
    monkeypatch.setattr(module, "hf_weights", lambda *a: {names.get(k, k): v for k, v in right(*a).items()})
    with pytest.raises(UserError, match="merged and reloaded logits differ by"):
        export("d", ExportKnobs(base="m"))


def test_other_settings_beside_the_merged_weights_are_refused():
    student("llama")
    file = MERGED / "model_config.yaml"
    file.write_text(file.read_text().replace("norm_eps: 1.0e-05", "norm_eps: 1.0e-03"))
    reseal(MERGED)
    with pytest.raises(UserError, match="model_config.yaml: not the base's"):
        export("d", ExportKnobs(base="m"))


def test_wrong_peft_scale_is_refused(monkeypatch):
    from stages.student.formats import to_hf as module

    student()
    tensors = module.peft_tensors
    monkeypatch.setattr(
        module, "peft_tensors", lambda *a: ({k: v * 1.1 for k, v in tensors(*a)[0].items()}, tensors(*a)[1])
    )
    with pytest.raises(UserError, match="adapter and peft logits differ by"):
        export("d", ExportKnobs(base="m"))


@pytest.mark.parametrize("fault", ["no tokenizer", "bos"])
def test_tokenizer_that_encodes_differently_is_refused(fault):
    """Without its files AutoTokenizer would succeed with an empty vocabulary; with another one, differ."""
    student("llama" if fault == "bos" else "pythia")
    if fault == "bos":
        tokenizer = read_json(MERGED / "tokenizer.json") | {"post_processor": None}
        (MERGED / "tokenizer.json").write_text(json.dumps(tokenizer))
    else:
        (MERGED / "tokenizer.json").unlink()
        (MERGED / "tokenizer_config.json").unlink()
    reseal(MERGED)
    with pytest.raises(UserError, match=r"AutoTokenizer (has|gives)"):
        export("d", ExportKnobs(base="m"))


def test_difference_never_passes_over_nan():
    one, nan = torch.ones(1, 2, 3), torch.full((1, 2, 3), float("nan"))
    assert parity.difference(one, one) == 0 and parity.difference(one, nan) == float("inf")
    assert parity.difference(one, torch.ones(1, 2, 4)) == float("inf")


# --- rows ---------------------------------------------------------------------------------------------------


def tokens(kind="pythia", chat=True, **knobs):
    tiny_model(layout.SCRATCH.parent / "src", kind)
    base("m", BaseKnobs(path="data/src", chat=chat))
    tiny_dataset("d")
    return tokenize("d", TokenizeKnobs(**{"base": "m", "max_length": 256} | knobs))


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("kind", ["pythia", "llama"])
def test_rows_are_whole_and_equal_to_what_a_user_encodes(kind, chat):
    """Prompt, answer, EOS, and nothing else.

    The prompt is what AutoTokenizer makes of a chat, or without a template of the text (with BOS where the
    model has one).
    """
    from transformers import AutoTokenizer

    metrics = tokens(kind, chat)
    rows, source = (
        TokenRows.load(layout.tokens("d"), "train"),
        read_json(layout.litgpt_data("d") / "train.json"),
    )
    tokenizer = AutoTokenizer.from_pretrained(BASE.resolve())
    for number, row in enumerate(source):
        span = slice(rows.offsets[number], rows.offsets[number + 1])
        ids, labels = np.asarray(rows.ids[span]).tolist(), np.asarray(rows.labels[span])
        prompt = tokenizer(row["instruction"])["input_ids"]
        if chat:
            messages = [{"role": "user", "content": row["instruction"]}]
            prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        answer = [*tokenizer(row["output"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        assert ids == prompt + answer
        assert (labels[: len(prompt)] == -100).all() and labels[len(prompt) :].tolist() == answer
    train = metrics["train"]
    assert train["rows"] == train["rows_ending_in_eos"] == len(source)
    assert train["target_tokens"] == (rows.labels[:] >= 0).sum() == rows.targets.sum()
    assert train["tokens"] == len(rows.ids) and sum(train["prompt_tokens"]["counts"]) == len(source)


def test_rows_are_the_same_however_many_are_read_at_once(monkeypatch):
    tokens(max_length=90, overlong="drop")
    whole = {file.name: file.read_bytes() for file in layout.tokens("d").iterdir()}
    monkeypatch.setattr("stages.tokenize.AT_ONCE", 1)
    tokens(max_length=90, overlong="drop")
    assert {file.name: file.read_bytes() for file in layout.tokens("d").iterdir()} == whole


def test_rows_are_not_held(monkeypatch, tmp_path):
    """A million rows took 28 GB."""

    class Codec:
        eos_id = 1

        def prompts(self, texts):
            return [[2] * 100 for _ in texts]

        def answers(self, texts):
            return [[1] * 10 for _ in texts]

    write_json(tmp_path / "train.json", [{"id": "a", "instruction": "b" * 1000, "output": "c"}] * 3000)
    monkeypatch.setattr(xc_rows, "BLOCK", 1 << 14)
    monkeypatch.setattr("stages.tokenize.AT_ONCE", 16)
    sizes = Counter()
    arrays = {name: lambda values, name=name: sizes.update({name: len(values)}) for name in ARRAYS}
    tracemalloc.start()
    metrics = encode(tmp_path / "train.json", Codec(), TokenizeKnobs(base="m", max_length=256), arrays)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert metrics["tokens"] == sizes["ids"] == sizes["labels"] == 3000 * 110 and sizes["offsets"] == 3001
    assert peak < 1 << 20 < (tmp_path / "train.json").stat().st_size / 3


def test_litgpt_reads_the_same_rows():
    """`litgpt.data.JSON` with its Default prompt style, which its own string lookup does not know."""
    from litgpt.data import JSON
    from litgpt.prompts import Default
    from litgpt.tokenizer import Tokenizer

    tokens(chat=False)
    data = JSON(json_path=layout.litgpt_data("d").resolve(), mask_prompt=True, prompt_style=Default())
    data.connect(Tokenizer(BASE.resolve()), batch_size=1, max_seq_length=256)
    data.setup()
    rows = TokenRows.load(layout.tokens("d"), "train")
    for number in (0, 7, 39):
        span = slice(rows.offsets[number], rows.offsets[number + 1])
        theirs = data.train_dataset[number]
        assert theirs["input_ids"].tolist() == np.asarray(rows.ids[span]).tolist()
        assert theirs["labels"].tolist() == np.asarray(rows.labels[span]).tolist()


def test_overlong_rows_are_an_error_or_dropped_and_counted_never_cut():
    with pytest.raises(
        UserError, match=r"train.json: row 'r\d+' has \d+ prompt \+ \d+ answer tokens"
    ) as caught:
        tokens(max_length=90)
    assert "max_length 90" in str(caught.value) and not layout.tokens("d").exists()
    train = tokens(max_length=90, overlong="drop")["train"]
    assert train["rows"] + train["dropped_overlong"] == 40 and 0 < train["dropped_overlong"] < 40
    rows = TokenRows.load(layout.tokens("d"), "train")
    assert rows.lengths.max() <= 90 and len(rows) == train["rows"]
    assert (rows.ids[rows.offsets[1:] - 1] == 1).all() and rows.targets.min() > 1


@pytest.mark.parametrize(
    "answer, known",
    [("sort rows by value\n" * 9, True), ("如何退回商品\n" * 9, False), ("คืนสินค้า\n" * 9, False)],
)
def test_a_language_that_the_base_has_not_seen_is_told(answer, known, capsys):
    tokens()
    assert "hardly seen" not in capsys.readouterr().err
    rows = [{"id": "a", "instruction": "x", "input": "", "output": answer}]
    (layout.litgpt_data("d") / "train.json").write_text(json.dumps(rows))
    tokenize("d", TokenizeKnobs(base="m", max_length=256))
    assert ("m has hardly seen their language" in capsys.readouterr().err) != known


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a", "instruction": "x", "output": " "}, "row 1: field 'output' must be text"),
        ({"id": "a", "output": "x"}, "row 1: field 'instruction' must be text"),
    ],
)
def test_rows_without_targets_are_refused(row, message):
    tokens()
    (layout.litgpt_data("d") / "val.json").write_text(json.dumps([row]))
    with pytest.raises(UserError, match=message):
        tokenize("d", TokenizeKnobs(base="m", max_length=256))


def test_max_length_beyond_the_context_is_refused():
    with pytest.raises(UserError, match="300 is more than the context of m, 256"):
        tokens(max_length=300)
