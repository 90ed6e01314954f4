"""What makes two teacher requests the same request."""

from stages.support.hashing import sha256_json

FAMILY = "openai/chat.completions"


def request_key(
    model: str,
    messages: list[dict],
    params: dict,
    sample: int = 0,
    tools: list | None = None,
    schema: dict | None = None,
    family: str = FAMILY,
) -> str:
    """sha256 of everything that can change an answer, and of nothing else.

    `family` is the protocol, not the host: the same model behind another address is asked only once. How a
    request is sent (concurrency, timeout, retries, online or in a batch) does not count. `params` are the
    sampling parameters as sent. Models must differ in name where they differ in answers.
    """
    return sha256_json(
        {
            "family": family,
            "model": model,
            "messages": messages,
            "params": params,
            "sample": sample,
            "tools": tools,
            "schema": schema,
        }
    )
