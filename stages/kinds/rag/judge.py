"""Tell how many answers a teacher finds correct, and how far that can be trusted.

Reads data/DATASET/corpus/ and responses.jsonl, and people's verdicts. The figures have, for each set of
questions, system and context: answers judged, and failed by outcome; the share that is correct, with what it
were if all failed ones were correct, or incorrect; and, from five verdicts of people on, the share that
people would find correct (prediction-powered inference). Beside it: how well judge and people agree.
"""

from pathlib import Path

from stages.core import layout
from stages.core.files import read_jsonl, verify_manifest
from stages.kinds.rag.knobs import JudgeKnobs
from stages.kinds.rag.parts.judging import Judged, read_labels, read_verdicts


def run(dataset: str, knobs: JudgeKnobs) -> dict:
    corpus = layout.corpus(dataset)
    verify_manifest(corpus)
    documents = read_jsonl(corpus / "documents.jsonl", ("id", "metadata", "split"))
    labels = read_labels(Path(knobs.agreement), {row["id"] for row in documents})
    verdicts, models = read_verdicts(layout.responses(dataset), documents)
    scores = {name: said for name, said in verdicts.items() if isinstance(said, float)}
    judged = Judged(documents, verdicts, scores, labels, knobs)
    return {"by": models, "agreement": judged.agreement(), **judged.figures()}
