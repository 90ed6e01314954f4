"""Running the students of a dataset of skills on requests: all in batches, some one at a time for latency."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple, Protocol

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import read_text
from stages.core.hashing import stable_integer
from stages.core.prompts import Template, render
from stages.core.tokenizer import TextCodec
from stages.engines.load import context_of, open_engine, prepare, resolve
from stages.engines.protocol import Decoding, Engine
from stages.kinds.skills import places
from stages.kinds.skills.parts.rows import RequestDocument
from stages.kinds.skills.parts.schema import Skills
from stages.kinds.skills.parts.task import in_own_spelling

STUDENTS = ("base", "student", "student_grammar")


class EvaluationKnobs(Protocol):
    """What the knobs of the stage evaluate_calls say, besides the fields of Decoding."""

    base: str  # a folder of models/base/
    seed: int
    bootstrap: int  # resamples behind each interval
    latency_requests: int  # that are timed, one at a time

    def model_dump(self, *, include: set[str]) -> dict: ...


class Ran(NamedTuple):
    """A text a request, "" for one that leaves no room in the context; milliseconds of those timed."""

    texts: list[str]
    latencies_ms: list[float]
    too_long: int


class Asked(NamedTuple):
    """A prompt and the seed of its random numbers."""

    prompt: str
    seed: int


def run_students(
    dataset: str,
    knobs: EvaluationKnobs,
    rows: Sequence[RequestDocument],
    skills: Skills,
    names: Iterable[str],
) -> dict[str, Ran]:
    """What each of STUDENTS in `names` answers to `rows`, documents whose text is a request.

    `knobs` are those of the stage evaluate_calls. Raises UserError for a model that is not there.
    """
    decoding = resolve(Decoding(**knobs.model_dump(include=set(Decoding.model_fields))))
    template = Template(layout.prompt(dataset, "student"))
    asked = [
        Asked(render(template, row), stable_integer("sample", knobs.seed, row["id"], 0) >> 1) for row in rows
    ]
    ran = {}
    for directory, grammars in _by_model(dataset, knobs.base, names).items():
        fits = _fitting(directory, [one.prompt for one in asked], decoding)
        fitting = [one for one, fit in zip(asked, fits, strict=True) if fit]
        answers = _generate(directory, decoding, fitting, grammars, knobs.latency_requests)
        for name, (texts, latencies) in answers.items():
            left = iter(texts)
            calls = [
                in_own_spelling(next(left), row["text"], skills) if fit else ""
                for row, fit in zip(rows, fits, strict=True)
            ]
            ran[name] = Ran(calls, latencies, fits.count(False))
    return ran


def _by_model(dataset: str, base: str, names: Iterable[str]) -> dict[Path, dict[str, str | None]]:
    """The grammar of each system, None for none, by the directory of its model.

    Raises UserError for a model or grammar that is not there.
    """
    grammars: dict[Path, dict[str, str | None]] = {}
    for name in names:
        directory = layout.base_model(base) if name == "base" else layout.model(dataset, "hf")
        if not (directory / "config.json").is_file():
            raise UserError(
                f"{directory}: no config.json; the stage before this one makes it: run `dvc repro`"
            )
        constrained = name == "student_grammar"
        grammar = read_text(places.skills(dataset) / "grammar.lark") if constrained else None
        grammars.setdefault(directory, {})[name] = grammar
    return grammars


def _fitting(directory: Path, prompts: list[str], decoding: Decoding) -> list[bool]:
    """Does a prompt leave room for the longest answer?"""
    context = context_of(directory)
    lengths = map(len, TextCodec(directory).prompts(prompts))
    return [length + decoding.max_new_tokens <= context for length in lengths]


def _generate(
    directory: Path, decoding: Decoding, asked: list[Asked], grammars: dict[str, str | None], timed: int
) -> dict[str, tuple[list[str], list[float]]]:
    """(texts in the order of `asked`, milliseconds of the first `timed`) for each system of `grammars`.

    All are answered in batches before any is timed, by an engine that has one request at a time.
    """
    if not asked:
        return {name: ([], []) for name in grammars}
    prepare(directory, decoding)
    engine = open_engine(directory, decoding)
    prompts, seeds = [one.prompt for one in asked], [one.seed for one in asked]
    texts, latencies = {}, {}
    for name, grammar in grammars.items():
        answers = engine.generate(prompts, decoding, seeds, grammar=grammar)
        texts[name] = [answer.text for answer in sorted(answers, key=lambda answer: answer.index)]
    alone = decoding.model_copy(update={"batch_size": 1})
    engine = open_engine(directory, alone) if timed else engine
    for name, grammar in grammars.items():
        warm_up = asked[: min(timed, 1)]
        times = [_milliseconds(engine, one, alone, grammar) for one in [*warm_up, *asked[:timed]]]
        latencies[name] = times[len(warm_up) :]
    return {name: (texts[name], latencies[name]) for name in grammars}


def _milliseconds(engine: Engine, asked: Asked, decoding: Decoding, grammar: str | None) -> float:
    begun = perf_counter()
    list(engine.generate([asked.prompt], decoding, [asked.seed], grammar=grammar))
    return round(1000 * (perf_counter() - begun), 2)
