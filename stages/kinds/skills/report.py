"""What the report says of a dataset of skills: where its requests come from, calls by skill, leaks."""

from stages.kinds.skills.parts.match import ast_compat
from stages.reporting.charts import NAMES, confusion, number

SYSTEMS = ("base", "student", "student_grammar", "teacher")
SAMPLES = 10
LOOKED_AT = ("student_grammar", "student", "base", "teacher")  # whose confusions, first to last
BY_SKILL = (("right_skill", "skill"), ("ast_match", "equal tree"))


def funnel(figures: dict) -> list[dict]:
    """Steps from briefs to training rows; a `share` of all examples where the step counts requests."""
    own, corpus = figures["candidates"], figures.get("corpus") or {}
    offered, decided = own["offered"], corpus.get("decisions") or {}
    tokens = (figures.get("tokenize") or {}).get("train")
    total, steps = sum(offered.values()), []

    def step(label: str, value: int | None, note: str = "", requests: bool = True) -> None:
        if value is not None:
            share = min(value / total, 1) if requests and total else None
            steps.append({"label": label, "value": number(value), "note": note, "share": share})

    step("briefs for the teacher", own.get("briefs"), requests=False)
    step("examples", total, told(offered))
    step("candidates", own["candidates"], f"left out: {told(own['left_out'])}")
    accepted = sum(decided.get(kind, 0) for kind in ("accept", "edit"))
    step("decided by people", accepted if decided else None, told(decided))
    step("requests", corpus.get("documents"), told(corpus.get("splits") or {}))
    if tokens:
        note = f"{number(tokens['tokens'])} tokens, {number(tokens['target_tokens'])} to learn"
        step("training rows", tokens["rows"], note)
    return steps


def told(counts: dict[str, int]) -> str:
    named = (f"{number(count)} {name.replace('_', ' ')}" for name, count in counts.items() if count)
    return ", ".join(named) or "none"


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
