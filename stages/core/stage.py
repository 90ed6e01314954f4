"""What a stage is, and how it becomes a command: `python -m stages NAME DATASET --knob value …`.

A stage is a module with one function, `run(dataset, knobs) -> metrics`, or `(metrics, figures of this run)`:
metrics must follow from the inputs; figures may not, and go to the timings; None leaves no figures. Its
knobs, one pydantic model, live in a light module apart, so that `--help` and the check of params never import
the stage itself. The command validates, runs, writes `reports/<dataset>/figures/<stage>.json`
(deterministic figures) and
`reports/<dataset>/figures/time/<stage>.json` (seconds, peak memory, what else differs from run to run), and
logs both to MLflow.
"""

import ast
import functools
import importlib
import resource
import sys
import time
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TypeVar

import click
from pydantic import BaseModel, ConfigDict, ValidationError

from stages.core import layout
from stages.core.errors import UserError, message_about
from stages.core.messages import say
from stages.core.names import check_name
from stages.core.processes import collect_seldom, leave_idle_cores

HIDDEN = "hidden"  # type of an error about a value that must not be shown: it may be a secret


class Knobs(BaseModel):
    """Base of every stage's parameters: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


AnyKnobs = TypeVar("AnyKnobs", bound=Knobs)


class NoKnobs(Knobs):
    """Of a stage whose outputs depend on its inputs alone."""


@dataclass(frozen=True)
class Stage:
    """What dvc.yaml, params and the command line need to know of a stage, without importing it.

    `figures` names its files of figures where it stands in for another stage: two stages of the same
    `figures` write the same outputs, so a dataset takes part in one of them at most. `reads_source` says that
    it reads the user's own files, at its knob `path`; its module may have `check_source(knobs)`, which raises
    UserError before anything else is built. `block` names the stage whose blocks of params it goes by,
    where it has none of its own. `actions` are flags for use by hand, each with its help: the module's
    function of that name is called with the dataset (or None) and the knobs given.
    """

    name: str
    knobs: type[Knobs]
    package: str = "stages"
    figures: str = ""
    block: str = ""
    reads_source: bool = False
    actions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def module(self) -> str:
        return f"{self.package}.{self.name}"

    @property
    def figures_name(self) -> str:
        return self.figures or self.name

    def load(self) -> ModuleType:
        """The stage's own module, with everything that it needs to run."""
        return importlib.import_module(self.module)


def docstring(module: str) -> str:
    """The docstring of a module of this project, read from its file: an import may take seconds."""
    source = Path(__file__).parents[2].joinpath(*module.split(".")).with_suffix(".py")
    return ast.get_docstring(ast.parse(source.read_text("utf-8"))) or ""


def explain(error: ValidationError, where: str) -> str:
    """One line for the first problem that pydantic met."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key '{key}'"
    value = "" if first["type"] in ("missing", HIDDEN) else f", found {first['input']!r}"
    return f"{where}: {key}: {first['msg']}{value}"


def valid(model: type[AnyKnobs], values: dict, where: str) -> AnyKnobs:
    """The knobs. Raises UserError for the first value that cannot be."""
    try:
        return model(**values)
    except ValidationError as error:
        raise UserError(explain(error, where)) from None


def options(knobs: type[Knobs]) -> list[click.Option]:
    """A click option for each field of a knobs model."""
    made = []
    for name, info in knobs.model_fields.items():
        annotation = info.annotation
        default = info.get_default(call_default_factory=True)
        note = "required" if info.is_required() else f"default: {default}"
        if typing.get_origin(annotation) is typing.Literal:
            note = f"one of {', '.join(map(str, typing.get_args(annotation)))}; {note}"
        made.append(
            click.Option(
                [f"--{name}/--no-{name}" if annotation is bool else f"--{name}"],
                default=None,
                multiple=typing.get_origin(annotation) is list,
                help=f"{info.description or ''}  [{note}]",
                type=None if annotation is bool else str,
            )
        )
    return made


def command(stage: Stage) -> click.Command:
    """The click command of a stage. The stage's module is imported when it runs, not before."""

    def act(dataset: str | None, **given: object) -> None:
        chosen = [name for name in stage.actions if given.pop(name)]
        values = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in given.items()
            if value not in (None, ())
        }
        if dataset is None and not chosen:
            raise click.MissingParameter(param_type="argument", param_hint="DATASET")
        # dvc.yaml gives STAGE@DATASET in a variable: no dataset's name is ever part of a line for the shell.
        before, _, after = (dataset or "").partition("@")
        name = after if before.rpartition(":")[2] == stage.name else dataset

        def work() -> None:
            if name is not None:
                check_name(name)
            if chosen:
                getattr(stage.load(), chosen[0])(name, values)
            else:
                run(stage, str(name), values)

        sys.exit(guarded(work))

    flags = [click.Option([f"--{name}"], is_flag=True, help=text) for name, text in stage.actions.items()]
    return click.Command(
        name=stage.name,
        callback=act,
        params=[click.Argument(["dataset"], required=not flags), *options(stage.knobs), *flags],
        help=docstring(stage.module),
        context_settings={"terminal_width": 110},
    )


def run(stage: Stage, dataset: str, values: dict) -> None:
    """Validate, run, write the figures, log. Raises UserError."""
    knobs = valid(stage.knobs, values, f"params.yaml, {stage.name}.{dataset}")
    from stages.core import tracking
    from stages.core.files import write_json

    leave_idle_cores()
    started = time.monotonic()
    with tracking.stage_run(stage.name, dataset, knobs.model_dump()) as record:
        result = stage.load().run(dataset, knobs)
        metrics, figures = result if isinstance(result, tuple) else (result or {}, {})
        timings = {"seconds": round(time.monotonic() - started, 2), "peak_mib": peak_mib(), **figures}
        if result is not None:
            folder, name = layout.figures(dataset), f"{stage.figures_name}.json"
            write_json(folder / name, metrics)
            write_json(folder / "time" / name, timings)
        record(metrics, timings)


def peak_mib() -> int:
    """The most memory that this process, or one of those it waited for, ever had, in MiB."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return round(max(resource.getrusage(w).ru_maxrss for w in who) / 1024)


def guarded(work: Callable[[], None]) -> int:
    """Run `work`; returns the exit code: user errors become one line on stderr and 2."""
    collect_seldom()
    try:
        work()
    except UserError as error:
        say(f"error: {error}")
        return 2
    except BrokenPipeError:  # `| head` has read enough
        sys.stdout = sys.stderr  # what is left in its buffer has nowhere to go
        return 141
    except Exception as error:
        message = message_about(error)
        if message is None:
            raise
        say(f"error: {message}")
        return 2
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here, as does `dvc repro`")
        return 130
    return 0


def main(callback: Callable[..., None]) -> Callable[..., None]:
    """Wrap a plain click callback that is no stage, so that its user errors read the same."""

    @functools.wraps(callback)  # carries click's parameters along
    def wrapped(*args: object, **kwargs: object) -> None:
        sys.exit(guarded(lambda: callback(*args, **kwargs)))

    return wrapped
