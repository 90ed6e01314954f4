"""From the knobs of a dataset to an endpoint: the address, the key, and the embedded teacher's process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.core.errors import UserError
from stages.core.servers import api_key
from stages.teacher.endpoint import Endpoint
from stages.teacher.knobs import EMBEDDED, CollectKnobs

NO_KEY = "no-key-needed"


@contextmanager
def endpoint(knobs: CollectKnobs) -> Iterator[Endpoint]:
    """The endpoint that the knobs name; the embedded teacher runs as long as the block.

    Raises UserError without a key.
    """
    if knobs.base_url == EMBEDDED:
        with embedded() as url:
            yield Endpoint(url, NO_KEY, knobs)
        return
    name, url = knobs.api_key_env, knobs.base_url
    key_name = f"the key in {name}" if name else "a request without a key"
    yield Endpoint(url, api_key(name, url) if name else NO_KEY, knobs, key_name)


@contextmanager
def embedded() -> Iterator[str]:
    """Run the server in another process as long as the block; yields its base_url.

    The process ends when its standard input does, so it cannot outlive this one, not even after `kill -9`;
    a new session keeps Ctrl-C from it while answers in flight are waited for.
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
    assert process.stdin and process.stdout
    try:
        ready = process.stdout.readline()
        if not ready:
            raise UserError("the embedded teacher did not start; its error is above")
        yield json.loads(ready)["base_url"]
    finally:
        process.stdin.close()
        process.wait()
