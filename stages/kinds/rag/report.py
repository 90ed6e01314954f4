"""What the report says of answers: systems by context, what passages were found, answers side by side."""

from stages.kinds.kind import COMPOSED, few
from stages.reporting.charts import interval_bars, lines, number
from stages.reporting.page import Report, Section, defined

SETS = {"people": "Questions in people’s wording", "test": "Held-out questions"}
SYSTEMS = ("untrained", "beside", "trained", "fid", "first_words", "nearest_question")
CONTEXTS = ("gold", "retrieved")
HEADLINE = {"f1": "F1", "rouge_l": "ROUGE-L", "faithfulness": "faithfulness"}
TIMED = ("retrieve", "generate", "total")
ROOM = 108  # for the names of systems beside the bars
CLAIMS = {"numbers": "other numbers", "negation": "a negation", "another": "another question’s answer"}


def report(figures: dict) -> Report:
    """The sections of the page, from the figures of the stages by file name."""
    found, told = figures.get("rag") or {}, figures.get("evaluate_rag") or {}
    samples = figures.get("rag_samples") or {}
    tables = {"people": found.get("people"), "test": {k: v for k, v in found.items() if k != "people"}}
    beside = ((figures.get("answer") or {}).get("models") or {}).get("beside", "")
    sets = [
        shown(name, own, told.get(name) or {}, samples.get(name) or {})
        for name in SETS
        if (own := tables[name])
    ]
    values = {"sets": sets, "beside": beside}
    places = [Section("kinds/rag/report.html.j2", values)] if sets else []
    if judge := figures.get("judge"):
        places.append(Section("kinds/rag/judge.html.j2", judged(judge)))
    intro = "A small model that answers questions from passages, and what it answered."
    shown_first = [tile for name in SETS for tile in tiles(name, tables[name])]
    return Report(intro=intro, tiles=shown_first, results=places)


def tiles(name: str, own: dict | None) -> list[dict]:
    """The student's F1 and faithfulness from retrieved passages, and what training brings."""
    made = []
    for measure in ("f1", "faithfulness") if own else ():
        value = defined(own.get("trained", {}).get("retrieved", {}), measure)
        gained = own["differences"].get("trained-untrained", {}).get("retrieved", {}).get(measure)
        if value:
            note = f"{gained['low']:+.3f} to {gained['high']:+.3f} by training" if gained else ""
            label = f"{HEADLINE[measure]}, {SETS[name].lower()}"
            made.append({"label": label, "value": f"{value['mean']:.2f}", "note": note})
    return made


def shown(name: str, own: dict, told: dict, samples: dict) -> dict:
    """A set of questions: charts, systems by context, all measures, what was found, failures, samples."""
    systems = {system: own[system] for system in SYSTEMS if system in own}
    parts = list(dict.fromkeys(part for figures in systems.values() for part in figures))
    columns = [(measure, context) for measure in HEADLINE for context in CONTEXTS]
    questions, curve = told.get("questions", 0), list(enumerate(told.get("recall_curve") or [], start=1))
    return {
        "title": SETS[name],
        "note": f"{questions:,} questions{few(questions)}. " + (COMPOSED if name == "people" else ""),
        "charts": [
            (title := f"{HEADLINE[measure]}, {context} passages", bars(systems, measure, context, title))
            for measure, context in columns
        ],
        "columns": [f"{HEADLINE[measure]}, {context}" for measure, context in columns],
        "rows": across(systems, columns),
        "differences": across(own["differences"], columns),
        "all": [(part, *measures(systems, part)) for part in parts],
        "curve": lines([("recall", "student", curve)], "recall by passages found") if len(curve) > 1 else "",
        "recall": [(k, number(share)) for k, share in curve],
        "claims": claims(told.get("claims") or {}),
        "runtime": runtime(own),
        "failures": list((samples.get("failures") or {}).items()),
        "samples": samples.get("rows") or [],
    }


def judged(told: dict) -> dict:
    """Who judged, how far people agree, and a row for each system, context and set of questions."""
    stand_in = any(name.startswith("embedded") for name in told["by"])
    rows = [
        (f"{system}, {context}: {SETS[name].lower()}", own, sign)
        for name in SETS
        for context, systems in told.get(name, {}).items()
        for sign, of in (("", systems), ("+", systems["differences"]))
        for system, own in of.items()
        if system != "differences"
    ]
    return {"by": ", ".join(told["by"]), "stand_in": stand_in, "agreement": told["agreement"], "rows": rows}


def bars(systems: dict, measure: str, context: str, title: str) -> str:
    rows = [(system, defined(own[context], measure)) for system, own in systems.items() if context in own]
    return interval_bars(rows, title, left=ROOM)


def across(systems: dict, columns: list[tuple[str, str]]) -> list[tuple[str, list]]:
    return [
        (name, [defined(own.get(context, {}), measure) for measure, context in columns])
        for name, own in systems.items()
    ]


def measures(systems: dict, part: str) -> tuple[int, list[str], list[tuple[str, list]]]:
    """How many questions a part has, its systems, and a row of values for each measure."""
    own = {system: figures[part] for system, figures in systems.items() if part in figures}
    names = dict.fromkeys(name for values in own.values() for name in values if name != "questions")
    rows = [(name, [defined(values, name) for values in own.values()]) for name in names]
    return next(iter(own.values()))["questions"], list(own), rows


def claims(told: dict) -> str:
    """What judges claims, and how far it can be trusted."""
    known = told.get("told_from_right") or {}
    aucs = [f"{CLAIMS[kind]} {number(own['auc'])}" for kind, own in known.items() if own["auc"]]
    return f"{told['by']}. Reference answers are told from changed ones: {', '.join(aucs)}" if aucs else ""


def runtime(own: dict) -> list[tuple[str, str]]:
    """Times of the student's answers from retrieved passages, a question at a time."""
    shown = {f"{part}_ms_p{n}": f"{part}, ms, p{n}" for part in TIMED for n in (50, 95)}
    known = own.get("trained", {}).get("retrieved", {})
    names = {**shown, "tokens_per_second": "tokens a second"}
    return [(name, number(value["mean"])) for key, name in names.items() if (value := known.get(key))]
