"""What each attempt cost, as far as that is known: counted in one way for the cap and for the ledger."""

import sqlite3
from functools import cache
from typing import Any, NamedTuple

from stages.teacher.prices import Price
from stages.teacher.usage import TOKENS, usage_in

# Classes of failures by which the cost is known, or not, although no answer came.
NEVER_SENT = "no connection"  # the server got nothing to bill
MISSING = "missing from batch"  # it may have been executed


BILLED = ("status", "error", "raw", "mode", "price")  # the columns that decide what an attempt cost


class Cost(NamedTuple):
    """Token counts as of `read_usage`, None where they are not known; dollars likewise."""

    usage: dict[str, int] | None
    dollars: float | None


def cost_of(
    *, status: int | None, error: str | None, raw: str | bytes | None, mode: str | None, price: str | None
) -> Cost:
    """The cost of an attempt, from the columns of that name. An HTTP error is not billed."""
    usage, batch = usage_in(raw), mode == "batch"
    never_executed = error == NEVER_SENT or (batch and raw is None and error != MISSING)
    if status not in (None, 200) or never_executed:
        return Cost(usage, 0.0)
    known = price and _price(price)
    return Cost(usage, known.dollars(usage, batch) if known and usage else None)


@cache
def _price(record: str) -> Price | None:
    try:
        return Price.model_validate_json(record)
    except ValueError:
        return None


def enter_costs(connection: sqlite3.Connection) -> None:
    """Enter the cost of each attempt that has none yet: new ones, and those of an earlier version's store."""
    # Bytes, because damaged text cannot be read as text.
    rows = connection.execute(
        "SELECT id, source, status, error, CAST(raw AS BLOB), mode, price FROM attempts "
        "WHERE id > (SELECT coalesce(max(attempt), 0) FROM costs) ORDER BY id"
    )
    connection.executemany("INSERT INTO costs VALUES (?, ?, ?, ?, ?, ?)", (_line(*row) for row in rows))


def _line(number: int, source: str, *columns: Any) -> tuple:
    """The row of `costs` for an attempt; all unknown where it was paid for elsewhere."""
    cost = Cost(None, None) if source == "import" else cost_of(**dict(zip(BILLED, columns, strict=True)))
    return (number, *((cost.usage or {}).get(name) for name in TOKENS), cost.dollars)
