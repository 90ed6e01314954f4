"""Note what the model costs that a dataset asks, so that the price of another one makes nothing of it stale.

Reads the block `prices` of params.yaml; writes `data/<dataset>/price.json`: the model's name and, where the
block names it, its price and the block's version.
"""

from stages.core import layout
from stages.core.files import write_json
from stages.knobs import PromptKnobs
from stages.teacher.prices import price_of


def run(dataset: str, knobs: PromptKnobs) -> dict:
    price = price_of(knobs.model)
    noted = {"model": knobs.model, "price": price and price.model_dump()}
    write_json(layout.price(dataset), noted)
    return noted
