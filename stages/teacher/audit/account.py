"""The figures of a store: what it holds, what that cost, what counts against caps, which batches are open."""

import sqlite3

from stages.teacher.batch.store import OPEN as OPEN_STATES

CONTENTS = """
SELECT (SELECT user_version FROM pragma_user_version) AS schema_version,
    (SELECT count(*) FROM requests) AS requests, count(*) AS attempts, count(raw) AS answers,
    coalesce(sum(source = 'import'), 0) AS taken_over,  -- from responses.jsonl: in no ledger
    (SELECT count(*) FROM disowned) AS disowned,
    min(at) AS oldest, max(at) AS newest
FROM attempts
"""
SPEND = """
SELECT dataset, mode, foreign_spend AS imported, count(*) AS attempts, count(*) - count(error) AS answers,
    count(error) AS failures, coalesce(sum(prompt_tokens), 0) AS prompt_tokens,
    coalesce(sum(cached_tokens), 0) AS cached_tokens,
    coalesce(sum(completion_tokens), 0) AS completion_tokens,
    coalesce(sum(reasoning_tokens), 0) AS reasoning_tokens, coalesce(sum(dollars), 0) AS dollars,
    count(*) - count(dollars) AS unknown_cost
FROM ledger GROUP BY 3, 1, 2 ORDER BY 3, 1, 2
"""
OPEN = f"FROM batches WHERE state IN {OPEN_STATES}"
WALLET = f"""
SELECT dataset, sum(dollars), coalesce(sum(dollars) FILTER (WHERE run IN (SELECT name {OPEN})), 0)
FROM wallet GROUP BY dataset ORDER BY dataset
"""
BATCHES = f"""
SELECT name AS batch, dataset, rows, state,
    CAST(round((julianday('now') - julianday(intended_at)) * 86400) AS INTEGER) AS age_seconds
{OPEN} ORDER BY intended_at, name
"""


def account(connection: sqlite3.Connection) -> dict:
    """All figures, as a `snapshot` sees them. Dollars are known ones; a cost that is unknown is counted."""
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")  # of damaged text, too
    connection.row_factory = sqlite3.Row
    spend = [dict(row) for row in connection.execute(SPEND)]
    for line in spend:
        line |= {"imported": bool(line["imported"]), "dollars": _rounded(line["dollars"])}
    here, there = ([line for line in spend if line["imported"] == side] for side in (False, True))
    return {
        **dict(connection.execute(CONTENTS).fetchone()),
        "spend": spend,
        "spent_here": _total(here),
        "spent_elsewhere": _total(there),
        "caps": _caps(connection, here),
        "open_batches": [dict(row) for row in connection.execute(BATCHES)],
    }


def _total(lines: list[dict]) -> dict:
    dollars = _rounded(sum(line["dollars"] for line in lines))
    return {"dollars": dollars, "unknown_cost": sum(line["unknown_cost"] for line in lines)}


def _caps(connection: sqlite3.Connection, spend: list[dict]) -> list[dict]:
    """What each dataset's runs took from its cap, and how much of it neither answers nor batches explain."""
    caps = []
    for dataset, committed, in_batches in connection.execute(WALLET):
        known = sum(line["dollars"] for line in spend if line["dataset"] == dataset)
        figures = {"committed": committed, "in_batches": in_batches, "other": committed - in_batches - known}
        caps.append({"dataset": dataset, **{name: _rounded(value) for name, value in figures.items()}})
    return caps


def _rounded(dollars: float) -> float:
    return round(dollars, 6) + 0.0  # no -0.0
