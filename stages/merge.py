"""Base and adapter as one model.

Reads models/base/BASE and models/DATASET/adapter/; writes models/DATASET/merged/, a litgpt checkpoint with
the base's config.json and tokenizer files. The sum is taken in float32 and cast once to the base's dtype.
"""

import shutil

from stages.core import layout
from stages.core.files import atomic_directory, verify_manifest
from stages.knobs import MergeKnobs
from stages.student.formats import merge
from stages.student.formats.hf_folder import copy_companions


def run(dataset: str, knobs: MergeKnobs) -> dict:
    base, adapter = layout.base_model(knobs.base), layout.model(dataset, "adapter")
    verify_manifest(adapter)
    with atomic_directory(layout.model(dataset, "merged"), producer="merge") as directory:
        found = merge.merge(base, adapter, directory)
        for name in ("model_config.yaml", "config.json"):
            shutil.copyfile(base / name, directory / name)
        copy_companions(base, directory)
    return found
