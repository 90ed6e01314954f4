"""Render the teacher's requests for each chosen document.

Reads `data/<dataset>/corpus/` and the prompt file `template`; writes `data/<dataset>/requests.jsonl`, sorted
by id: the messages, the sampling parameters, the form of the answer and the request's key. Documents of the
splits train, val and test are chosen in the order of a hash of their id, so a larger number adds requests and
changes none. Prints what the answers may cost before anything is sent; sends nothing itself.
"""

import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_path, iter_jsonl, verify_manifest
from stages.core.hashing import sha256_text, stable_integer
from stages.core.messages import say
from stages.core.prompts import BracesTemplate, Template, messages
from stages.core.records import KeyedRequest, choose
from stages.kinds import registry
from stages.knobs import PromptKnobs
from stages.teacher.identity import key_of, most_output
from stages.teacher.prices import TOKEN_COUNT, Price, noted_price, rough_tokens, told
from stages.teacher.structured import json_answer, tool_answer, tool_choice


def template_of(knobs: PromptKnobs) -> Template | BracesTemplate:
    """The prompt file. Raises UserError where it cannot be read."""
    return (BracesTemplate if knobs.placeholders == "braces" else Template)(Path(knobs.template))


@functools.cache
def common(knobs: PromptKnobs) -> dict:
    """The fields that all requests share. What no knob asks for is not sent: it would be in the key."""
    params: dict[str, Any] = {} if knobs.temperature == "default" else {"temperature": knobs.temperature}
    params[knobs.limit_field] = knobs.max_tokens
    if knobs.top_p != "default":
        params["top_p"] = knobs.top_p
    if knobs.n > 1:
        params["n"] = knobs.n
    if knobs.logprobs:
        params["logprobs"] = True
    form: dict[str, Any] = {}
    answer = registry.task(knobs.task).Answer
    if knobs.answer == "json":
        form = {"response_format": json_answer(answer), "form": "json"}
    elif knobs.answer == "tool":
        form = {"tools": tool_answer(answer), "form": "tool"}
        params["tool_choice"] = tool_choice(form["tools"])
    return {"params": params | json.loads(knobs.body or "{}"), **form}


def requests_for(document_id: str, asked: list[dict], knobs: PromptKnobs) -> Iterator[Any]:
    """The rows of one document: one for each choice of each sample, in the order of their ids."""
    count, shared = knobs.samples * knobs.n, common(knobs)
    for sample in range(knobs.samples):
        params = shared["params"]
        if knobs.seed >= 0:
            params = {**params, "seed": stable_integer(knobs.seed, asked, sample) % 2**31}
        request: Any = {"sample": sample, "model": knobs.model, "messages": asked, **shared, "params": params}
        key = key_of(request)
        for choice in range(knobs.n):
            yield {
                "id": numbered(document_id, sample * knobs.n + choice, count),
                "document_id": document_id,
                "request_key": key,
                **({"choice": choice} if knobs.n > 1 else {}),
                **request,
            }


def numbered(document_id: str, place: int, count: int) -> str:
    """The id of one of a document's `count` answers: as wide as the last, so that they sort by number."""
    return document_id if count == 1 else f"{document_id}#{place:0{len(str(count - 1))}}"


class Estimate:
    """Tokens and dollars of the distinct requests that `add` was told of, without holding them."""

    def __init__(self, price: Price | None):
        self.price, self.tokens_in, self.tokens_out = price, 0.0, 0
        self.keys: set[bytes] = set()

    def add(self, request: KeyedRequest) -> None:
        key = bytes.fromhex(request["request_key"])
        if key not in self.keys:
            self.keys.add(key)
            self.tokens_in += rough_tokens(request)
            self.tokens_out += most_output(request)

    def figures(self) -> dict:
        """Output tokens and dollars are the most there can be."""
        tokens_in, price = round(self.tokens_in), self.price
        usage = {"prompt_tokens": tokens_in, "completion_tokens": self.tokens_out}
        most = price.dollars(usage) if price else None
        return {
            "distinct_requests": len(self.keys),
            "estimated_input_tokens": tokens_in,
            "token_count": TOKEN_COUNT,
            "most_output_tokens": self.tokens_out,
            "most_dollars": None if most is None else round(most, 4),
            "price_version": price and price.version,
        }


def run(dataset: str, knobs: PromptKnobs) -> dict:
    corpus = layout.corpus(dataset)
    verify_manifest(corpus)
    path = corpus / "documents.jsonl"
    read = functools.partial(iter_jsonl, path, ("id", "title", "text", "metadata", "split"))
    limits = {"train": knobs.documents, "val": knobs.val_documents, "test": knobs.test_documents}
    chosen, total = choose(read(), limits)
    if not chosen["train"]:
        raise UserError(
            f"{path}: no document of split 'train' ({total:,} in all), so nothing can be learnt; lower the "
            "shares that the corpus stage holds out, or add documents"
        )
    template = template_of(knobs)
    once, prompt_hash = knobs.model_copy(update={"samples": 1, "n": 1}), sha256_text(template.source)
    cost = Estimate(noted_price(dataset, knobs.model))

    def rows() -> Iterator[dict]:
        for document in read():
            if document["id"] not in chosen.get(document["split"], ()):
                continue
            own = once if document["split"] == "test" else knobs  # one answer stands for the teacher there
            for row in requests_for(document["id"], messages(template, document), own):
                cost.add(row)
                yield {**row, "prompt_hash": prompt_hash}

    answers = write_by_id(layout.requests(dataset), rows(), path)
    asked = {split: len(own) * (1 if split == "test" else knobs.samples) for split, own in chosen.items()}
    figures, distinct = cost.figures(), len(cost.keys)
    estimate = told(cost.tokens_in, cost.tokens_out, cost.price, knobs.model)
    say(f"prompt {dataset}: {sum(asked.values()):,} requests ({distinct:,} distinct), {estimate}")
    return {"documents": total, "requests": asked, "answers": answers, **figures}


def write_by_id(target: Path, rows: Iterable[dict], corpus: Path) -> int:
    """Write rows in the order of their ids, which are all that is held; returns their number.

    Raises UserError for an id that comes twice. Sorted documents do not make sorted requests: `a` comes
    before `a!`, but `a#0` after `a!#0`.
    """
    places: dict[str, int] = {}
    with atomic_path(target) as temporary, TemporaryFile(dir=target.parent) as spool:
        for row in rows:
            if row["id"] in places:
                raise UserError(
                    f"{corpus}: two requests would have the id '{row['id']}'; ids of documents must be unique"
                )
            places[row["id"]] = spool.tell()
            spool.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        with open(temporary, "wb") as stream:
            for name in sorted(places):
                spool.seek(places[name])
                stream.write(spool.readline())
    return len(places)
