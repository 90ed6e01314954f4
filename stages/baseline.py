"""What the base model writes before it is taught: the same prompt and decoding, held-out documents only.

Reads models/base/BASE/, the corpus and prompts/DATASET/student.md. Writes data/DATASET/baseline/, of the same
shape as generated/.
"""

from pydantic import Field

from stages.generate import GenerateKnobs, generate
from stages.support import layout
from stages.support.cli import stage


class BaselineKnobs(GenerateKnobs):
    base: str = Field(description="a folder of models/base/")
    share: float = Field(0.0, ge=0, le=1, description="not used: the baseline reads held-out documents only")


@stage("baseline", BaselineKnobs)
def command(dataset: str, knobs: BaselineKnobs) -> dict:
    return generate(
        "baseline", dataset, layout.base_model(knobs.base), layout.baseline(dataset), knobs, share=0.0
    )


if __name__ == "__main__":
    command()
