"""Token counts of all kinds of servers and what they cost: cap and ledger agree, and none gives back."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from stages.collect import collect
from stages.core import layout
from stages.core.errors import UserError
from stages.teacher.knobs import CollectKnobs
from stages.teacher.prices import ModelPrice, Price
from stages.teacher.store.schema import ONE, TWO
from stages.teacher.store.store import Attempt, Store
from stages.teacher.usage import read_usage, usage_in
from tests.helpers.teacher_server import Reply, Teacher, completion, make_requests

PRICES = (
    'prices: {version: "1", models: {embedded: {input: 1000, output: 4000, cached_input: 250, batch: 0.5}}}\n'
)
PRICE = Price.of("1", ModelPrice(input=1000, output=4000, cached_input=250, batch=0.5))


def told(prompt=100, completion=30, total=None, cached=None, reasoning=None) -> dict:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    details = {"prompt_tokens_details": {"cached_tokens": cached}}
    return {**usage, **details, "completion_tokens_details": {"reasoning_tokens": reasoning}}


def as_told(usage: dict) -> str:
    return json.dumps({**json.loads(completion("a b").body), "usage": usage})


NO_COUNTS = [
    *(
        {"prompt": count}
        for count in (-1, 1.5, "100", True, None, [100], 10**20, 10**400, float("nan"), 1e999)
    ),
    *({"completion": count} for count in (-40, 30.5, "30", None, {}, 10**30, float("-inf"))),
    *({"cached": count} for count in (-50, 0.5, "1", 10**400)),
    *({"reasoning": count} for count in (-1, "many")),
    *({"total": count} for count in (-130, 130.5, "130")),
    {"prompt": 0, "completion": 0, "total": 0},
]
COUNTS = [  # what a server says; (prompt, completion) tokens; dollars by the prices above
    ({}, (100, 30), 0.1 + 0.12),
    ({"prompt": 100.0, "completion": 3e1, "total": 130.0}, (100, 30), 0.1 + 0.12),
    ({"cached": 40, "total": 130}, (100, 30), 0.06 + 0.01 + 0.12),
    ({"cached": 5000, "total": 130}, (5100, 30), 0.1 + 1.25 + 0.12),  # beside the prompt
    ({"cached": 5000, "total": 5130}, (5100, 30), 0.1 + 1.25 + 0.12),
    ({"prompt": 0, "cached": 5000}, (5000, 30), 1.25 + 0.12),
    ({"reasoning": 20, "total": 130}, (100, 30), 0.1 + 0.12),
    ({"reasoning": 2000, "total": 2130}, (100, 2030), 0.1 + 8.12),  # beside the completion
    ({"reasoning": 2000}, (100, 2030), 0.1 + 8.12),
    ({"total": 2130}, (100, 2030), 0.1 + 8.12),  # in the total only
    ({"completion": 0, "reasoning": 2000, "total": 2100}, (100, 2000), 0.1 + 8.0),
]


@pytest.mark.parametrize("counts", NO_COUNTS, ids=str)
def test_a_count_that_cannot_be_makes_the_cost_unknown(counts):
    assert read_usage(told(**counts)) is None


@pytest.mark.parametrize("counts, tokens, dollars", COUNTS, ids=str)
def test_every_token_is_counted_once_however_the_server_counts(counts, tokens, dollars):
    usage = read_usage(told(**counts))
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == tokens
    assert PRICE.dollars(usage) == pytest.approx(dollars)
    assert read_usage(usage) == usage  # as it stands in responses.jsonl


@pytest.mark.parametrize(
    "body", ["", "no", "[]", '{"usage": 5}', '{"a": ' + "[" * 99_999, "9" * 5000, '"usage"']
)
def test_a_body_without_usage_is_survived(body):
    assert usage_in(body) is usage_in(None) is None


@pytest.mark.parametrize(
    "usage, sent",
    [
        (told(cached=5000), 3),  # 1.47 dollars each, under a cap of 5
        (told(total=2130), 1),  # 8.22 dollars
        (told(completion=-40), 4),  # its worst case, 1.1 dollars, is counted
        (told(cached=-50), 4),
        (told(prompt=10**20), 4),
    ],
    ids=str,
)
def test_the_cap_holds_whatever_a_server_counts(usage, sent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PRICES)
    make_requests("d", 10)
    teacher = Teacher(lambda body, seen: Reply(as_told(usage)))
    with teacher.running() as url, pytest.raises(UserError, match="the cap of"):
        collect("d", CollectKnobs(base_url=url, api_key_env="", max_dollars=5, concurrency=1))
    assert teacher.calls == sent
    with closing(sqlite3.connect(layout.STORE)) as connection:
        held = connection.execute("SELECT sum(dollars) FROM wallet").fetchone()[0]
        known, unknown = connection.execute(
            "SELECT sum(dollars), count(*) - count(dollars) FROM ledger"
        ).fetchone()
    assert held >= 5 - 1.47 and (unknown == sent if known is None else known == pytest.approx(held))


def test_an_earlier_store_gets_the_costs_of_what_it_holds(tmp_path):
    """Its view summed what a server said; the sqlite3 command has to be able to read the new one, too."""
    path, bodies = tmp_path / "s.sqlite", [as_told(told(**counts)) for counts, *_ in COUNTS]
    odd = [as_told(told(**counts)) for counts in NO_COUNTS] + ["<html>", '{"usage": null}']
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(ONE + TWO)
        query = (
            "INSERT INTO attempts (request_key, at, source, status, mode, raw, price) "
            "VALUES ('k', '', ?, 200, ?, ?, ?)"
        )
        rows = [("u", mode, raw, PRICE.record) for mode in ("online", "batch") for raw in bodies]
        rows += [("u", "online", raw, PRICE.record) for raw in odd] + [("u", "online", b"\xff", PRICE.record)]
        rows += [("import", "import", bodies[0], None), ("u", "online", bodies[0], "no price")]
        connection.executemany(query, rows)
        connection.commit()
    for _ in range(2):
        with Store(path):
            pass
        with closing(sqlite3.connect(path)) as connection:
            ledger = connection.execute("SELECT mode, dollars FROM ledger ORDER BY id").fetchall()
        known = [
            (mode, pytest.approx(d * share))
            for mode, share in (("online", 1), ("batch", 0.5))
            for *_, d in COUNTS
        ]
        assert ledger == [*known, *[("online", None)] * (len(odd) + 2)]


@pytest.mark.parametrize(
    "attempt, dollars",
    [
        (Attempt("k", "u", status=500, error="500", price=PRICE.record), 0.0),
        (Attempt("k", "u", error="no connection", price=PRICE.record), 0.0),
        (Attempt("k", "u", error="timeout", price=PRICE.record), None),
        (Attempt("k", "u", status=200, raw=as_told(told())), None),
        (Attempt("k", "u", error="expired", mode="batch", price=PRICE.record), 0.0),
        (Attempt("k", "u", error="missing from batch", mode="batch", price=PRICE.record), None),
    ],
)
def test_what_is_billed(attempt, dollars, tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        store.append([attempt])
        assert store.reader.execute("SELECT dollars FROM ledger").fetchone() == (dollars,)
    assert attempt.dollars == dollars
