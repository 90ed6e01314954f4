"""The student as others load it, behind the parity gate.

Reads models/DATASET/merged/, models/DATASET/adapter/ and models/base/BASE; to describe the student
prompts/DATASET/student.md, data/DATASET/litgpt/ and data/DATASET/tokens/. Writes models/DATASET/hf/, which
AutoModelForCausalLM and AutoTokenizer load, and models/DATASET/peft/, which PeftModel loads on the base; both
with a README.md.
Fails, and writes nothing, unless adapter, merged, reloaded and PEFT logits agree and token ids are equal.
"""

from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

from stages.core import layout
from stages.core.files import atomic_directory, fsync, verify_manifest
from stages.core.tokenizer import TextCodec
from stages.knobs import ExportKnobs
from stages.student.data import TokenRows
from stages.student.formats import card, merge, parity, to_hf
from stages.student.formats.hf_folder import read_hf_config
from stages.student.formats.weights import load_state


def run(dataset: str, knobs: ExportKnobs) -> dict:
    merged, adapter = layout.model(dataset, "merged"), layout.model(dataset, "adapter")
    base = layout.base_model(knobs.base)
    config = merge.lora_config(base, adapter)
    hashed: dict[str, str] = {}
    with (
        ThreadPoolExecutor(1) as beside,
        atomic_directory(layout.model(dataset, "hf"), producer="export", hashed=hashed) as hf,
        atomic_directory(layout.model(dataset, "peft"), producer="export") as peft,
    ):
        imported = beside.submit(import_module, "peft")  # as long as reading and writing a large model
        verify_manifest(adapter)
        verify_manifest(merged, sized=["lit_model.pth"])  # the gate compares all of it
        state, hf_config = load_state(merged), read_hf_config(merged)
        hashed["model.safetensors"] = to_hf.write_hf(hf, state, hf_config, config, merged, mapped=True)
        longest = int(TokenRows.load(layout.tokens(dataset), "train").targets.max())
        to_hf.write_generation_config(hf, TextCodec(base).eos_id, longest)
        card.write_cards(hf, peft, dataset, base, longest)
        imported.result()  # the gate computes on all cores: a busy thread beside it would delay each product
        synced = beside.submit(fsync, hf / "model.safetensors")
        to_hf.write_peft(peft, base, adapter, config)
        found = parity.check_export(base, adapter, merged, hf, peft, knobs.parity_tolerance)
        synced.result()
    return {"parity": found, "bytes": (layout.model(dataset, "hf") / "model.safetensors").stat().st_size}
