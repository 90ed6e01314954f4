"""Score what base, student and teacher write for held-out pages, beside copying the page's summary.

Reads `data/<dataset>/{corpus,baseline,generated}/` and `data/<dataset>/responses.jsonl`; writes
`reports/<dataset>/metrics.json` (each measure of each system with a bootstrap 95% interval over pages),
`reports/<dataset>/samples.json` (the lines of twenty pages side by side) and `reports/<dataset>/plots/`.
The pages are those of the held-out split that the teacher was asked about, lowest hash first.
docs/evaluation.md defines the measures.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from stages.support import layout
from stages.support.cli import Knobs, stage
from stages.support.errors import UserError
from stages.support.hashing import stable_integer

SAMPLES = 20
BIN = 4  # tokens in a bar of the length histogram


class EvaluateKnobs(Knobs):
    pages: int = Field(300, gt=0, description="held-out pages to score; all there are, if fewer")
    bootstrap: int = Field(1000, gt=0, description="resamples behind each interval")
    seed: int = Field(1, ge=0, description="of the resampling")


@stage("evaluate", EvaluateKnobs)
def command(dataset: str, knobs: EvaluateKnobs) -> dict:
    from stages.retrieval.metrics import intervals
    from stages.support.files import read_jsonl, verify_manifest, write_json
    from stages.support.shards import read_generated
    from stages.tasks.answers import document_of, is_first
    from stages.tasks.scoring import MEASURES, Scorer

    corpus, responses = layout.corpus(dataset), layout.responses(dataset)
    verify_manifest(corpus)
    documents = read_jsonl(corpus / "documents.jsonl", ("id", "title", "text", "metadata", "split"))
    answered = read_jsonl(responses, ("id", "accepted", "outcome", "response", "model"))
    answers = {document_of(row): row for row in answered if is_first(row)}
    pages = choose(documents, answers, knobs.pages)
    if not pages:
        raise UserError(
            f"{responses}: no answer about a held-out page; raise corpus.{dataset}.test_share or "
            f"prompt.{dataset}.test_documents in params.yaml"
        )
    rows = read_generated(layout.generated(dataset))
    outputs = {
        "base": written(read_generated(layout.baseline(dataset)), pages, layout.baseline(dataset)),
        "student": written(rows, pages, layout.generated(dataset)),
        "teacher": [taught(answers[page["id"]]) for page in pages],
        "extractive": [copied(page) for page in pages],
    }
    scorer = Scorer(documents)
    metrics = {}
    for system, own in outputs.items():
        scores = [
            scorer.score(page["id"], output, teacher.lines)
            for page, output, teacher in zip(pages, own, outputs["teacher"], strict=True)
        ]
        found = intervals(scores, knobs.bootstrap, knobs.seed)
        metrics[system] = dict(zip(MEASURES, found, strict=True))
    reports = layout.reports(dataset)
    write_json(reports / "metrics.json", metrics)
    write_json(reports / "samples.json", samples(pages[:SAMPLES], outputs))
    write_json(reports / "plots" / "metrics.json", bars(metrics))
    write_json(reports / "plots" / "lengths.json", lengths(row["generated_tokens"] for row in rows))
    return {
        "pages": len(pages),
        "corpus": len(documents),
        "teacher": dict(sorted(Counter(row["model"] for row in answered).items())),
        "generated": {
            "documents": len({row["document_id"] for row in rows}),
            "rows": len(rows),
            "queries": sum(len(row["queries"]) for row in rows),
            "tokens": sum(row["generated_tokens"] for row in rows),
        },
        "lines_per_page": {
            system: round(sum(len(output.lines) for output in own) / len(pages), 2)
            for system, own in outputs.items()
        },
    }


def choose(documents: list[dict], answers: dict[str, dict], count: int) -> list[dict]:
    """The `count` held-out pages of lowest hash among those that the teacher was asked about."""
    asked = [page for page in documents if page["split"] == "test" and page["id"] in answers]
    return sorted(asked, key=lambda page: (stable_integer("evaluate", page["id"]), page["id"]))[:count]


def written(rows: Iterable[dict], pages: list[dict], source: Path) -> list:
    """A model's Output for each page. Raises UserError when a page is missing from the generated rows."""
    from stages.tasks.scoring import Output, raw_lines

    wanted: dict[str, list[dict]] = {page["id"]: [] for page in pages}
    for row in rows:
        if row["document_id"] in wanted:
            wanted[row["document_id"]].append(row)
    outputs = []
    for name, own in wanted.items():
        if not own:
            raise UserError(f"{source}: nothing generated for the held-out page {name!r}; run `dvc repro`")
        lines = [line for row in own for line in raw_lines(row["text"])]
        outputs.append(Output(lines, sum(row["finish_reason"] == "stop" for row in own) / len(own)))
    return outputs


def taught(answer: dict):
    """The teacher's Output: the lines of an accepted answer, nothing for any other."""
    from stages.tasks.answers import lines_of
    from stages.tasks.scoring import Output

    try:
        lines = lines_of(answer) if answer["accepted"] else []
    except ValueError:  # kept although it is cut or in no form: as if nothing had come
        lines = []
    return Output(lines, float(answer["outcome"] == "ok"))


def copied(page: dict):
    """The Output of the baseline that copies one line of the page."""
    from stages.tasks.scoring import Output, summary_line

    return Output([summary_line(page)], 1.0)


def samples(pages: list[dict], outputs: dict[str, list]) -> list[dict]:
    shown = []
    for place, page in enumerate(pages):
        lines = {system: own[place].lines for system, own in outputs.items()}
        shown.append({"id": page["id"], "title": page["title"], "text": page["text"][:400], **lines})
    return shown


def bars(metrics: dict) -> list[dict]:
    """Rows for `dvc plots`: one a measure and system."""
    return [
        {"measure": measure, "system": system, **value}
        for system, own in metrics.items()
        for measure, value in own.items()
        if value is not None
    ]


def lengths(tokens: Iterable[int]) -> list[dict]:
    """Rows for `dvc plots`: how many answers are how long, by lower edge of the bin."""
    counts: dict[int, int] = {}
    for value in tokens:
        counts[value // BIN * BIN] = counts.get(value // BIN * BIN, 0) + 1
    top = max(counts, default=0)
    return [{"generated_tokens": edge, "rows": counts.get(edge, 0)} for edge in range(0, top + 1, BIN)]


if __name__ == "__main__":
    command()
