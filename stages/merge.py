"""Base and adapter as one model.

Reads models/base/BASE and models/DATASET/adapter/; writes models/DATASET/merged/, a litgpt checkpoint with
the base's config.json and tokenizer files. The sum is taken in float32 and cast once to the base's dtype.
"""

from pydantic import Field

from stages.core import layout
from stages.core.stage import Knobs, stage


class MergeKnobs(Knobs):
    base: str = Field(description="name of the base model; must be the one that was finetuned")


@stage("merge", MergeKnobs)
def command(dataset: str, knobs: MergeKnobs) -> dict:
    import shutil

    from stages.core.files import atomic_directory, verify_manifest
    from stages.student.formats import from_hf as convert
    from stages.student.formats import merge

    base, adapter = layout.base_model(knobs.base), layout.model(dataset, "adapter")
    verify_manifest(adapter)
    with atomic_directory(layout.model(dataset, "merged"), producer="merge") as directory:
        found = merge.merge(base, adapter, directory)
        for name in ("model_config.yaml", "config.json"):
            shutil.copyfile(base / name, directory / name)
        convert.copy_companions(base, directory)
    return found


if __name__ == "__main__":
    command()
