"""Score what base, student and teacher write for held-out pages, beside copying the page's summary.

Reads `data/<dataset>/{corpus,baseline,generated}/`, `data/<dataset>/responses.jsonl` and the file
`eval_rows`, queries in people's wording; writes `reports/<dataset>/figures/metrics.json` (each measure of
each system with a bootstrap 95% interval over pages), `samples.json` (the lines of twenty pages side by side)
and `plots/` beside it. How well BM25 finds the pages of `eval_rows` is in `evaluate.json`, under `people`.
The pages are those of the held-out split that the teacher was asked about, lowest hash first. Of the corpus
only what is scored or searched is held in memory.
docs/kinds/xc/evaluation.md defines the measures.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import iter_jsonl, verify_manifest, write_json
from stages.core.hashing import stable_integer
from stages.core.shards import iter_generated
from stages.evaluation.bootstrap import intervals
from stages.kinds.answers import first_answers, lines_of
from stages.kinds.kind import Task
from stages.kinds.xc.knobs import EvaluateKnobs
from stages.kinds.xc.parts.people import found_by_bm25, read_queries
from stages.kinds.xc.parts.queries import TASK as QUERIES
from stages.kinds.xc.parts.scoring import MEASURES, Output, Scorer, raw_lines, summary_line
from stages.kinds.xc.parts.tasks import TASKS

SAMPLES = 20
BIN = 4  # tokens in a bar of the length histogram


def run(dataset: str, knobs: EvaluateKnobs) -> dict:
    corpus, responses, task = layout.corpus(dataset), layout.responses(dataset), TASKS[knobs.task]
    verify_manifest(corpus)
    path, fields = corpus / "documents.jsonl", ("id", "title", "text", "metadata", "split")
    people = Path(knobs.eval_rows)
    asked = read_queries(people, corpus)
    answers, teachers = first_answers(responses)
    names, rivals = choose(iter_jsonl(path, fields), answers, knobs.pages, knobs.among)
    if not names:
        raise UserError(
            f"{responses}: no answer about a held-out page; raise corpus.{dataset}.test_share or "
            f"prompt.{dataset}.test_documents in params.yaml"
        )
    rivals |= {page for row in asked for page in row.pos_index}
    documents = [document for document in iter_jsonl(path, fields) if document["id"] in rivals]
    by_name = {document["id"]: document for document in documents}
    pages = [by_name[name] for name in names]
    base, _, _ = written(layout.baseline(dataset), names, task.column)
    student, generated, tokens = written(layout.generated(dataset), names, task.column)
    outputs = {
        "base": base,
        "student": student,
        "teacher": [taught(answers[name], task) for name in names],
        "extractive": [copied(page) for page in pages],
    }
    scorer = Scorer(documents, task)
    bm25 = found_by_bm25(people, asked, documents, scorer.index, knobs.bootstrap, knobs.seed) if asked else {}
    metrics = {}
    for system, own in outputs.items():
        scores = [
            scorer.score(name, output, teacher.lines)
            for name, output, teacher in zip(names, own, outputs["teacher"], strict=True)
        ]
        found = intervals(scores, knobs.bootstrap, knobs.seed)
        metrics[system] = dict(zip(MEASURES, found, strict=True))
    figures = layout.figures(dataset)
    write_json(figures / "metrics.json", metrics)
    write_json(figures / "samples.json", samples(pages[:SAMPLES], outputs))
    write_json(figures / "plots" / "metrics.json", bars(metrics))
    write_json(figures / "plots" / "lengths.json", lengths(tokens))
    return {
        "task": knobs.task,
        "pages": len(pages),
        "corpus": len(documents),
        "teacher": dict(sorted(teachers.items())),
        "generated": generated,
        "lines_per_page": {
            system: round(sum(len(output.lines) for output in own) / len(pages), 2)
            for system, own in outputs.items()
        },
        "people": bm25,
    }


def choose(
    documents: Iterable[dict], answers: Collection[str], count: int, among: int = 0
) -> tuple[list[str], set[str]]:
    """(the pages to score, these and the documents to find them among), by id.

    The pages are the `count` of lowest hash among the held-out ones that the teacher was asked about. They
    are to be found among the `among` documents of lowest hash, or all, if that is 0; none without a text.
    """
    ranked, asked = [], []
    for document in documents:
        if document["split"] == "empty":
            continue
        ranked.append((stable_integer("evaluate", document["id"]), document["id"]))
        if document["split"] == "test" and document["id"] in answers:
            asked.append(ranked[-1])
    names = [name for _, name in sorted(asked)[:count]]
    return names, {name for _, name in sorted(ranked)[: among or None]} | set(names)


def written(source: Path, names: list[str], column: str) -> tuple[list, dict, Counter]:
    """(a model's Output for each page, figures of all that it wrote, how many answers have so many tokens).

    Raises UserError when a page is missing from the generated rows.
    """
    wanted: dict[str, list[dict]] = {name: [] for name in names}
    queries, tokens, seen, last = 0, Counter(), 0, None
    for row in iter_generated(source):  # sorted by document
        seen, last = seen + (row["document_id"] != last), row["document_id"]
        queries += len(row[column])
        tokens[row["generated_tokens"]] += 1
        if last in wanted:
            wanted[last].append(row)
    outputs = []
    for name, own in wanted.items():
        if not own:
            raise UserError(f"{source}: nothing generated for the held-out page {name!r}; run `dvc repro`")
        lines = [line for row in own for line in raw_lines(row["text"])]
        outputs.append(Output(lines, sum(row["finish_reason"] == "stop" for row in own) / len(own)))
    written_tokens = sum(value * rows for value, rows in tokens.items())
    figures = {"documents": seen, "rows": tokens.total(), "queries": queries, "tokens": written_tokens}
    return outputs, figures, tokens


def taught(answer: dict, task: Task = QUERIES):
    """The teacher's Output: the lines of an accepted answer, nothing for any other."""
    return Output(lines_of(answer, task), float(answer["outcome"] == "ok"))


def copied(page: dict):
    """The Output of the baseline that copies one line of the page."""
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


def lengths(tokens: dict[int, int]) -> list[dict]:
    """Rows for `dvc plots`: how many answers are how long, by lower edge of the bin."""
    counts = Counter()
    for value, rows in tokens.items():
        counts[value // BIN * BIN] += rows
    return [
        {"generated_tokens": edge, "rows": counts[edge]} for edge in range(0, max(counts, default=0) + 1, BIN)
    ]
