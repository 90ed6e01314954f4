"""What the report says of a dataset of skills: where its requests come from, calls by skill, leaks."""

from stages.kinds.kind import COMPOSED, few
from stages.kinds.skills.parts.match import ast_compat
from stages.reporting.charts import NAMES, confusion, number
from stages.reporting.page import Funnel, Report, Section, counted, measures

SYSTEMS = ("base", "student", "student_grammar", "teacher")
SAMPLES = 10
LOOKED_AT = ("student_grammar", "student", "base", "teacher")  # whose confusions, first to last
MEASURES = {
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
HEADLINE = ("normalised_match_macro", "valid_call", "other_recall", "latency_ms_p50")
MEASURED_ON = (
    "Means over {rows:,} held-out requests{few} with bootstrap 95% intervals. “+ grammar” is\n"
    "the student that can write nothing but calls of the skills."
)
IN_PEOPLES_WORDING = ("normalised_match_macro", "other_recall", "other_precision", "valid_call")
BY_SKILL = (("right_skill", "skill"), ("ast_match", "equal tree"))


def report(figures: dict) -> Report:
    """The sections of the page, from the figures of the stages by file name."""
    metrics, evaluated = figures.get("metrics") or {}, figures.get("evaluate") or {}
    shown = calls(figures)
    return Report(
        words="the function call that a request stands for",
        noun="calls",
        source="briefs",
        share_of="examples",
        funnel=funnel(figures),
        measures=MEASURES,
        measured_on=MEASURED_ON.format(rows=evaluated["rows"], few=few(evaluated["rows"])) if metrics else "",
        headline=HEADLINE,
        shown="student_grammar" if "student_grammar" in metrics else "student",
        first=people(evaluated.get("people"), (figures.get("calls") or {}).get("people")),
        results=[Section("kinds/skills/report.html.j2", {"calls": shown})] if shown else [],
    )


def funnel(figures: dict) -> list[dict]:
    """Steps from briefs to training rows; a `share` of all examples where the step counts requests."""
    offered = figures.get("candidates")
    if not offered:
        return []
    corpus = figures.get("corpus") or {}
    decided, total = corpus.get("decisions") or {}, sum(offered["offered"].values())
    steps = Funnel(total)
    steps.step("briefs for the teacher", offered.get("briefs"), shared=False)
    steps.step("examples", total, counted(offered["offered"]))
    steps.step("candidates", offered["candidates"], f"left out: {counted(offered['left_out'])}")
    accepted = sum(decided.get(kind, 0) for kind in ("accept", "edit"))
    steps.step("decided by people", accepted if decided else None, counted(decided))
    steps.step("requests", corpus.get("documents"), counted(corpus.get("splits") or {}))
    steps.training_rows(figures.get("tokenize"))
    return steps.steps


def calls(figures: dict) -> dict | None:
    """Tables and pictures of what was called: nothing where no call was scored."""
    found = figures.get("calls")
    if not found:
        return None
    systems = {name: found["systems"][name] for name in SYSTEMS if name in found["systems"]}
    best = "student_grammar" if "student_grammar" in systems else "student"
    rows = (figures.get("evaluate") or {}).get("rows")
    wrong = systems[best]["wrong"]
    return {
        "systems": [(name, NAMES.get(name, name)) for name in systems],
        "by_skill": by_skill(systems, best),
        "pictures": [
            (NAMES.get(name, name), confusion(**own["confusion"], label=f"confusions of {name}"))
            for name, own in sorted(systems.items(), key=lambda item: LOOKED_AT.index(item[0]))
        ],
        "best": NAMES.get(best, best),
        "without_rows": (figures.get("evaluate") or {}).get("skills_without_rows") or [],
        "wrong": wrong,
        "samples": [sample(row, systems) for row in (figures.get("samples") or [])[:SAMPLES]],
        "rows": rows,
        "leaks": leaks(found["leaks"]),
        "shared": [
            (kind, *pair) for kind, own in found["leaks"]["requests"].items() for pair in own["first"]
        ],
    }


def people(found: dict | None, details: dict | None) -> list[Section]:
    """How the students do on requests in people's wording: measures, shares by skill, wrong answers."""
    if not found or not details:
        return []
    shown = {name: MEASURES[name] for name in IN_PEOPLES_WORDING}
    data = {
        "rows": found["rows"],
        "composed": COMPOSED,
        "measures": measures(found["systems"], shown),
        "systems": [(name, NAMES.get(name, name)) for name in details],
        "by_skill_rows": by_skill(details, "student_grammar"),
        "best": NAMES["student_grammar"],
        "wrong": details["student_grammar"]["wrong"],
    }
    return [Section("kinds/skills/people.html.j2", data)]


def by_skill(systems: dict[str, dict], best: str) -> list[dict]:
    """A row a skill: how many requests, the share of right calls of each system, more of the best."""
    rows = []
    for skill, own in systems[best]["per_skill"].items():
        right = [(name, one["per_skill"][skill]["normalised_match"]) for name, one in systems.items()]
        more = [own[measure] for measure, _ in BY_SKILL]
        rows.append({"skill": skill, "rows": own["rows"], "right": right, "more": more})
    return rows


def sample(row: dict, systems: dict) -> dict:
    """A request, its call, and what each system answered, with whether that is the same call."""
    answers = [(row[name], ast_compat(row["gold"], row[name])) for name in systems]
    return {"user": row["user"], "gold": row["gold"], "answers": answers}


def leaks(found: dict) -> list[tuple[str, str]]:
    requests, values = found["requests"], found["values"]
    facts = [
        ("test requests", number(found["test"])),
        ("training requests", number(found["train"])),
        ("test requests that training has, too", number(requests["exact"]["rows"])),
        ("but for case and punctuation", number(requests["spelling"]["rows"])),
        ("nearly", number(requests["near"]["rows"])),
        ("repeated within test", number(found["duplicates_in_test"]["rows"])),
        ("wordings that training has, too", of(found["templates"])),
    ]
    return facts + [(f"values of {name} that training has, too", of(own)) for name, own in values.items()]


def of(shared: dict) -> str:
    return f"{number(shared['shared'])} of {number(shared['test'])}"
