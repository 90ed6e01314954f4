"""What a server counts, in the text that Prometheus reads (exposition format 0.0.4)."""

from bisect import bisect_left
from collections import Counter, defaultdict

BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Requests by path and status, how long they took, and tokens by model and direction."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds: dict[str, list[int]] = {}  # by path: requests up to each of BOUNDS_S, and beyond
        self.total_s: defaultdict[str, float] = defaultdict(float)
        self.tokens: Counter[tuple[str, str]] = Counter()

    def answered(self, path: str, status: int, seconds: float) -> None:
        self.requests[path, status] += 1
        counts = self.seconds.setdefault(path, [0] * (len(BOUNDS_S) + 1))
        counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.total_s[path] += seconds

    def used(self, model: str, usage: dict) -> None:
        """Count the tokens of a response's `usage`."""
        for name in ("prompt_tokens", "completion_tokens"):
            if name in usage:
                self.tokens[model, name.removesuffix("_tokens")] += usage[name]

    def text(self, waiting: dict[str, int]) -> str:
        """All of it; `waiting` is how many requests of a model are in progress now."""
        lines = ["# TYPE retort_requests_total counter"]
        lines += [
            f'retort_requests_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self.requests.items())
        ]
        lines.append("# TYPE retort_request_seconds histogram")
        for path, counts in sorted(self.seconds.items()):
            total = 0
            for bound, count in zip((*BOUNDS_S, "+Inf"), counts, strict=True):
                total += count
                lines.append(f'retort_request_seconds_bucket{{path="{path}",le="{bound}"}} {total}')
            lines.append(f'retort_request_seconds_sum{{path="{path}"}} {self.total_s[path]:.6f}')
            lines.append(f'retort_request_seconds_count{{path="{path}"}} {total}')
        lines.append("# TYPE retort_tokens_total counter")
        lines += [
            f'retort_tokens_total{{model="{model}",kind="{kind}"}} {count}'
            for (model, kind), count in sorted(self.tokens.items())
        ]
        lines.append("# TYPE retort_requests_in_progress gauge")
        lines += [
            f'retort_requests_in_progress{{model="{name}"}} {count}'
            for name, count in sorted(waiting.items())
        ]
        return "\n".join(lines) + "\n"
