"""From the knobs of a dataset to an endpoint: its address, its key, the embedded teacher if that is it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from demo.teacher.server import embedded
from stages.core.errors import UserError
from stages.teacher.endpoint import Endpoint

EMBEDDED = "embedded"
NO_KEY = "no-key-needed"
PASSED_ON = "api_version concurrency timeout retries rpm tpm breaker patience hedge_after".split()


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
