"""Running the students of a dataset of skills on requests: all in batches, some one at a time for latency."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import read_text
from stages.core.hashing import stable_integer
from stages.core.prompts import Template, render
from stages.core.tokenizer import TextCodec
from stages.engines import load
from stages.engines.protocol import Decoding
from stages.kinds.skills.parts.calls import write_call
from stages.kinds.skills.parts.schema import Skills
from stages.kinds.skills.parts.task import understood

STUDENTS = ("base", "student", "student_grammar")


class Ran(NamedTuple):
    """A text a request, "" for one that leaves no room in the context; milliseconds of those timed."""

    texts: list[str]
    latencies_ms: list[float]
    too_long: int


def run_students(dataset: str, knobs, rows: Sequence[dict], skills: Skills, names: Iterable[str]) -> dict:
    """What each of STUDENTS in `names` answers to `rows`, documents whose text is a request: {name: Ran}.

    `knobs` are those of the stage evaluate_calls. Raises UserError for a model that is not there.
    """
    decoding = load.resolve(Decoding(**knobs.model_dump(include=set(Decoding.model_fields))))
    template, found = Template(layout.prompt(dataset, "student")), {}
    prompts = [render(template, row) for row in rows]
    seeds = [stable_integer("sample", knobs.seed, row["id"], 0) >> 1 for row in rows]
    for directory, own in _by_model(dataset, knobs.base, names).items():
        fits = _fitting(directory, prompts, decoding)
        asked = [(prompt, seed) for prompt, seed, fit in zip(prompts, seeds, fits, strict=True) if fit]
        made = _generate(directory, decoding, asked, own, knobs.latency_requests)
        for name, (texts, latencies) in made.items():
            answers = iter(texts)
            told = [
                in_own_spelling(next(answers), row["text"], skills) if fit else ""
                for row, fit in zip(rows, fits, strict=True)
            ]
            found[name] = Ran(told, latencies, fits.count(False))
    return found


def in_own_spelling(text: str, request: str, skills: Skills) -> str:
    """A written call as it is served; what is no call stays as it is."""
    call = understood(text, request, skills)
    return text if call is None else write_call(call)


def _by_model(dataset: str, base: str, names: Iterable[str]) -> dict[Path, dict[str, str | None]]:
    """The grammar of each system, None for none, by the directory of its model."""
    found: dict[Path, dict[str, str | None]] = {}
    for name in names:
        directory = layout.base_model(base) if name == "base" else layout.model(dataset, "hf")
        if not (directory / "config.json").is_file():
            raise UserError(
                f"{directory}: no config.json; the stage before this one makes it: run `dvc repro`"
            )
        constrained = name == "student_grammar"
        grammar = read_text(layout.skills(dataset) / "grammar.lark") if constrained else None
        found.setdefault(directory, {})[name] = grammar
    return found


def _fitting(directory: Path, prompts: list[str], decoding: Decoding) -> list[bool]:
    """Does a prompt leave room for the longest answer?"""
    context = load.context_of(directory)
    lengths = map(len, TextCodec(directory).prompts(prompts))
    return [length + decoding.max_new_tokens <= context for length in lengths]


def _generate(
    directory: Path, decoding: Decoding, asked: list, grammars: dict[str, str | None], timed: int
) -> dict[str, tuple[list[str], list[float]]]:
    """(texts in the order of `asked`, milliseconds of the first `timed`) for each grammar."""
    if not asked:
        return {name: ([], []) for name in grammars}
    load.prepare(directory, decoding)
    engine, texts, latencies = load.open_engine(directory, decoding), {}, {}
    prompts, seeds = zip(*asked, strict=True)
    for name, grammar in grammars.items():
        made = engine.generate([*prompts], decoding, [*seeds], grammar=grammar)
        texts[name] = [one.text for one in sorted(made, key=lambda one: one.index)]
    alone = decoding.model_copy(update={"batch_size": 1})
    engine = load.open_engine(directory, alone) if timed else engine
    for name, grammar in grammars.items():
        warm_up = asked[: min(timed, 1)]
        times = [_timed(engine, one, alone, grammar) for one in [*warm_up, *asked[:timed]]]
        latencies[name] = times[len(warm_up) :]
    return {name: (texts[name], latencies[name]) for name in grammars}


def _timed(engine, asked: tuple[str, int], decoding: Decoding, grammar: str | None) -> float:
    prompt, seed = asked
    begun = perf_counter()
    list(engine.generate([prompt], decoding, [seed], grammar=grammar))
    return round(1000 * (perf_counter() - begun), 2)
