"""What the report says of papers: models side by side, box plots, chunks, a teacher's paragraphs, answers."""

from stages.kinds.kind import COMPOSED, few
from stages.reporting.charts import boxes, columns, number
from stages.reporting.page import Report, Section, counted, defined

SETS = {"benchmark": "Questions of the benchmark", "held_out": "Rows held out, with their text"}
PARTS = ("held_out", "pooled", "published")  # beside models
COLUMNS = {
    "f1": "F1",
    "rouge_l": "ROUGE-L",
    "cosine": "cosine",
    "cosine_calibrated": "calibrated",
    "f1_answerable": "F1, answerable",
    "f1_reference": "F1 with reference model",
    "unanswerable_recall": "unanswerable found",
    "false_alarms": "false alarms",
    "stop_rate": "ended",
    "over_long": "over-long",
    "empty": "empty",
    "seconds_p50": "seconds, p50",
}
BOXES = {"f1": "F1", "cosine": "Cosine"}
QC = {"cosine": "Cosine with their page", "length_difference": "Shorter than their page, by share"}


def report(figures: dict) -> Report:
    """The sections of the page, from the figures of the stages by file name."""
    found, told = figures.get("academic") or {}, figures.get("evaluate_papers") or {}
    samples = figures.get("academic_samples") or {}
    drawn = samples.get("boxes") or {}
    of_sets = {"benchmark": {k: v for k, v in found.items() if k not in PARTS}, **found.get("published", {})}
    of_sets |= {name: found[name] for name in ("held_out", "pooled") if name in found}
    sets = [
        shown(name, own, (told.get("sets") or {}).get(name) or {}, drawn.get(name) or {})
        for name, own in of_sets.items()
        if own
    ]
    charts = [*chunk_charts(figures.get("chunks") or {}), *quality(figures.get("corpus") or {})]
    values = {
        "sets": sets,
        "charts": charts,
        "models": (figures.get("benchmark") or {}).get("models") or {},
        "published": told.get("published") or {},
        "samples": samples.get("rows") or [],
    }
    places = [Section("kinds/academic/report.html.j2", values)] if sets or charts else []
    intro = "A small model that answers questions about papers, and what it answered."
    return Report(intro=intro, tiles=tiles(found), results=places)


def tiles(found: dict) -> list[dict]:
    """The student's F1 and cosine on the benchmark and on all questions, and what training brings."""
    made = []
    for label, own in (("benchmark", found), ("all questions", found.get("pooled") or {})):
        for measure in BOXES:
            gained = (own.get("differences", {}).get("trained-untrained") or {}).get(measure)
            if value := defined(own.get("trained", {}), measure):
                note = f"{gained['low']:+.3f} to {gained['high']:+.3f} by training" if gained else ""
                title = f"{BOXES[measure]}, {label}"
                made.append({"label": title, "value": f"{value['mean']:.2f}", "note": note})
    return made


def shown(name: str, own: dict, told: dict, drawn: dict) -> dict:
    """A set of questions: box plots, a table of models, differences with wins."""
    models = {model: values for model, values in own.items() if model not in ("differences", *PARTS)}
    measures = [m for m in COLUMNS if any(defined(values, m) for values in models.values())]
    counts = {key: told.get(key, 0) for key in ("questions", "unanswerable", "papers")}
    floor = told.get("floor")
    return {
        "title": SETS.get(name, "Both together" if name == "pooled" else f"Published: {name}"),
        "note": f"{counted(counts)}{few(counts['questions'])}"
        + (f"; reference answers to other questions have a cosine of {number(floor)}" if floor else "")
        + (f". {COMPOSED}" if name == "benchmark" else "."),
        "charts": [(f"{BOXES[m]}, {name}", boxes(list(drawn[m].items()), m)) for m in BOXES if drawn.get(m)],
        "columns": [COLUMNS[measure] for measure in measures],
        "rows": [(model, [defined(values, m) for m in measures]) for model, values in models.items()],
        "pairs": list(own.get("differences", {}).items()),
        "compared": list(BOXES),
    }


def chunk_charts(told: dict) -> list[tuple[str, str]]:
    """The histogram of the chunks' tokens."""
    own = told.get("histogram")
    return [("Chunks by tokens", columns(own["edges"], own["chunks"], "chunks", "extractive"))] if own else []


def quality(corpus: dict) -> list[tuple[str, str]]:
    """How a teacher's paragraphs compare with their pages."""
    made, qc = [], corpus.get("qc") or {}
    for key, title in QC.items():
        if own := qc.get(key):
            (low, high), bins = own["between"], len(own["histogram"])
            edges = [low + (high - low) * place / bins for place in range(bins + 1)]
            chart = columns(edges, own["histogram"], title, "teacher")
            made.append((f"Paragraphs of {qc['pages']} pages. {title}: {number(own['mean'])}", chart))
    return made
