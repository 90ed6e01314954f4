"""Running the students of a dataset of skills on requests: all in batches, some one at a time for latency."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from stages.core import layout
from stages.core.files import read_text
from stages.core.hashing import stable_integer
from stages.core.prompts import Template, render
from stages.core.records import Document
from stages.core.tokenizer import TextCodec
from stages.engines.asked import alone, together
from stages.engines.load import check_model, context_of, open_engine, prepare, resolve
from stages.engines.protocol import Decoding
from stages.kinds.skills import places
from stages.kinds.skills.knobs import EvaluateCallsKnobs
from stages.kinds.skills.parts.schema import Skills
from stages.kinds.skills.parts.scoring import Judged, judge, score
from stages.kinds.skills.parts.task import as_served

STUDENTS = ("base", "student", "student_grammar")


class Scored(NamedTuple):
    """A system: a text a request, "" for one that leaves no room in the context, and how good these are."""

    texts: list[str]
    judged: list[Judged]
    measures: dict[str, dict]
    too_long: int


def scored(
    texts: list[str],
    gold: Sequence[str],
    skills: Skills,
    knobs: EvaluateCallsKnobs,
    latencies_ms: Sequence[float] = (),
    too_long: int = 0,
) -> Scored:
    """The texts of a system, where the calls in `gold`, which obey the schema, are right."""
    judged = [judge(*pair, skills) for pair in zip(gold, texts, strict=True)]
    return Scored(texts, judged, score(judged, knobs.bootstrap, knobs.seed, latencies_ms), too_long)


def score_students(
    dataset: str,
    knobs: EvaluateCallsKnobs,
    rows: Sequence[Document],
    gold: Sequence[str],
    skills: Skills,
    names: Iterable[str],
) -> dict[str, Scored]:
    """Each of STUDENTS in `names` on `rows`, documents whose text is a request; `gold` has the right calls.

    Raises UserError for a model that is not there.
    """
    decoding = resolve(knobs)
    template = Template(layout.prompt(dataset, "student"))
    prompts = [render(template, row) for row in rows]
    seeds = [stable_integer("sample", knobs.seed, row["id"], 0) >> 1 for row in rows]
    systems = {}
    for directory, grammars in _by_model(dataset, knobs.base, names).items():
        fits = _fitting(directory, prompts, decoding)
        fitting = [asked for asked, fit in zip(zip(prompts, seeds, strict=True), fits, strict=True) if fit]
        answers = _generate(directory, decoding, fitting, grammars, knobs.latency_requests)
        for name, (texts, latencies) in answers.items():
            left = iter(texts)
            calls = [as_served(next(left)) if fit else "" for fit in fits]
            systems[name] = scored(calls, gold, skills, knobs, latencies, fits.count(False))
    return {name: systems[name] for name in names}


def _by_model(dataset: str, base: str, names: Iterable[str]) -> dict[Path, dict[str, str | None]]:
    """The grammar of each system, None for none, by the directory of its model.

    Raises UserError for a model or grammar that is not there, or not as it was made.
    """
    grammars: dict[Path, dict[str, str | None]] = {}
    for name in names:
        directory = layout.base_model(base) if name == "base" else layout.model(dataset, "hf")
        if directory not in grammars:
            check_model(directory)
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
    directory: Path,
    decoding: Decoding,
    asked: list[tuple[str, int]],
    grammars: dict[str, str | None],
    timed: int,
) -> dict[str, tuple[list[str], list[float]]]:
    """(texts in the order of `asked`, milliseconds of the first `timed`) for each system of `grammars`.

    `asked` has prompts, each with the seed of its random numbers. All are answered in batches before any is
    timed, by an engine that has one request at a time.
    """
    if not asked:
        return {name: ([], []) for name in grammars}
    prepare(directory, decoding)
    engine = open_engine(directory, decoding)
    prompts, seeds = zip(*asked, strict=True)
    texts = {
        name: [answer.text for answer in together(engine, prompts, decoding, seeds, grammar)]
        for name, grammar in grammars.items()
    }
    single = decoding.model_copy(update={"batch_size": 1})
    engine = open_engine(directory, single) if timed else engine
    return {
        name: (texts[name], [ms for _, ms in alone(engine, prompts[:timed], single, seeds[:timed], grammar)])
        for name, grammar in grammars.items()
    }
