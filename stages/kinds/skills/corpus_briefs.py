"""Write the briefs that ask a teacher for examples of requests: the documents of a dataset of its own.

Reads `data/<skills>/skills/` and a file of topics; writes `data/<dataset>/corpus/documents.jsonl`, sorted by
id: for each skill so many briefs of each variety (docs/kinds/skills.md), with topics and examples of its own,
so that a larger number adds briefs and changes none.
"""

from collections import Counter
from pathlib import Path

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, read_text, verify_manifest, write_jsonl
from stages.kinds.skills import places
from stages.kinds.skills.knobs import CorpusBriefsKnobs
from stages.kinds.skills.parts.briefs import VARIETIES, briefs
from stages.kinds.skills.parts.files import read_skills


def run(dataset: str, knobs: CorpusBriefsKnobs) -> dict:
    source = places.skills(knobs.skills)
    verify_manifest(source)
    topics = [line.strip() for line in read_text(Path(knobs.topics)).splitlines() if line.strip()]
    if not topics:
        raise UserError(f"{knobs.topics}: no topics; write one a line")
    counts = {variety: getattr(knobs, variety) for variety in VARIETIES}
    skills = read_skills(source)
    if unknown := sorted(set(knobs.more) - skills.by_name.keys()):
        raise UserError(
            f"params.yaml, corpus_briefs.{dataset}.more: no skill is called '{unknown[0]}'; there are "
            f"{', '.join(skills.by_name)}"
        )
    rows = list(briefs(skills, topics, counts, knobs.examples, knobs.shown, knobs.more))
    if not rows:
        raise UserError(f"params.yaml, corpus_briefs.{dataset}: no briefs; raise {', '.join(VARIETIES)}")
    written: dict[str, int] = {}
    with atomic_directory(layout.corpus(dataset), "corpus", written) as directory:
        written["documents.jsonl"] = write_jsonl(directory / "documents.jsonl", rows)
    varieties = Counter(row["metadata"]["variety"] for row in rows)
    return {
        "documents": len(rows),
        "varieties": dict(sorted(varieties.items())),
        "examples_asked": len(rows) * knobs.examples,
        "topics": len(topics),
    }
