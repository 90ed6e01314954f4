"""A base model that is another dataset's student, so that a second training goes on from a first one.

Reads models/OF/hf, base and adapter merged, and writes models/base/NAME, as the base stage does: what is
trained on it is an adapter of its own, and no adapter is ever put upon another. Promises the student's very
weights.
"""

from stages.base import import_model
from stages.core import layout
from stages.core.files import verify_manifest
from stages.knobs import BaseStudentKnobs


def run(dataset: str, knobs: BaseStudentKnobs) -> dict:
    source = layout.model(knobs.of, "hf")
    verify_manifest(source)
    return import_model(source, dataset, "base_student")
