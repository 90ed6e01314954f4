"""One batch of a test server: its JSON as OpenAI shows it, its rows and the lines of its two files."""

import json
import time

from stages.core.hashing import sha256_json
from tests.helpers.replies import Reply

FINAL = {"completed", "expired", "cancelled", "failed"}
UNDONE = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "The batch was cancelled before this request executed."),
}
MOMENTS = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


class Job:
    def __init__(self, number: int, asked: dict, lines: list[str], no_file: str | None):
        now = int(time.time())
        self.parsed = [parsed(line) for line in lines]
        self.rows = [row for row in self.parsed if is_row(row)]
        self.answered: list[dict] = []
        self.failed: list[dict] = []
        self.done = self.prompt = self.completion = self.hidden = 0
        self.shown = {
            "id": f"batch_{number:04}",
            "object": "batch",
            "endpoint": asked["endpoint"],
            "model": self.rows[0]["body"].get("model") if self.rows else None,
            "errors": None,
            "input_file_id": asked["input_file_id"],
            "completion_window": asked["completion_window"],
            "status": "validating",
            "output_file_id": no_file,
            "error_file_id": no_file,
            "created_at": now,
            "expires_at": now + 24 * 3600,
            **{f"{moment}_at": None for moment in MOMENTS},
            "metadata": asked.get("metadata"),
        }
        self.count()

    @property
    def status(self) -> str:
        return self.shown["status"]

    def becomes(self, status: str) -> None:
        self.shown |= {"status": status, f"{status}_at": int(time.time())}

    def fails(self, slips: list[dict]) -> None:
        self.shown["errors"] = {"object": "list", "data": slips}
        self.becomes("failed")

    def count(self) -> None:
        total = 0 if self.status == "validating" else len(self.rows)
        counts = {"total": total, "completed": len(self.answered), "failed": len(self.failed)}
        usage = {
            "input_tokens": self.prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": self.completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.prompt + self.completion,
        }
        self.shown |= {"request_counts": counts, "usage": usage}

    def add(self, row: dict, reply: Reply, usage: tuple[int, int] | None) -> None:
        """A row that was executed. OpenAI puts the error of a refused one into the response too."""
        body = parsed(reply.body)
        response = {"status_code": reply.status, "request_id": f"req_{row_id(row)}"}
        response["body"] = reply.body if body is None else body
        line = {"id": row_id(row), "custom_id": row["custom_id"], "response": response, "error": None}
        (self.answered if reply.status == 200 else self.failed).append(line)
        if usage:
            self.prompt += usage[0]
            self.completion += usage[1]

    def skip(self, row: dict, code: str, message: str) -> None:
        """A row that was never executed."""
        error = {"code": code, "message": message}
        ids = {"id": row_id(row), "custom_id": row["custom_id"]}
        self.failed.append({**ids, "response": None, "error": error})

    def slips(self) -> list[dict]:
        """What OpenAI's validation says of the input file."""
        found, ids = [], set()
        for number, row in enumerate(self.parsed, 1):
            if not is_row(row):
                found.append(slip("invalid_json_line", number))
            elif (row.get("method"), row.get("url")) != ("POST", self.shown["endpoint"]):
                found.append(slip("invalid_url", number))
            elif not isinstance(row.get("custom_id"), str) or row["custom_id"] in ids:
                found.append(slip("duplicate_custom_id", number))
            elif row["body"].get("model") != self.shown["model"]:
                found.append(slip("mismatched_model", number))
            else:
                ids.add(row["custom_id"])
        return found or ([] if self.rows else [slip("empty_file")])


def lines_of(content: bytes) -> list[str]:
    """Not splitlines(): that breaks a line at some characters which JSON allows within one."""
    return [line for line in content.decode().split("\n") if line.strip()]


def parsed(text: str):
    try:
        return json.loads(text)
    except ValueError:
        return None


def is_row(row) -> bool:
    return isinstance(row, dict) and isinstance(row.get("body"), dict)


def dumped(lines: list[dict]) -> list[str]:
    return [json.dumps(line, ensure_ascii=False) + "\n" for line in lines]


def row_id(row: dict) -> str:
    return f"batch_req_{sha256_json(row)[:12]}"


def slip(code: str, line: int | None = None) -> dict:
    crowded = "Enqueued token limit reached. Please try again once some in_progress batches have completed."
    message = crowded if code == "token_limit_exceeded" else code
    return {"code": code, "message": message, "param": None, "line": line}
