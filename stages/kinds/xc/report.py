"""What the report says of a dataset of queries or categories: pages, new labels and what they bring."""

from stages.kinds.kind import COMPOSED, few
from stages.kinds.xc.parts.tasks import TASKS
from stages.reporting.charts import columns, number, paired_bars
from stages.reporting.page import SYSTEMS, Funnel, Report, Section, percent

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
}
HEADLINE = ("hit_at_10", "hit_at_10_nameless", "groundedness", "format_validity")
WORDS = {"queries": "search queries for documents", "categories": "categories for documents"}
MODELS = {"plt": "label tree", "two_tower": "two-tower retriever"}
WHAT_IT_IS = {
    "plt": "a probabilistic label tree over words: it knows a label by its training points alone",
    "two_tower": "a linear layer over a text encoder, which also reads the labels' own texts",
}
MATRICES = ("original", "augmented", "difference")


def report(figures: dict) -> Report:
    """The sections of the page, from the figures of the stages by file name."""
    evaluated = figures.get("evaluate") or {}
    task = evaluated.get("task", "queries")
    shown = {
        "samples": samples(figures.get("samples"), task),
        "mapping": mapping(figures.get("map")),
        "gain": gain(figures.get("xc"), figures.get("pack")),
    }
    return Report(
        words=WORDS[task],
        noun=task,
        funnel=funnel(figures, task),
        measures=MEASURES,
        measured_on=measured_on(evaluated) if figures.get("metrics") else "",
        headline=HEADLINE,
        tiles=tiles(figures, task),
        first=people(evaluated.get("people")),
        results=[Section("kinds/xc/samples.html.j2", shown)],
        later=[Section("kinds/xc/labels.html.j2", shown)],
    )


def people(found: dict | None) -> list[Section]:
    """How well pages are found by queries in people's wording: a row for each kind of query."""
    if not found:
        return []
    rows = [
        (kind, own["queries"], [own[measure] for measure in ("R@1", "R@10", "MRR@10")], alike["R@10"])
        for (kind, own), alike in zip(found["page"].items(), found["near_duplicate"].values(), strict=True)
    ]
    return [Section("kinds/xc/people.html.j2", {"rows": rows, "composed": COMPOSED})]


def measured_on(evaluated: dict) -> str:
    pages = evaluated["pages"]
    return (
        f"Means over {pages} held-out pages{few(pages)} with bootstrap 95% intervals; retrieval among\n"
        f"{evaluated['corpus']:,} pages. “Extractive” copies the page's own summary line: whatever it tops\n"
        "rewards copying, so read retrieval and groundedness beside the share of lines copied word for word."
    )


def tiles(figures: dict, task: str) -> list[dict]:
    """How much was written and mapped, and the gain of the first model."""
    made = []
    if generated := (figures.get("evaluate") or {}).get("generated"):
        note = f"for {number(generated['documents'])} documents"
        made.append({"label": f"Synthetic {task}", "value": number(generated["queries"]), "note": note})
    mapped = figures.get("map")
    if mapped and mapped["queries"]:
        note = f"to {number(mapped['pairs_before'])} known ones"
        made.append({"label": "New pairs", "value": number(mapped["pairs_added"]), "note": note})
    for model, own in list((figures.get("xc") or {}).items())[:1]:
        before, after, difference = (own[key]["R@10"] for key in MATRICES)
        low, high = difference["low"], difference["high"]
        note = f"{before:.2f} without: {low:+.2f} to {high:+.2f}; {MODELS[model]}"
        made.append({"label": "R@10, new labels", "value": f"{after:.2f}", "note": note})
    return made


def funnel(figures: dict, task: str) -> list[dict]:
    """Steps from documents to mapped pairs; those counted in pages have a `share` of all documents."""
    corpus, converted = figures.get("corpus") or {}, figures.get("convert") or {}
    steps = Funnel(corpus.get("documents"))
    splits = corpus.get("splits") or {}
    note = ", ".join(f"{number(n)} {split}" for split, n in splits.items())
    steps.step("documents read", corpus.get("documents"), note)
    asked, accepted = (figures.get("prompt") or {}).get("requests"), converted.get("accepted")
    steps.step("asked of the teacher", sum(asked.values()) if asked else None)
    rejected = number(sum((converted.get("rejected") or {}).values()))
    steps.step("accepted answers", sum(accepted.values()) if accepted else None, f"{rejected} rejected")
    steps.training_rows(figures.get("tokenize"))
    if generated := (figures.get("evaluate") or {}).get("generated"):
        steps.step("documents generated for", generated["documents"], f"{number(generated['rows'])} answers")
        note = f"{number(generated['tokens'])} tokens"
        steps.step(f"synthetic {task}", generated["queries"], note, shared=False)
    if filtered := figures.get("filter"):
        gone = [f"{number(n)} {name.replace('_', ' ')}" for name, n in filtered["dropped"].items() if n]
        note = f"of {number(filtered['lines'])}; left out: {', '.join(gone) or 'none'}"
        steps.step("kept by the filters", filtered["kept"], note, shared=False)
    mapped = figures.get("map")
    if mapped and mapped["queries"]:
        note = f"{number(mapped['pairs_already_known'])} of {number(mapped['pairs_found'])} found were known"
        steps.step("new pairs", mapped["pairs_added"], note, shared=False)
    return steps.steps


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
                "people": [
                    (kind, value["queries"], *(own["people"][key][kind]["R@10"] for key in MATRICES))
                    for kind, value in own["people"].get("difference", {}).items()
                ],
            }
        )
    shown = {"models": models, "buckets": [extent(*one) for one in buckets.items()], "facts": sizes(pack)}
    return {**shown, "composed": COMPOSED}


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
        ("synthetic queries as further points", number(pack["synthetic_points"])),
        ("test points", number(pack["test_points"])),
        ("labels", number(pack["labels"])),
        ("training pairs, original", number(pack["pairs_original"])),
        ("training pairs, augmented", number(pack["pairs_augmented"])),
        ("labels without a training pair, original", number(without["original"])),
        ("labels without a training pair, augmented", number(without["augmented"])),
        ("test pairs", number(pack["test_pairs"])),
    ]


def samples(rows: list[dict] | None, task: str) -> list[dict]:
    """Sample pages, each line with whether it is well-formed."""
    well_formed = TASKS[task].well_formed
    return [
        {
            **row,
            **{name: [(line, well_formed(line)) for line in row[name]] for name in SYSTEMS if name in row},
        }
        for row in rows or ()
    ]
