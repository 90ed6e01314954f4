"""What the base model writes before it is taught: the same prompt and decoding, for held-out documents.

Reads models/base/BASE/, the corpus and prompts/DATASET/student.md. Writes data/DATASET/baseline/, of the same
shape as generated/.
"""

from stages.core import layout
from stages.generate import generate
from stages.knobs import BaselineKnobs


def run(dataset: str, knobs: BaselineKnobs) -> dict:
    return generate("baseline", dataset, layout.base_model(knobs.base), layout.baseline(dataset), knobs)
