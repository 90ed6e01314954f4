"""Rate limits of a test server, refused and announced in OpenAI's headers."""

import math
import time


class Bucket:
    """A token bucket. What costs more than it holds passes when it is full, and leaves a debt behind."""

    def __init__(self, limit: int, window: float, size: float | None):
        self.limit, self.rate = limit, limit / window
        self.size = self.level = size or max(1, limit / 60)
        self.since = time.monotonic()

    def wait(self, cost: float) -> float:
        """Seconds till so much may pass; infinity for what is more than the limit itself."""
        now = time.monotonic()
        self.level = min(self.size, self.level + (now - self.since) * self.rate)
        self.since = now
        lacking = min(cost, self.size) - self.level
        return math.inf if cost > self.limit else max(0.0, round(lacking / self.rate, 6))

    def headers(self, name: str) -> dict[str, str]:
        return {
            f"x-ratelimit-limit-{name}": str(self.limit),
            f"x-ratelimit-reset-{name}": duration(self.wait(self.size)),
            f"x-ratelimit-remaining-{name}": str(max(0, int(self.level))),
        }


class Limits:
    """Requests and tokens a minute, which lasts `window` seconds. `tell`: a refusal says how long to wait."""

    def __init__(
        self,
        rpm: int | None = None,
        tpm: int | None = None,
        window: float = 60.0,
        burst: float | None = None,
        token_burst: float | None = None,
        tell: bool = True,
    ):
        given = {"requests": (rpm, burst), "tokens": (tpm, token_burst)}
        self.buckets = {name: Bucket(limit, window, size) for name, (limit, size) in given.items() if limit}
        self.tell = tell

    def admit(self, tokens: int) -> float:
        """0 lets the request through; else the seconds till it would be."""
        costs = {"requests": 1, "tokens": tokens}
        wait = max((bucket.wait(costs[name]) for name, bucket in self.buckets.items()), default=0.0)
        if not wait:
            for name, bucket in self.buckets.items():
                bucket.level -= costs[name]
        return wait

    def advice(self, wait: float) -> dict[str, str]:
        """The headers by which a refusal says when to come back, if it does."""
        if not self.tell or wait == math.inf:
            return {}
        return {"Retry-After": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}

    def headers(self) -> dict[str, str]:
        return {k: v for name, bucket in self.buckets.items() for k, v in bucket.headers(name).items()}


def token_cost(body: dict) -> int:
    """What a request counts for before it is answered: its words, and all that it may be answered."""
    words = sum(len(str(message.get("content")).split()) for message in body.get("messages") or [])
    return words + (body.get("max_tokens") or body.get("max_completion_tokens") or 0) * (body.get("n") or 1)


def duration(seconds: float) -> str:
    """As OpenAI writes it: 12ms, 1.5s, 6m0s, 1h0m0s."""
    milliseconds = math.ceil(seconds * 1000)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    larger = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{larger}{milliseconds / 1000:g}s"


def most_in_window(times: list[float], seconds: float, weights: list[int] | None = None) -> int:
    """The most that came within any stretch of so many seconds."""
    weights = weights or [1] * len(times)
    most = total = first = 0
    for last, weight in zip(times, weights, strict=True):
        total += weight
        while times[first] <= last - seconds:
            total -= weights[first]
            first += 1
        most = max(most, total)
    return most
