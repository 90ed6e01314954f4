"""A cap on spending that holds whatever happens."""

import math
import sqlite3
import uuid
from typing import Any

from stages.core.errors import UserError
from stages.core.records import RequestContent
from stages.teacher.identity import limit_of
from stages.teacher.prices import Price
from stages.teacher.store.store import Store, utc_now

ROUNDING = 1e-9  # dollars by which sums of the same amounts may differ


class Budget:
    """What a run may still spend of a dataset's cap.

    A run withdraws dollars from the cap in chunks, durably, before it spends them; each request takes its
    worst case from what was withdrawn, and gives back what it did not cost. What is left at the end is
    returned; a run that was killed returns nothing, so what it had in flight counts as spent. Thus the sum of
    the wallet is at any moment at least what the provider can bill, over all runs, processes, modes and
    retries.
    """

    def __init__(self, store: Store, dataset: str, price: Price | None, cap: float = 0.0):
        self.store, self.dataset, self.price, self.cap = store, dataset, price, cap
        self.run, self.wallet = uuid.uuid4().hex, store.connect()
        self.left = 0.0
        self.held = 0  # requests that have reserved and not settled

    def __enter__(self) -> "Budget":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.left > 0:
            self._move(-self.left)
        self.wallet.close()

    def worst(self, request: RequestContent, batch: bool = False) -> float:
        """The most that the request can cost, in dollars; 0 where the price is unknown."""
        return self.price.worst(request, batch) if self.price else 0.0

    def reserve(self, dollars: float) -> bool:
        """Set `dollars` aside for a request about to be sent. False: the cap has no room for it now."""
        if self.price is None:
            return True
        enough = dollars * (self.held + 1)  # one commit for as many requests as are in flight
        if self.left < dollars and not (self._withdraw(enough) or self._withdraw(dollars - self.left)):
            return False
        self.left -= dollars
        self.held += 1
        return True

    def settle(self, reserved: float, cost: float) -> None:
        """A request that had `reserved` is over and cost `cost`; the rest is free again."""
        self.left += reserved - cost
        self.held -= 1
        if self.left < 0:  # it cost more than its worst case, such as for reasoning that no limit bounds
            self._move(-self.left)
            self.left = 0.0

    def room(self) -> float:
        """What the cap still allows to be withdrawn."""
        return self.cap - self.committed() if self.cap and self.price else math.inf

    def committed(self) -> float:
        """What all runs of the dataset have withdrawn and not returned."""
        query = "SELECT coalesce(sum(dollars), 0) FROM wallet WHERE dataset = ?"
        return self.wallet.execute(query, (self.dataset,)).fetchone()[0]

    def _withdraw(self, dollars: float) -> bool:
        # Immediate: another process must not read the sum between our reading it and our adding to it.
        self.wallet.execute("BEGIN IMMEDIATE")
        with self.wallet:
            if self.cap and self.committed() + dollars > self.cap:
                return False
            self._move(dollars)
        self.left += dollars
        return True

    def _move(self, dollars: float) -> None:
        _enter(self.wallet, self.run, self.dataset, dollars)


def reserve_batch(writer: sqlite3.Connection, dataset: str, name: str, dollars: float) -> None:
    """Take the worst case of a batch, in dollars, from its dataset's cap.

    It is entered under the name of the batch, because the batch outlives the run that submits it.
    """
    _enter(writer, name, dataset, dollars)


def settle_batch(writer: sqlite3.Connection, name: str, cost: float) -> None:
    """Give back what a batch did not cost. Afterwards it holds `cost`, however often this is done."""
    query = "SELECT dataset, sum(dollars) FROM wallet WHERE run = ? GROUP BY dataset"
    for dataset, held in writer.execute(query, (name,)).fetchall():
        _enter(writer, name, dataset, cost - held)


def _enter(connection: sqlite3.Connection, run: str, dataset: str, dollars: float) -> None:
    query = "INSERT INTO wallet (run, dataset, at, dollars) VALUES (?, ?, ?, ?)"
    connection.execute(query, (run, dataset, utc_now(), dollars))


def check_cap(cap: float, price: Price | None, request: RequestContent, where: str) -> None:
    """Raises UserError where a cap cannot be kept: for want of a price, or of a limit on tokens."""
    if cap and price is None:
        raise UserError(
            f"{where}.max_dollars needs the price of '{request['model']}': add it to prices.models there"
        )
    if cap and limit_of(request) is None:
        raise UserError(f"{where}.max_dollars needs requests that limit their tokens: set max_tokens")


def cap_reached(budget: Budget, worst: float) -> str:
    """The message for a run that the cap has stopped."""
    spent, unknown = budget.store.spent(budget.dataset)
    held = budget.committed() - budget.left - spent
    used = f"${spent:.4g} is spent"
    if held > ROUNDING:
        used += (
            f", ${held:.4g} held for {unknown:,} attempts of unknown cost and runs that go on or were killed"
        )
    return (
        f"the cap of ${budget.cap:g} leaves no room for another request (worst case ${worst:.4g}; {used}): "
        f"raise collect.{budget.dataset}.max_dollars to go on. All answers so far are stored"
    )
