"""The kind retriever: a model that finds passages, turns, examples or tools, trained on one's own rows."""

from stages.kinds.kind import Kind
from stages.kinds.retriever.knobs import STAGES

KIND = Kind(name="retriever", stages=STAGES, report="stages.kinds.retriever.report")
