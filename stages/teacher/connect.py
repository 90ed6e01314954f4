"""From the knobs of a dataset to an endpoint: its address, its key, the embedded teacher if that is it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.core.errors import UserError
from stages.teacher.endpoint import Endpoint

EMBEDDED = "embedded"
NO_KEY = "no-key-needed"
PASSED_ON = "api_version concurrency timeout retries rpm tpm breaker patience".split()


@contextmanager
def endpoint(dataset: str, knobs) -> Iterator[Endpoint]:
    """The endpoint to talk to; starts the embedded teacher if that is it. Raises UserError without a key."""
    limits = {name: getattr(knobs, name) for name in PASSED_ON}
    if knobs.base_url == EMBEDDED:
        with embedded() as url:
            yield Endpoint(url, NO_KEY, **limits)
        return
    name, where = knobs.api_key_env, f"params.yaml, collect.{dataset}"
    told = f"the key in {name}" if name else "a request without a key"
    yield Endpoint(knobs.base_url, _key(name, knobs.base_url, where), told, **limits)


def _key(name: str, url: str, where: str) -> str:
    if not name:
        return NO_KEY
    from dotenv import dotenv_values

    key = (os.environ.get(name) or dotenv_values(".env").get(name) or "").strip()
    if not key:
        raise UserError(
            f"no key for {url}: set {name} in the environment or in .env (git-ignored), "
            f"or set {where}.api_key_env to '' for a server that needs none"
        )
    return key


@contextmanager
def embedded() -> Iterator[str]:
    """Run the server in a process of its own; yields its base_url.

    The process ends when its standard input does, so it cannot outlive this one, not even after `kill -9`;
    a session of its own keeps Ctrl-C from it while answers in flight are waited for.
    """
    root = str(Path(__file__).resolve().parents[2])
    process = subprocess.Popen(
        [sys.executable, "-m", "demo.teacher.server", "--port", "0", "--until-eof"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])},
    )
    try:
        ready = process.stdout.readline()
        if not ready:
            raise UserError("the embedded teacher did not start; its error is above")
        yield json.loads(ready)["base_url"]
    finally:
        process.stdin.close()
        process.wait()
