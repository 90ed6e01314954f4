"""Base and adapter as one model.

Reads models/base/BASE and models/DATASET/adapter/; writes models/DATASET/merged/, a litgpt checkpoint with
the base's config.json and tokenizer files. The sum is taken in float32 and cast once to the base's dtype.
"""

from pydantic import Field

from stages.support import layout
from stages.support.cli import Knobs, stage


class MergeKnobs(Knobs):
    base: str = Field(description="name of the base model; must be the one that was finetuned")


@stage("merge", MergeKnobs)
def command(dataset: str, knobs: MergeKnobs) -> dict:
    import shutil

    from stages.student import convert, merge
    from stages.student.litgpt_import import Config
    from stages.support.files import atomic_directory, verify_manifest

    base, adapter = layout.base_model(knobs.base), layout.model(dataset, "adapter")
    verify_manifest(adapter)
    state = merge.merge(base, adapter)
    with atomic_directory(layout.model(dataset, "merged"), producer="merge") as directory:
        convert.save_litgpt(directory, state, Config.from_file(base / "model_config.yaml"))
        shutil.copyfile(base / "config.json", directory / "config.json")
        convert.copy_companions(base, directory)
    return {"largest_update": merge.largest_update(base, state), "dtype": convert.dtype_name(state)}


if __name__ == "__main__":
    command()
