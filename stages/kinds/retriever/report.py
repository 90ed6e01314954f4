"""What the report says of a retriever: measures by task and system, misses side by side, loss, leaks."""

from stages.kinds.kind import COMPOSED, few
from stages.reporting.charts import NAMES, columns, interval_bars, number
from stages.reporting.page import Report, Section, defined, loss

CHARTS = ("mrr@10", "recall@10", "ndcg@10", "accuracy", "gap_closed", "perplexity", "reward_ndcg")
TITLES = {
    "gap_closed": "share of the gap between random and oracle closed",
    "reward_ndcg": "nDCG by the language model's scores",
}
TASKS = {
    "qa": "Questions",
    "convsearch": "Conversations",
    "chat": "Earlier turns",
    "lrlm": "Earlier chunks",
    "icl": "Examples",
    "tool": "Tools",
    "people": "In people’s wording",
}
ROOM = 104  # for the names of systems beside the bars
COSINES = {"right": "student", "wrong": "base"}


def report(figures: dict) -> Report:
    """The sections of the page, from the figures of the stages by file name."""
    found, told = figures.get("retriever") or {}, figures.get("evaluate_retriever") or {}
    missed = figures.get("retriever_misses") or {}
    tasks = [shown(task, own, told, missed.get(task, [])) for task, own in found.items() if own]
    own = told.get("tasks") or {}
    leaks = [(TASKS[task], counts["leaks"], counts["rows"]) for task, counts in own.items()]
    curve = loss(figures.get("retriever_curve") or [], figures.get("train_retriever"))
    values = {"tasks": tasks, "leaks": leaks, "names": NAMES}
    places = [Section("kinds/retriever/report.html.j2", values)] if tasks else []
    training = [Section("reporting/run.html.j2", {"loss": curve, "histograms": []})] if curve else []
    return Report(intro="A retriever, and what it finds.", tiles=tiles(found), results=places, later=training)


def tiles(found: dict) -> list[dict]:
    """What training brings to each task, by the first of CHARTS that it has."""
    made = []
    for task, own in found.items():
        gained = own.get("differences", {}).get("trained-base", {})
        measure = next((name for name in CHARTS if defined(gained, name)), None)
        if measure:
            before, after = (f"{own[system][measure]['mean']:.2f}" for system in ("base", "trained"))
            note = f"{before} before: {gained[measure]['low']:+.3f} to {gained[measure]['high']:+.3f}"
            made.append({"label": f"{TASKS[task]}, {measure}", "value": after, "note": note})
    return made


def shown(task: str, own: dict, told: dict, missed: list[dict]) -> dict:
    """A task: charts of the main measures, a table of all, histograms of cosines, misses."""
    systems = systems_of(own)
    measures = list(dict.fromkeys(measure for values in systems.values() for measure in values))
    charts = []
    for measure in [name for name in CHARTS if name in measures]:
        rows = [(name, defined(values, measure)) for name, values in systems.items() if measure in values]
        highest = max([value["high"] for _, value in rows if value and measure == "perplexity"], default=1)
        title = TITLES.get(measure, measure)
        charts.append({"title": title, "chart": interval_bars(rows, title, highest, ROOM)})
    by_kind = [
        (f"{kind} ({part['queries']}): {name}", values)
        for kind, part in (own.get("kinds") or {}).items()
        for name, values in table(systems_of(part), measures)
    ]
    counts = (told.get("tasks") or {}).get(task) or {}
    return {
        "title": TASKS[task],
        "note": note(task, own, counts),
        "charts": charts,
        "cosines": histograms(counts.get("cosines") or {}, told.get("edges") or []),
        "measures": measures,
        "rows": table(systems, measures) + by_kind,
        "differences": table(own.get("differences") or {}, measures),
        "misses": missed,
    }


def systems_of(own: dict) -> dict[str, dict]:
    return {name: values for name, values in own.items() if name not in ("differences", "queries", "kinds")}


def note(task: str, own: dict, counts: dict) -> str:
    if task == "people":
        queries = f"{own['queries']:,} queries that no stage learns from"
        return f"{queries}; near-duplicates of a page count as it. {COMPOSED}"
    rows, right, keys = (counts.get(name, 0) for name in ("rows", "labelled", "keys"))
    return f"{rows:,} test rows{few(rows)}, {right:,} with a right one among {keys:,} keys."


def table(systems: dict, measures: list[str]) -> list[tuple[str, list]]:
    return [(NAMES.get(name, name), [defined(own, m) for m in measures]) for name, own in systems.items()]


def histograms(cosines: dict, edges: list[float]) -> list[dict]:
    """A histogram for each encoder and for right and wrong keys, from the first cosine that occurs."""
    made = []
    for encoder, own in cosines.items():
        used = [place for counts in own.values() for place, count in enumerate(counts) if count]
        for kind, counts in own.items():
            first, last = min(used, default=0), max(used, default=0) + 1
            chart = columns(edges[first : last + 1], counts[first:last], f"{encoder}: {kind}", COSINES[kind])
            title = f"Cosine of the best {kind} key, {encoder}"
            made.append({"title": title, "note": f"of {number(sum(counts))} queries", "chart": chart})
    return made
