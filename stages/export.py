"""The student as others load it, behind the parity gate.

Reads models/DATASET/merged/, models/DATASET/adapter/ and models/base/BASE. Writes models/DATASET/hf/, which
AutoModelForCausalLM and AutoTokenizer load, and models/DATASET/peft/, which PeftModel loads on the base.
Fails, and writes nothing, unless adapter, merged, reloaded and PEFT logits agree and token ids are equal.
"""

from pydantic import Field

from stages.core import layout
from stages.core.stage import Knobs, stage


class ExportKnobs(Knobs):
    base: str = Field(description="name of the base model that the adapter was trained on")
    parity_tolerance: float = Field(1e-3, gt=0, description="largest difference of float32 logits allowed")


@stage("export", ExportKnobs)
def command(dataset: str, knobs: ExportKnobs) -> dict:
    from concurrent.futures import ThreadPoolExecutor
    from importlib import import_module

    from stages.core.files import atomic_directory, fsync, verify_manifest
    from stages.student.formats import from_hf as convert
    from stages.student.formats import merge, parity
    from stages.student.formats import to_hf as export
    from stages.student.formats.weights import load_state

    merged, adapter = layout.model(dataset, "merged"), layout.model(dataset, "adapter")
    base = layout.base_model(knobs.base)
    config, hashed = merge.lora_config(base, adapter), {}
    with (
        ThreadPoolExecutor(1) as beside,
        atomic_directory(layout.model(dataset, "hf"), producer="export", hashed=hashed) as hf,
        atomic_directory(layout.model(dataset, "peft"), producer="export") as peft,
    ):
        imported = beside.submit(import_module, "peft")  # as long as reading and writing a large model
        verify_manifest(adapter)
        verify_manifest(merged, sized=["lit_model.pth"])  # the gate compares all of it
        state, hf_config = load_state(merged), convert.read_hf_config(merged)
        hashed["model.safetensors"] = export.write_hf(hf, state, hf_config, config, merged, mapped=True)
        imported.result()  # the gate computes on all cores: a busy thread beside it would delay each product
        synced = beside.submit(fsync, hf / "model.safetensors")
        export.write_peft(peft, base, adapter, config)
        found = parity.check_export(base, adapter, merged, hf, peft, knobs.parity_tolerance)
        synced.result()
    return {"parity": found, "bytes": (layout.model(dataset, "hf") / "model.safetensors").stat().st_size}


if __name__ == "__main__":
    command()
