"""How many tokens a request has: by tiktoken where it knows the model, else about one for four bytes."""

import json
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread

from stages.teacher.identity import texts_of

BYTES_PER_TOKEN = 4
FRAME = 4  # tokens that a chat template puts around a message, about
DOWNLOAD_S = 15


def rough_tokens(request: dict) -> float:
    """Input tokens, about."""
    return _count(request, lambda text: len(text.encode()) / BYTES_PER_TOKEN)


def counter(model: str) -> tuple[Callable[[dict], float], str]:
    """(function from a request to its input tokens, the name of the method).

    tiktoken's tables are not part of the package: it downloads them once. Where it does not know the model,
    or cannot get the table, the approximation is used, and the name says so.
    """
    import tiktoken

    try:
        name = tiktoken.encoding_name_for_model(model)
        encoding = _within(DOWNLOAD_S, lambda: tiktoken.get_encoding(name))
    except KeyError:
        return rough_tokens, f"bytes / {BYTES_PER_TOKEN}: tiktoken does not know '{model}'"
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a proxy's page has a wrong hash
        return rough_tokens, f"bytes / {BYTES_PER_TOKEN}: no table for tiktoken ({type(error).__name__})"
    return lambda request: _count(request, lambda t: len(encoding.encode_ordinary(t))), f"tiktoken {name}"


def _within(seconds: float, call: Callable):
    """What `call` returns or raises; TimeoutError after `seconds`, where tiktoken would wait for ever."""
    future: Future = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()  # a daemon does not hold up the end of the process
    return future.result(seconds)


def _count(request: dict, tokens: Callable[[str], float]) -> float:
    total = sum((FRAME + tokens(text) for text in texts_of(request)), start=0.0)
    for name in ("tools", "response_format"):
        if request.get(name):
            total += tokens(json.dumps(request[name]))
    return total
