"""The page of a dataset: each section as plain data from the stages' figures; nothing where there are none.

What all kinds share is made here: measures, training, cost, times, origin. What a kind says beside it is a
Report, which its report module makes of the same figures. All functions are pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stages.reporting.charts import columns, interval_bars, lines, number

STAGES = Path(__file__).parents[1]
PAGE, STYLE, FACTS = "reporting/page.html.j2", "reporting/style.css.j2", "reporting/facts.html.j2"
OVERVIEW, RUN, ORIGIN = "reporting/overview.html.j2", "reporting/run.html.j2", "reporting/origin.html.j2"
SYSTEMS = ("extractive", "base", "student", "student_grammar", "teacher")  # the order that they are shown in
TRAINING = {
    "rows": "rows",
    "steps": "steps planned",
    "stopped_at": "steps taken",
    "best_step": "best step",
    "tokens": "tokens seen",
    "trainable_parameters": "trainable parameters",
    "train_loss": "last training loss",
    "val_loss_before": "validation loss before",
    "val_loss": "validation loss, best",
}


@dataclass(frozen=True)
class Section:
    """A part of the page: a template, by its path below stages/, and what it is filled with."""

    template: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Report:
    """What a kind says on the page of one of its datasets."""

    intro: str = ""  # the sentence under the title, where there is no student who writes
    words: str = "answers"  # what the student writes: "search queries for documents"
    noun: str = "answers"  # the same in one word
    source: str = "documents"  # where the funnel begins
    share_of: str = "documents"  # what its bars are shares of
    funnel: Sequence[dict] = ()  # steps, as Funnel makes them
    measures: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # name -> (title, note)
    measured_on: str = ""  # a sentence above the measures
    headline: Sequence[str] = ()  # measures shown as tiles
    shown: str = "student"  # the system whose measures the tiles show
    tiles: Sequence[dict] = ()  # further tiles: label, value, note
    first: Sequence[Section] = ()  # before all else
    results: Sequence[Section] = ()  # after the measures
    later: Sequence[Section] = ()  # after training


class Funnel:
    """Steps from a source to data; those that count what `total` counts have a share of it."""

    def __init__(self, total: int | None):
        self.total = total
        self.steps: list[dict] = []

    def step(self, label: str, value: int | None, note: str = "", shared: bool = True) -> None:
        """Add a step, if there is a value for it."""
        if value is not None:
            share = min(value / self.total, 1) if shared and self.total else None
            self.steps.append({"label": label, "value": number(value), "note": note, "share": share})

    def training_rows(self, tokenize: dict | None) -> None:
        """Add the step of the rows that the student learns from."""
        if train := (tokenize or {}).get("train"):
            note = f"{number(train['tokens'])} tokens, {number(train['target_tokens'])} to learn"
            self.step("training rows", train["rows"], note)


def render(dataset: str, figures: dict, times: dict[str, dict], report: Report, origin: dict) -> str:
    """The page's HTML, with a section for whatever there are figures of.

    `figures` are those of the stages by file name, `times` their timings in the order of the chain.
    """
    metrics, teachers = figures.get("metrics"), (figures.get("evaluate") or {}).get("teacher") or {}
    shared = {
        "headline": [*tiles(report, metrics), *report.tiles],
        "funnel": report.funnel,
        "report": report,
        "measures": measures(metrics, report.measures),
        "loss": loss(figures.get("curve") or [], figures.get("finetune")),
        "histograms": histograms(figures.get("tokenize"), figures.get("plots/lengths")),
        "cost": cost(figures),
        "times": durations(times),
        "origin": origin,
    }
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FileSystemLoader(STAGES),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["facts"] = vars(environment.get_template(FACTS).module)["facts"]  # a macro
    places = [*report.first, Section(OVERVIEW, shared), *report.results, Section(RUN, shared), *report.later]
    parts = [*places, Section(ORIGIN, shared)]
    return environment.get_template(PAGE).render(
        style=STYLE,
        dataset=dataset,
        report=report,
        teachers=list(teachers),
        stand_in=any(name.startswith("embedded") for name in teachers),
        sections=[Markup(environment.get_template(part.template).render(part.data)) for part in parts],
    )


def tiles(report: Report, metrics: dict | None) -> list[dict]:
    """The measures at the top: label, value, note."""
    made: list[dict] = []
    if not metrics:
        return made
    for measure in report.headline:
        own = defined(metrics[report.shown], measure)
        if own is None:
            continue
        digits = ".0f" if is_latency(measure) else ".2f"
        note = f"{own['low']:{digits}} to {own['high']:{digits}}"
        if other := defined(metrics.get("teacher", {}), measure):
            note += f"; teacher {other['mean']:{digits}}"
        made.append({"label": report.measures[measure][0], "value": f"{own['mean']:{digits}}", "note": note})
    return made


def defined(measures: dict, measure: str) -> dict | None:
    """A measure with its interval; None where no row defines it, which is told as one null or three."""
    value = measures.get(measure)
    return value if value and value["mean"] is not None else None


def is_latency(measure: str) -> bool:
    return measure.startswith("latency")


def measures(metrics: dict | None, known: Mapping[str, tuple[str, str]]) -> list[dict]:
    """For each measure that some system has: title, note, chart and the rows (system, value) of a table."""
    made: list[dict] = []
    if not metrics:
        return made
    for measure, (title, note) in known.items():
        own = [(name, metrics[name]) for name in SYSTEMS if measure in metrics.get(name, ())]
        rows = [(name, defined(values, measure)) for name, values in own]
        if any(value for _, value in rows):
            highest = max(value["high"] for _, value in rows if value) if is_latency(measure) else 1
            chart = interval_bars(rows, title, highest)
            made.append({"title": title, "note": note, "chart": chart, "rows": rows})
    return made


def loss(curve: list[dict], finetune: dict | None) -> dict | None:
    curves = (("training", "base", "train_loss"), ("validation", "student", "val_loss"))
    series = []
    for name, kind, key in curves:
        points = [(row["step"], row[key]) for row in curve if row.get(key) is not None]
        series += [(name, kind, points)] if points else []
    if not series:
        return None
    known = finetune or {}
    facts = [(label, number(known[key])) for key, label in TRAINING.items() if key in known]
    epochs = by_epoch(series, known.get("steps_of_epoch", 0))
    chart = lines(epochs, "loss by epoch") if any(len(points) > 1 for _, _, points in epochs) else ""
    return {"chart": lines(series, "loss by step"), "epochs": chart, "series": series, "facts": facts}


def by_epoch(series: Sequence[tuple[str, str, list]], steps_of_epoch: int) -> list[tuple[str, str, list]]:
    """Curves over steps as curves over epochs, from 1: the mean of each; of validation the last value."""
    made = []
    for name, kind, points in series if steps_of_epoch else ():
        values: dict[int, list[float]] = {}
        for step, value in points:
            if step:  # validation before training is of no epoch
                values.setdefault((step - 1) // steps_of_epoch + 1, []).append(value)
        own = [(n, of[-1] if name == "validation" else fmean(of)) for n, of in values.items()]
        made += [(name, kind, own)] if own else []
    return made


def histograms(tokenize: dict | None, generated: list[dict] | None) -> list[dict]:
    made = []
    train = (tokenize or {}).get("train") or {}
    parts = (("prompt_tokens", "Prompts", "base"), ("answer_tokens", "Teacher's answers", "teacher"))
    for key, title, kind in parts:
        counted = train.get(key)
        if counted and counted["counts"]:
            note = f"{counted['min']} to {counted['max']} tokens, {counted['mean']:.0f} on average"
            chart = columns(counted["edges"], counted["counts"], title, kind)
            made.append({"title": title, "note": note, "chart": chart})
    if generated:
        edges = [row["generated_tokens"] for row in generated]
        edges.append(edges[-1] + (edges[1] - edges[0] if len(edges) > 1 else 1))
        chart = columns(edges, [row["rows"] for row in generated], "Generated answers", "student")
        note = "tokens up to the end or the limit"
        made.append({"title": "Generated answers", "note": note, "chart": chart})
    return made


def cost(figures: dict) -> list[tuple[str, str]]:
    prompt, collect = figures.get("prompt"), figures.get("collect")
    if not prompt or not collect:
        return []
    most, dollars = prompt["most_dollars"], collect.get("dollars")
    outcomes = ", ".join(f"{number(count)} {outcome}" for outcome, count in collect["outcomes"].items())
    return [
        ("answers", outcomes),
        ("prompt tokens", number(collect.get("prompt_tokens"))),
        ("answer tokens", number(collect.get("completion_tokens"))),
        ("dollars at list price", "unknown: no price is given" if dollars is None else f"{dollars:,.2f}"),
        ("estimated before, at most", "unknown" if most is None else f"{most:,.2f}"),
    ]


def durations(times: dict[str, dict]) -> list[dict]:
    """Seconds and memory by stage, with a `share` of the longest for a bar."""
    longest = max((own["seconds"] for own in times.values()), default=0) or 1
    return [{"stage": stage, **own, "share": own["seconds"] / longest} for stage, own in times.items()]


def counted(counts: Mapping[str, int]) -> str:
    """Counts in words: "3 train, 1 test"; "none" where there are none."""
    return ", ".join(f"{number(n)} {name.replace('_', ' ')}" for name, n in counts.items() if n) or "none"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f}%" if 0 < share < 0.001 else f"{100 * share:.1f}%"
