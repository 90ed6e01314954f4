"""The figures of a store: what it holds, what that cost, what counts against caps, which batches are open."""

import sqlite3
from datetime import UTC, datetime

from stages.teacher.batch.store import OPEN as OPEN_STATES

SPEND = """
SELECT dataset, mode, foreign_spend, count(*), count(*) - count(error), count(error),
    coalesce(sum(prompt_tokens), 0), coalesce(sum(cached_tokens), 0), coalesce(sum(completion_tokens), 0),
    coalesce(sum(reasoning_tokens), 0), coalesce(sum(dollars), 0), count(*) - count(dollars)
FROM ledger GROUP BY 3, 1, 2 ORDER BY 3, 1, 2
"""
SPEND_NAMES = (
    "dataset mode imported attempts answers failures prompt_tokens cached_tokens completion_tokens "
    "reasoning_tokens dollars unknown_cost"
).split()
OPEN = f"FROM batches WHERE state IN {OPEN_STATES}"
WALLET = f"""
SELECT dataset, sum(dollars), coalesce(sum(dollars) FILTER (WHERE run IN (SELECT name {OPEN})), 0)
FROM wallet GROUP BY dataset ORDER BY dataset
"""


def account(connection: sqlite3.Connection) -> dict:
    """All figures, as a `snapshot` sees them. Dollars are known ones; a cost that is unknown is counted."""
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")  # of damaged text, too
    spend = [dict(zip(SPEND_NAMES, row, strict=True)) for row in connection.execute(SPEND)]
    for line in spend:
        line |= {"imported": bool(line["imported"]), "dollars": _rounded(line["dollars"])}
    here, there = ([line for line in spend if line["imported"] == side] for side in (False, True))
    return {
        **_contents(connection),
        "spend": spend,
        "spent_here": _total(here),
        "spent_elsewhere": _total(there),
        "caps": _caps(connection, here),
        "open_batches": _open_batches(connection),
    }


def _contents(connection: sqlite3.Connection) -> dict:
    one = "SELECT count(*), count(raw), coalesce(sum(source = 'import'), 0), min(at), max(at) FROM attempts"
    attempts, answers, taken_over, oldest, newest = connection.execute(one).fetchone()
    return {
        "schema_version": connection.execute("PRAGMA user_version").fetchone()[0],
        "requests": connection.execute("SELECT count(*) FROM requests").fetchone()[0],
        "attempts": attempts,
        "answers": answers,
        "taken_over": taken_over,  # from responses.jsonl: in no ledger
        "oldest": oldest,
        "newest": newest,
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


def _open_batches(connection: sqlite3.Connection) -> list[dict]:
    now, batches = datetime.now(UTC), []
    query = f"SELECT name, dataset, rows, state, intended_at {OPEN} ORDER BY intended_at, name"
    for name, dataset, rows, state, since in connection.execute(query):
        age = round((now - datetime.fromisoformat(since)).total_seconds())
        batches.append({"batch": name, "dataset": dataset, "rows": rows, "state": state, "age_seconds": age})
    return batches


def _rounded(dollars: float) -> float:
    return round(dollars, 6) + 0.0  # no -0.0
