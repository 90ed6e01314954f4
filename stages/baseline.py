"""What the base model writes before it is taught: the same prompt and decoding, for held-out documents.

Reads models/base/BASE/, the corpus and prompts/DATASET/student.md. Writes data/DATASET/baseline/, of the same
shape as generated/.
"""

from pydantic import Field

from stages.core import layout
from stages.core.stage import stage
from stages.generate import GenerateKnobs, generate


class BaselineKnobs(GenerateKnobs):
    base: str = Field(description="a folder of models/base/")
    share: float = Field(0.0, ge=0, le=1, description="share of the pages not held out; nothing reads them")


@stage("baseline", BaselineKnobs)
def command(dataset: str, knobs: BaselineKnobs) -> dict:
    return generate("baseline", dataset, layout.base_model(knobs.base), layout.baseline(dataset), knobs)


if __name__ == "__main__":
    command()
