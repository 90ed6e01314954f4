"""Get the teacher's answer to every request, paying for none twice.

Reads `data/<dataset>/requests.jsonl`; writes `data/<dataset>/responses.jsonl`, sorted by id: outcome, raw
text and usage of each. Answers are kept for ever in `data/teacher/store.sqlite`, outside DVC; the output is
a projection of that store, so it has the same bytes whatever the concurrency, after a `kill -9`, and with no
network and no key. Where the store is new but answers were pulled, they are taken over first.
"""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pydantic import Field

from stages.support import layout
from stages.support.cli import Knobs, stage
from stages.support.errors import UserError
from stages.support.files import iter_jsonl, write_jsonl
from stages.support.progress import Progress
from stages.teacher.client import Endpoint, ask_all
from stages.teacher.identity import request_key
from stages.teacher.outcomes import ACCEPTED, OUTCOMES, Answer
from stages.teacher.pulled import earlier_outputs
from stages.teacher.server import embedded
from stages.teacher.store import Store

EMBEDDED = "embedded"
FIELDS = ("id", "request_key", "model", "messages", "params", "prompt_hash")


class CollectKnobs(Knobs):
    base_url: str = Field(EMBEDDED, description="'embedded' (a local stand-in) or an OpenAI-compatible URL")
    api_key_env: str = Field(
        "OPENAI_API_KEY", description="environment variable (or line in .env) with the key; '' = no key"
    )
    concurrency: int = Field(16, gt=0, description="requests in flight")
    timeout: float = Field(120.0, gt=0, description="seconds for one attempt")
    retries: int = Field(6, ge=0, description="further attempts after one that may be repeated")
    min_accept: float = Field(0.8, ge=0, le=1, description="least share of accepted answers")


def read_requests(path: Path) -> list[tuple[str, str, str, str]]:
    """(id, request key, model, prompt hash) of each request, by id. Raises UserError for a bad row."""
    rows: dict[str, tuple] = {}
    for number, row in enumerate(iter_jsonl(path, FIELDS), start=1):
        if row["id"] in rows:
            raise UserError(f"{path}, row {number}: id '{row['id']}' was used before; ids must be unique")
        if row["request_key"] != request_key(row["model"], row["messages"], row["params"]):
            raise UserError(
                f"{path}, row {number}: request_key does not belong to the request; run the prompt stage"
            )
        rows[row["id"]] = (row["id"], row["request_key"], row["model"], row["prompt_hash"])
    if not rows:
        raise UserError(f"{path}: no requests; run the prompt stage")
    return [rows[key] for key in sorted(rows)]


def unanswered(path: Path, missing: set[str]) -> Iterator[dict]:
    """Each request of `missing` once, however many rows share it."""
    left = set(missing)
    for row in iter_jsonl(path):
        if row["request_key"] in left:
            left.remove(row["request_key"])
            yield row


@contextmanager
def endpoint(dataset: str, knobs: CollectKnobs) -> Iterator[Endpoint]:
    """The endpoint to talk to; starts the embedded teacher if that is it. Raises UserError without a key."""
    name = knobs.api_key_env
    limits = {"concurrency": knobs.concurrency, "timeout": knobs.timeout, "retries": knobs.retries}
    if knobs.base_url == EMBEDDED:
        with embedded() as url:
            yield Endpoint(url, "no-key-needed", **limits)
        return
    where = f"params.yaml, collect.{dataset}"
    if not re.match(r"https?://[^/@\s]+(/|$)", knobs.base_url):
        raise UserError(
            f"{where}.base_url: expected 'embedded' or http(s)://host/v1, without user or password"
        )
    if not re.fullmatch(r"\w*", name):
        raise UserError(
            f"{where}.api_key_env: expected the NAME of an environment variable, never a key itself"
        )
    key = "no-key-needed"
    if name:
        from dotenv import dotenv_values

        key = (os.environ.get(name) or dotenv_values(".env").get(name) or "").strip()
        if not key:
            raise UserError(
                f"no key for {knobs.base_url}: set {name} in the environment or in .env (git-ignored), "
                f"or set {where}.api_key_env to '' for a server that needs none"
            )
    yield Endpoint(knobs.base_url, key, f"the key in {name}" if name else "a request without a key", **limits)


def project(rows: list[tuple], store: Store, tally: Counter) -> Iterator[dict]:
    """The rows of `responses.jsonl`; counts outcomes and tokens in `tally` on the way."""
    for row_id, key, model, prompt_hash in rows:
        answer = store.answer(key) or Answer("error")
        tally.update({answer.outcome: 1, **(answer.usage or {})})
        yield {
            "id": row_id,
            "request_key": key,
            "outcome": answer.outcome,
            "response": answer.response,
            "usage": answer.usage,
            "model": answer.model or model,
            "prompt_hash": prompt_hash,
        }


@stage("collect", CollectKnobs)
def command(dataset: str, knobs: CollectKnobs) -> dict:
    source, target, label = layout.requests(dataset), layout.responses(dataset), f"collect {dataset}"
    say = partial(print, f"{label}:", file=sys.stderr)
    rows = read_requests(source)
    keys = {row[1] for row in rows}
    with Store(layout.STORE) as store:
        missing = {key for key in keys if store.answer(key) is None}
        for earlier in earlier_outputs(target) if missing else ():
            if taken := store.refill(earlier):
                say(f"{taken:,} answers taken over from {earlier}")
            missing = {key for key in missing if store.answer(key) is None}
        done = len(keys) - len(missing)
        say(f"{done:,} answers stored, {len(missing):,} to ask")
        if missing:
            with endpoint(dataset, knobs) as end, Progress(len(keys), label, "request", done) as shown:
                failures = ask_all(unanswered(source, missing), end, store, shown)
            for kind, (count, example) in sorted(failures.items()):
                say(f"{count:,} failed ({kind}), such as: {example}")
        tally: Counter[str] = Counter()
        write_jsonl(target, project(rows, store, tally))
    outcomes = {name: tally[name] for name in OUTCOMES if tally[name]}
    accepted = sum(tally[name] for name in ACCEPTED)
    told = ", ".join(f"{name} {count:,}" for name, count in outcomes.items())
    say(f"{len(rows):,} rows: {told}")
    if not accepted or accepted < knobs.min_accept * len(rows):
        raise UserError(
            f"{dataset}: {accepted or 'none'} of {len(rows):,} answers accepted, below min_accept "
            f"{knobs.min_accept:g} ({told}); see {target}. What came is stored; a new run asks for errors"
        )
    return {
        "rows": len(rows),
        "distinct_requests": len(keys),
        "outcomes": outcomes,
        "accepted_share": round(accepted / len(rows), 6),
        "prompt_tokens": tally["prompt_tokens"],
        "completion_tokens": tally["completion_tokens"],
    }


if __name__ == "__main__":
    command()
