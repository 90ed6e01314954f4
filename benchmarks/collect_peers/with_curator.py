"""bespokelabs-curator on `requests.jsonl`; benchmarks/collect.py runs it in an environment of its own.

What it took to run it at its best without a network:

- Its OpenAI backend loads tiktoken's cl100k_base when it starts, from the network unless a folder holds it.
  litellm, which it needs anyway, ships that file; importing the module below points tiktoken to it.
- The limits per minute are set although there are none: left out, a header or a default sets them.
- The model's name is one that litellm has no price for, which spares it a calculation for every answer.
- Rows that fail are left out of the result; by default they raise an error at the end.
"""

import json
import sys
from pathlib import Path

import litellm.litellm_core_utils.default_encoding  # noqa: F401
from bespokelabs import curator
from datasets import Dataset

PLENTY = 1_000_000_000


class Teacher(curator.LLM):
    def prompt(self, input):
        return input["prompt"]

    def parse(self, input, response):
        return {"id": input["id"], "response": response}


def rows():
    with open("requests.jsonl", encoding="utf-8") as stream:
        for line in stream:
            row = json.loads(line)
            yield {"id": row["id"], "prompt": row["messages"][0]["content"]}


def main(base_url: str, in_flight: int, retries: int, rpm: int) -> None:
    teacher = Teacher(
        model_name="benchmark",
        backend="openai",
        generation_params={"temperature": 0.7, "max_tokens": 256},
        backend_params={
            "base_url": base_url,
            "max_requests_per_minute": rpm or PLENTY,
            "max_tokens_per_minute": PLENTY,
            "max_concurrent_requests": in_flight,
            "max_retries": retries,
            "require_all_responses": False,
            "seconds_to_pause_on_rate_limit": 1,  # the least it takes
        },
    )
    found = teacher(Dataset.from_generator(rows)).dataset
    Path("answered").write_text(str(len(found)))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
