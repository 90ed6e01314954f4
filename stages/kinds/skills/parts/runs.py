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
from stages.core.records import Document
from stages.core.tokenizer import TextCodec
from stages.engines.load import context_of, open_engine, prepare, resolve
from stages.engines.protocol import Decoding, Engine
from stages.kinds.skills import places
from stages.kinds.skills.knobs import EvaluateCallsKnobs
from stages.kinds.skills.parts.schema import Skills
from stages.kinds.skills.parts.scoring import Judged, judge, score
from stages.kinds.skills.parts.task import in_own_spelling

STUDENTS = ("base", "student", "student_grammar")


class Ran(NamedTuple):
    """A text a request, "" for one that leaves no room in the context; milliseconds of those timed."""

    texts: list[str]
    latencies_ms: list[float]
    too_long: int


class Asked(NamedTuple):
    """A prompt and the seed of its random numbers."""

    prompt: str
    seed: int


class Scored(NamedTuple):
    """Of each system: its texts, what became of them, and its measures. `too_long` is known of students."""

    texts: dict[str, list[str]]
    judged: dict[str, list[Judged]]
    measures: dict[str, dict[str, dict]]
    too_long: dict[str, int]


def score_systems(
    dataset: str,
    knobs: EvaluateCallsKnobs,
    skills: Skills,
    rows: Sequence[Document],
    gold: Sequence[str],
    names: Iterable[str],
    teacher: list[str] | None,
) -> Scored:
    """Run the STUDENTS in `names` on `rows`, and score their calls and those of the teacher, if it has any.

    `gold` has the call that is right for each row, and obeys the schema. Raises UserError for a model that is
    not there.
    """
    ran = run_students(dataset, knobs, rows, skills, names)
    texts = {name: one.texts for name, one in ran.items()}
    if teacher is not None:
        texts["teacher"] = teacher
    latencies = {name: one.latencies_ms for name, one in ran.items()}
    judged = {
        name: [judge(*pair, skills) for pair in zip(gold, answers, strict=True)]
        for name, answers in texts.items()
    }
    measures = {
        name: score(own, knobs.bootstrap, knobs.seed, latencies.get(name, ())) for name, own in judged.items()
    }
    return Scored(texts, judged, measures, {name: one.too_long for name, one in ran.items()})


def run_students(
    dataset: str,
    knobs: EvaluateCallsKnobs,
    rows: Sequence[Document],
    skills: Skills,
    names: Iterable[str],
) -> dict[str, Ran]:
    """What each of STUDENTS in `names` answers to `rows`, documents whose text is a request.

    Raises UserError for a model that is not there.
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
