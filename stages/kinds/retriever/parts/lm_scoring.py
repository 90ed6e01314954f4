"""How likely a language model finds an answer after a prompt: the reward that a retriever learns from.

    model = LanguageModel(Path("models/base/smol"))
    score_prompts(model, [("The capital of France is", " Paris")])  # [the mean log-probability]

The score of LLM-Embedder (Zhang et al. 2023, arXiv 2310.07554): the mean log-probability of the answer's
tokens. Prompt and answer are tokenised apart and joined. A prompt's score depends on the prompt alone
(stages.student.fast.prefixes), so it may be kept and read again whatever else is scored with it.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from math import fsum
from pathlib import Path
from typing import NamedTuple

import openai
import torch
from pydantic import BaseModel, Field, FiniteFloat

from stages.core import layout
from stages.core.errors import UserError
from stages.core.hashing import model_fingerprint, sha256_file, sha256_json
from stages.core.progress import Progress
from stages.core.servers import account, api_key
from stages.core.tokenizer import TextCodec
from stages.engines.load import check_model, context_of
from stages.engines.with_openai import BoundedClient, PacedCalls, parsed
from stages.student.build import FORMATS, build, lora_layers
from stages.student.fast.attention import Packed
from stages.student.fast.prefixes import QUERIES, STEP, Prefixes, Segment, rounded
from stages.student.recipe import Recipe

HEAD_ROWS = 256  # targets whose logits exist at a time, always as many: the shape of a product is its own
PIECE = 16  # of these at a time in float32, which stay in a core's cache: 10 ms for HEAD_ROWS in place of 68
CALLS = 32  # of a server at once


class Prompt(NamedTuple):
    """Token ids. `shared` is where other prompts may begin alike, which is computed once for all of them."""

    shared: tuple[int, ...]
    own: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def before(self) -> tuple[int, ...]:
        return self.shared + self.own

    @property
    def read(self) -> tuple[int, ...]:
        """All that a model reads: an answer's last token predicts nothing."""
        return self.before + self.answer[:-1]

    @property
    def key(self) -> str:
        """What the score is kept under."""
        return sha256_json([self.before, self.answer])


def text_prompt(codec: TextCodec, before: str, answer: str, shared: int = 0) -> Prompt:
    """The prompt of two texts, tokenised apart. `shared`: characters at the start that others may share."""
    encoding = codec.tokenizer.encode(before, add_special_tokens=False)
    ids = (*codec.prefix, *encoding.ids)
    inside = sum(end <= shared for _, end in encoding.offsets) if shared else 0
    cut = min(len(codec.prefix) + inside, len(ids) - 1) if inside else 0
    return Prompt(ids[:cut], ids[cut:], answer_ids(codec, answer))


def answer_ids(codec: TextCodec, answer: str) -> tuple[int, ...]:
    return tuple(codec.tokenizer.encode(answer, add_special_tokens=False).ids)


class Kept:
    """Scores by prompt, in lines of a file: a process that is killed loses the batch that it is at."""

    def __init__(self, path: Path | None):
        self.path, self.values = path, dict[str, float]()
        if path is None or not path.is_file():
            return
        text = path.read_text()
        whole = text[: text.rfind("\n") + 1]  # the last line may be torn
        os.truncate(path, len(whole))
        self.values = {key: float(score) for key, score in (line.split() for line in whole.splitlines())}

    def add(self, scores: dict[str, float]) -> None:
        self.values.update(scores)
        if self.path is None:
            return
        lines = "".join(f"{key} {score!r}\n" for key, score in scores.items())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # In one call, so that lines of two processes do not mix
        with open(self.path, "ab", buffering=0) as stream:
            stream.write(lines.encode())
            os.fsync(stream.fileno())


class LanguageModel:
    """A causal model of models/base, on the fast path of the student's training.

    tokens: of a pass, more only where one prompt has more. Raises UserError for a directory that is none.
    """

    def __init__(self, directory: Path, precision: str = "bf16-true", tokens: int = 4096):
        check_model(directory)
        self.codec, self.context = TextCodec(directory), context_of(directory)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = build(directory, Recipe(precision=precision), self.device).to(self.device).eval()
        for layer in lora_layers(self.model):
            layer.merged = True  # B is zero: the model is the base's
        self.products = FORMATS[precision][1]
        # Attention of other kinds (sliding windows, norms of queries and keys) is litgpt's, row by row.
        self.plain = all(block.attn.plain for block in self.model.transformer.h)
        self.tokens = rounded(tokens)
        shaping = [precision, self.tokens, STEP, QUERIES, HEAD_ROWS, self.device.type, version("torch")]
        self.fingerprint = sha256_json([model_fingerprint(directory), *shaping])

    @torch.inference_mode()
    def batches(self, prompts: Sequence[Prompt]) -> Iterator[list[tuple[int, float]]]:
        """(number of a prompt, mean log-probability of its answer's tokens), a batch at a time."""
        for members in self._planned(prompts):
            rows = [prompts[number] for number in members]
            sizes = [len(row.answer) for row in rows]
            each = self._logprobs(rows).split(sizes)
            means = [fsum(part.tolist()) / len(part) for part in each]
            yield list(zip(members, means, strict=True))

    def _planned(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """Numbers of the prompts of each pass: prompts that begin alike together, like lengths together."""
        beginnings: dict[tuple, list[int]] = defaultdict(list)
        for number, prompt in enumerate(prompts):
            beginnings[prompt.shared if self.plain else ()].append(number)
        groups = [sorted(group, key=lambda n: width(prompts[n])) for group in beginnings.values()]
        groups.sort(key=lambda group: (rounded(len(prompts[group[0]].shared)), width(prompts[group[-1]])))
        members: list[int] = []
        for number in (number for group in groups for number in group):
            if members and not self._fits([prompts[n] for n in (*members, number)]):
                yield members
                members = []
            members.append(number)
        yield members

    def _fits(self, rows: list[Prompt]) -> bool:
        if self.plain:
            beginnings = sum(map(len, {row.shared for row in rows}))
            return beginnings + sum(len(row.read) - len(row.shared) for row in rows) < self.tokens
        return width(rows[0]) == width(rows[-1]) and len(rows) * width(rows[0]) <= self.tokens

    def _logprobs(self, rows: list[Prompt]) -> torch.Tensor:
        """float32: of all tokens of the rows' answers, one row after the other."""
        layout, ids, starts = self._segments(rows) if self.plain else self._padded(rows)
        last = [start + len(row.read) - len(row.answer) for start, row in zip(starts, rows, strict=True)]
        at = [place + step for place, row in zip(last, rows, strict=True) for step in range(len(row.answer))]
        targets = torch.tensor([token for row in rows for token in row.answer], device=self.device)
        filler = -len(at) % HEAD_ROWS
        places = torch.tensor([*at, *[0] * filler], device=self.device)
        hidden = self.model.states(ids, places, self.products, layout)
        logits = (
            piece for part in hidden.split(HEAD_ROWS) for piece in self.model.lm_head(part).split(PIECE)
        )
        parts = torch.nn.functional.pad(targets, (0, filler)).split(PIECE)
        chosen = [
            piece.float().log_softmax(1).gather(1, target[:, None])[:, 0]
            for piece, target in zip(logits, parts, strict=True)
        ]
        return torch.cat(chosen)[: len(at)].cpu()

    def _segments(self, rows: list[Prompt]) -> tuple[Prefixes, torch.Tensor, list[int]]:
        """How the tokens of a pass lie, their ids, and where each row would start if it lay alone."""
        segments: list[Segment] = []
        parents, own = {(): -1}, []
        for row in rows:
            if row.shared not in parents:
                parents[row.shared] = len(segments)
                segments.append(Segment(row.shared))
            own.append(len(segments))
            segments.append(Segment(row.read[len(row.shared) :], parents[row.shared]))
        needed = sum(len(segment.ids) for segment in segments) + 1
        layout = Prefixes.of(segments, max(self.tokens, rounded(needed)), self.device)
        starts = [layout.starts[place] - len(row.shared) for place, row in zip(own, rows, strict=True)]
        return layout, layout.ids, starts

    def _padded(self, rows: list[Prompt]) -> tuple[Packed, torch.Tensor, list[int]]:
        """The same of rows of one width, as many as always."""
        size = min(width(rows[0]), self.context)
        ids = torch.zeros((max(1, self.tokens // size), size), dtype=torch.long, device=self.device)
        for place, row in enumerate(rows):
            ids[place, : len(row.read)] = torch.tensor(row.read)
        layout = self.model.layout(ids, self.products, None)
        return layout, ids, [place * size for place in range(len(rows))]


def width(prompt: Prompt) -> int:
    return rounded(len(prompt.read))


class Echoed(BaseModel):
    token_logprobs: list[FiniteFloat | None]


class EchoedChoice(BaseModel):
    logprobs: Echoed


class EchoedPrompt(BaseModel):
    choices: list[EchoedChoice] = Field(min_length=1)


class Server:
    """A server of OpenAI's completions that says how likely the tokens of a prompt are (`echo`), like vLLM.

    base: the directory of models/base whose tokenizer the server's model has. Token ids are sent, not text.
    """

    def __init__(self, base: Path, url: str, model: str, key_variable: str = ""):
        self.codec, self.context = TextCodec(base), context_of(base)
        key = api_key(key_variable, url) if key_variable else "none"
        self.client = openai.OpenAI(
            base_url=url, api_key=key, max_retries=0, http_client=BoundedClient(), **account()
        )
        self.url, self.model = url, model
        self.fingerprint = sha256_json([url, model, sha256_file(base / "tokenizer.json")])

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[list[tuple[int, float]]]:
        def ask(number: int) -> tuple[list[tuple[int, float]], Mapping]:
            prompt = prompts[number]
            ids = [*prompt.before, *prompt.answer]
            raw = self.client.completions.with_raw_response.create(
                model=self.model, prompt=ids, max_tokens=1, temperature=0, echo=True, logprobs=1
            )
            told = parsed(EchoedPrompt, raw).choices[0].logprobs.token_logprobs
            of_answer = told[len(prompt.before) : len(ids)]
            if len(of_answer) < len(prompt.answer) or None in of_answer:
                raise UserError(
                    f"{self.url}: gave {len(told)} log-probabilities for a prompt of {len(ids)} tokens; it "
                    "has to echo prompts with them (vLLM does), and to serve the model in `base`"
                )
            return [(number, fsum(of_answer) / len(of_answer))], raw.headers

        yield from PacedCalls(ask, self.url, CALLS).answers(len(prompts))


Scorer = LanguageModel | Server


def kept_scores(model: Scorer) -> Path:
    """Where a model's scores are kept: one file for all stages and datasets."""
    return layout.SCRATCH / f"scores-{model.fingerprint[:16]}.txt"


def score_prompts(
    model: Scorer, prompts: Sequence[Prompt | tuple[str, str]], scores: Path | None = None
) -> list[float]:
    """Mean log-probability of the answer's tokens for each prompt, or (text before, answer).

    `scores`: a file that keeps them, batch by batch; its name must stand for the model's fingerprint. Raises
    UserError for a prompt or answer without a token, or longer than the model reads.
    """
    known = Kept(scores)
    made = [p if isinstance(p, Prompt) else text_prompt(model.codec, *p) for p in prompts]
    todo: dict[str, Prompt] = {}
    for number, prompt in enumerate(made, 1):
        if not prompt.own or not prompt.answer:
            raise UserError(f"prompt {number} of {len(made)}: it or its answer has no token; leave it out")
        if (size := len(prompt.before) + len(prompt.answer)) > model.context:
            raise UserError(
                f"prompt {number} of {len(made)}: has {size} tokens, the model reads {model.context}; cut it"
            )
        if prompt.key not in known.values:
            todo[prompt.key] = prompt
    names = list(todo)
    with Progress(len(todo), "prompts through the language model", "prompt") as shown:
        for batch in model.batches(list(todo.values())) if todo else ():
            known.add({names[number]: score for number, score in batch})
            shown.update(len(batch))
    return [known.values[prompt.key] for prompt in made]
