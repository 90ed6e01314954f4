"""What the report says: each section as plain data from the stages' figures; nothing where there are none."""

from stages.kinds import registry as kinds
from stages.kinds.skills import report as report_calls
from stages.reporting.charts import columns, interval_bars, lines, number, paired_bars

SYSTEMS = ("extractive", "base", "student", "student_grammar", "teacher")
MEASURES = {
    "hit_at_10": ("Hit at 10", "BM25 over all pages has the line's own page in its first ten."),
    "hit_at_1": ("Hit at 1", "BM25 puts the line's own page first."),
    "hit_at_10_nameless": ("Hit at 10, nameless", "The same over lines that do not mention the page's name."),
    "groundedness": ("Groundedness", "Content words that the page has, too; a line without any scores 0."),
    "format_validity": ("Well-formed lines", "Lines fit for a search box: no loops, no markup."),
    "stop_rate": ("Stops by itself", "Answers that end before the limit of tokens."),
    "distinct": ("Distinct lines", "Different lines among those of a page."),
    "rouge_l": ("ROUGE-L", "Overlap in order with the closest of the teacher's lines."),
    "verbatim": ("Copied word for word", "Lines that stand in the page as they are; fewer is better."),
    "normalised_match_macro": ("Right calls, by skill", "Share of right calls, averaged over the skills."),
    "normalised_match": ("Right calls", "Whatever case, spacing, number words and order of arguments."),
    "match": ("Exactly right calls", "Values letter for letter, arguments in any order."),
    "ast_match": ("Equal syntax trees", "The match of the reference: order and case count, too."),
    "right_skill": ("Right skill", "The right function is called, whatever its arguments."),
    "valid_call": ("Valid calls", "Calls that can be read and obey the schema of their skill."),
    "other_recall": ("Noise left alone", "Of what is for no skill, the share that the fallback gets."),
    "other_precision": ("Rightly left alone", "Of what the fallback gets, the share that is for no skill."),
    "latency_ms_p50": ("Milliseconds a request", "Median, one request at a time, on the machine of the run."),
}
HEADLINE = """hit_at_10 hit_at_10_nameless groundedness format_validity normalised_match_macro valid_call
    other_recall latency_ms_p50""".split()
WORDS = {
    "queries": "search queries for documents",
    "categories": "categories for documents",
    "skills": "the function call that a request stands for",
}
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
ORDER = """skills candidates corpus prompt collect convert tokenize finetune merge export generate baseline
    filter map pack xc evaluate""".split()
MODELS = {"plt": "label tree", "two_tower": "two-tower retriever"}
WHAT_IT_IS = {
    "plt": "a probabilistic label tree over words: it knows a label by its training points alone",
    "two_tower": "a dense retriever that also reads the labels' own texts",
}
MATRICES = ("original", "augmented", "difference")


def task_of(figures: dict) -> kinds.Task:
    """What was asked for, which is also its name in the plural."""
    return (figures.get("evaluate") or {}).get("task", "queries")


def headline(figures: dict, metrics: dict | None) -> list[dict]:
    """The tiles at the top: (label, value, note)."""
    tiles = [tile(measure, metrics) for measure in HEADLINE if metrics and defined(best(metrics), measure)]
    made = (figures.get("evaluate") or {}).get("generated")
    if made:
        note = f"for {number(made['documents'])} documents"
        label = f"Synthetic {task_of(figures)}"
        tiles.append({"label": label, "value": number(made["queries"]), "note": note})
    mapped = figures.get("map")
    if mapped and mapped["queries"]:
        note = f"to {number(mapped['pairs_before'])} known ones"
        tiles.append({"label": "New pairs", "value": number(mapped["pairs_added"]), "note": note})
    for model, own in list((figures.get("xc") or {}).items())[:1]:
        before, after, gain = (own[key]["R@10"] for key in ("original", "augmented", "difference"))
        note = f"{before:.2f} without: {gain['low']:+.2f} to {gain['high']:+.2f}; {MODELS[model]}"
        tiles.append({"label": "R@10, new labels", "value": f"{after:.2f}", "note": note})
    return tiles


def best(metrics: dict) -> dict:
    """The measures of the student as it is used."""
    return metrics.get("student_grammar") or metrics["student"]


def tile(measure: str, metrics: dict) -> dict:
    own, other = best(metrics)[measure], defined(metrics["teacher"], measure)
    digits = ".0f" if is_latency(measure) else ".2f"
    note = f"{own['low']:{digits}} to {own['high']:{digits}}"
    if other:
        note += f"; teacher {other['mean']:{digits}}"
    return {"label": MEASURES[measure][0], "value": f"{own['mean']:{digits}}", "note": note}


def defined(measures: dict, measure: str) -> dict | None:
    """A measure with its interval; None where no row defines it, which is told as one null or three."""
    value = measures.get(measure)
    return value if value and value["mean"] is not None else None


def is_latency(measure: str) -> bool:
    return measure.startswith("latency")


def funnel(figures: dict) -> list[dict]:
    """Steps from documents to mapped pairs; those counted in pages have a `share` of all documents."""
    got = {stage: figures.get(stage) or {} for stage in ORDER}
    if got["candidates"]:
        return report_calls.funnel(figures)
    documents = got["corpus"].get("documents")
    accepted, tokens = got["convert"].get("accepted"), got["tokenize"].get("train")
    made, mapped = got["evaluate"].get("generated"), got["map"]
    rejected = sum((got["convert"].get("rejected") or {}).values())
    steps = []

    def step(label: str, value: int | None, note: str = "", pages: bool = True) -> None:
        if value is not None:
            share = min(value / documents, 1) if pages and documents else None
            steps.append({"label": label, "value": number(value), "note": note, "share": share})

    splits = got["corpus"].get("splits") or {}
    step("documents read", documents, ", ".join(f"{number(n)} {split}" for split, n in splits.items()))
    asked = got["prompt"].get("requests")
    step("asked of the teacher", sum(asked.values()) if asked else None)
    step("accepted answers", sum(accepted.values()) if accepted else None, f"{number(rejected)} rejected")
    if tokens:
        note = f"{number(tokens['tokens'])} tokens, {number(tokens['target_tokens'])} to learn"
        step("training rows", tokens["rows"], note)
    if made:
        step("documents generated for", made["documents"], f"{number(made['rows'])} answers")
        written = f"synthetic {task_of(figures)}"
        step(written, made["queries"], f"{number(made['tokens'])} tokens", pages=False)
    if got["filter"]:
        gone = [f"{number(n)} {name.replace('_', ' ')}" for name, n in got["filter"]["dropped"].items() if n]
        note = f"of {number(got['filter']['lines'])}; left out: {', '.join(gone) or 'none'}"
        step("kept by the filters", got["filter"]["kept"], note, pages=False)
    if mapped and mapped["queries"]:
        note = f"{number(mapped['pairs_already_known'])} of {number(mapped['pairs_found'])} found were known"
        step("new pairs", mapped["pairs_added"], note, pages=False)
    return steps


def measures(metrics: dict | None) -> list[dict]:
    made = []
    for measure, (title, note) in MEASURES.items() if metrics else ():
        own = [(name, metrics[name]) for name in SYSTEMS if measure in metrics.get(name, ())]
        rows = [(name, defined(found, measure)) for name, found in own]
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
    return {"chart": lines(series, "loss by step"), "series": series, "facts": facts}


def histograms(tokenize: dict | None, generated: list[dict] | None) -> list[dict]:
    made = []
    train = (tokenize or {}).get("train") or {}
    parts = (("prompt_tokens", "Prompts", "base"), ("answer_tokens", "Teacher's answers", "teacher"))
    for key, title, kind in parts:
        found = train.get(key)
        if found and found["counts"]:
            note = f"{found['min']} to {found['max']} tokens, {found['mean']:.0f} on average"
            chart = columns(found["edges"], found["counts"], title, kind)
            made.append({"title": title, "note": note, "chart": chart})
    if generated:
        edges = [row["generated_tokens"] for row in generated]
        edges.append(edges[-1] + (edges[1] - edges[0] if len(edges) > 1 else 1))
        chart = columns(edges, [row["rows"] for row in generated], "Generated answers", "student")
        note = "tokens up to the end or the limit"
        made.append({"title": "Generated answers", "note": note, "chart": chart})
    return made


def mapping(figures: dict | None) -> dict | None:
    if not figures or not figures["queries"]:
        return None
    histogram, hidden = figures["score_histogram"], figures["hidden"]
    counts = histogram["counts"]
    first = next((place for place, count in enumerate(counts) if count), 0)
    first = min(first, int(figures["threshold"] * len(counts)))
    chart = columns(histogram["edges"][first:], counts[first:], "similarity", "student", figures["threshold"])
    found, by_chance = percent(hidden["recovered_share"]), percent(hidden["share_by_chance"])
    texts = "queries" if figures["points"] == "queries" else "labels"
    facts = [
        (f"observed {texts}", number(figures["queries"])),
        (f"documents with synthetic {texts}", number(figures["documents_with_rewrites"])),
        ("known pairs", number(figures["pairs_before"])),
        ("pairs found that were known", number(figures["pairs_already_known"])),
        ("pairs added", number(figures["pairs_added"])),
        ("new pairs a training point", number(figures["new_per_point"]["mean"])),
        (f"observed {texts} with a new pair", percent(figures["queries_with_new"])),
        (f"of {number(hidden['pairs'])} pairs hidden on purpose found again", found),
        ("as many pairs drawn by chance would find", by_chance),
    ]
    kept = [(bound, percent(value)) for bound, value in figures["kept_share"].items()]
    return {"texts": texts, "chart": chart, "facts": facts, "kept": kept}


def gain(xc: dict | None, pack: dict | None) -> dict | None:
    """What models trained on both matrices reach: for each its charts and a table."""
    if not xc:
        return None
    models = []
    for name, own in xc.items():
        buckets = own["buckets"]
        recall = [(f"R@{k}", *(own[key][f"R@{k}"] for key in MATRICES)) for k in (1, 3, 5, 10, 100)]
        by_frequency = [(bucket, *(buckets[bucket][key]["R@10"] for key in MATRICES)) for bucket in buckets]
        models.append(
            {
                "title": MODELS[name].capitalize(),
                "note": WHAT_IT_IS[name],
                "recall": paired_bars(recall, f"{MODELS[name]}: recall"),
                "buckets": paired_bars(by_frequency, f"{MODELS[name]}: R@10 by frequency of labels"),
                "rows": [(measure, *(own[key][measure] for key in MATRICES)) for measure in own["original"]],
            }
        )
    return {"models": models, "buckets": [extent(*one) for one in buckets.items()], "facts": sizes(pack)}


def extent(name: str, bucket: dict) -> tuple[str, str, int, int]:
    low, high = bucket["frequency"] or (None, None)
    known = "–" if low is None else number(low) if low == high else f"{number(low)} to {number(high)}"
    return name, known, bucket["labels"], bucket["pairs"]


def sizes(pack: dict | None) -> list[tuple[str, str]]:
    if not pack:
        return []
    without = pack["labels_without_train_pairs"]
    return [
        ("training points", number(pack["train_points"])),
        ("test points", number(pack["test_points"])),
        ("labels", number(pack["labels"])),
        ("training pairs, original", number(pack["pairs_original"])),
        ("training pairs, augmented", number(pack["pairs_augmented"])),
        ("labels without a training pair, original", number(without["original"])),
        ("labels without a training pair, augmented", number(without["augmented"])),
        ("test pairs", number(pack["test_pairs"])),
    ]


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
    """Seconds and memory by stage, in the order of the chain, with a `share` of the longest for a bar."""
    known = [stage for stage in ORDER if stage in times]
    longest = max((times[stage]["seconds"] for stage in known), default=0) or 1
    return [{"stage": stage, **times[stage], "share": times[stage]["seconds"] / longest} for stage in known]


def samples(rows: list[dict] | None, task: kinds.Task) -> list[dict]:
    """Sample pages, each line with whether it is well-formed; requests and their calls are no pages."""
    well_formed = kinds.kind(task).well_formed
    return [
        {
            **row,
            **{name: [(line, well_formed(line)) for line in row[name]] for name in SYSTEMS if name in row},
        }
        for row in rows or ()
        if "title" in row
    ]


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f}%" if 0 < share < 0.001 else f"{100 * share:.1f}%"
