"""Turn `run(dataset, knobs) -> metrics` into a stage command.

A stage has one pydantic model, its knobs; the click options are made from it, so a knob is written once.
The command validates, runs, writes `reports/<dataset>/<stage>.json` (deterministic figures) and
`reports/<dataset>/time/<stage>.json` (seconds, peak memory, what else differs from run to run), and logs
both to MLflow.
"""

import errno
import functools
import sys
import time
import typing
from collections.abc import Callable

import click
from pydantic import BaseModel, ConfigDict, ValidationError

from stages.core import layout
from stages.core.errors import UserError
from stages.core.processes import collect_seldom, leave_idle_cores

# About a path that was named: its user can mend them.
PATH_ERRORS = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
HIDDEN = "hidden"  # type of an error about a value that must not be shown: it may be a secret


class Knobs(BaseModel):
    """Base of every stage's parameters: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def explain(error: ValidationError, where: str) -> str:
    """One line for the first problem that pydantic found."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key '{key}'"
    found = "" if first["type"] in ("missing", HIDDEN) else f", found {first['input']!r}"
    return f"{where}: {key}: {first['msg']}{found}"


def _options(knobs: type[Knobs]) -> list[click.Option]:
    options = []
    for name, field in knobs.model_fields.items():
        annotation = field.annotation
        several = typing.get_origin(annotation) is list
        default = field.get_default(call_default_factory=True)
        shown = "required" if field.is_required() else f"default: {default}"
        if typing.get_origin(annotation) is typing.Literal:
            shown = f"one of {', '.join(map(str, typing.get_args(annotation)))}; {shown}"
        help_text = f"{field.description or ''}  [{shown}]"
        declaration = f"--{name}/--no-{name}" if annotation is bool else f"--{name}"
        options.append(
            click.Option(
                [declaration],
                default=None,
                multiple=several,
                help=help_text,
                type=None if annotation is bool else str,
            )
        )
    return options


Flag = tuple[click.Option, Callable[[str | None, dict], None]]


def stage(
    name: str, knobs: type[Knobs], *instead: Flag, figures: str | None = None
) -> Callable[[Callable], click.Command]:
    """Decorate `run(dataset: str, knobs)`, which returns its metrics, or (metrics, figures of this run).

    Metrics must follow from the inputs; figures may not, and go to the timings. `instead` are flags for use
    by hand, each with what it does in place of the stage, given the dataset, if any, and the other options.
    `figures` names the files of its figures, for a stage that stands in for another; else they have its name.
    """

    def decorate(run: Callable) -> click.Command:
        def command(dataset: str | None, **given) -> None:
            chosen = [act for flag, act in instead if given.pop(flag.name)]
            values = {
                key: list(v) if isinstance(v, tuple) else v for key, v in given.items() if v not in (None, ())
            }
            if chosen:
                sys.exit(_guarded(lambda: chosen[0](dataset, values)))
            if dataset is None:
                raise click.MissingParameter(param_type="argument", param_hint="DATASET")
            code = _guarded(lambda: _run(name, figures or name, run, dataset, knobs, values))
            sys.exit(code)

        flags = [flag for flag, _ in instead]
        return StageCommand(
            name=name,
            callback=command,
            params=[click.Argument(["dataset"], required=not flags), *_options(knobs), *flags],
            help=(sys.modules[run.__module__].__doc__ or "").strip(),
            context_settings={"max_content_width": 110},
            knobs=knobs,
            run=run,
        )

    return decorate


class StageCommand(click.Command):
    """A click command that remembers its knobs model, for validating params.yaml as a whole."""

    def __init__(self, *args, knobs: type[Knobs], run: Callable, **kwargs):
        super().__init__(*args, **kwargs)
        self.knobs, self.run = knobs, run


def valid(model: type[Knobs], values: dict, where: str) -> Knobs:
    """The knobs. Raises UserError for the first value that cannot be."""
    try:
        return model(**values)
    except ValidationError as error:
        raise UserError(explain(error, where)) from None


def _run(name: str, file: str, run: Callable, dataset: str, model: type[Knobs], values: dict) -> None:
    knobs = valid(model, values, f"params.yaml, {name}.{dataset}")
    from stages.core import tracking
    from stages.core.files import write_json

    leave_idle_cores()
    started = time.monotonic()
    with tracking.stage_run(name, dataset, knobs.model_dump()) as record:
        result = run(dataset, knobs)
        metrics, figures = result if isinstance(result, tuple) else (result or {}, {})
        write_json(layout.reports(dataset) / f"{file}.json", metrics)
        seconds = {"seconds": round(time.monotonic() - started, 2), "peak_mib": _peak_mib(), **figures}
        write_json(layout.reports(dataset) / "time" / f"{file}.json", seconds)
        record(metrics, seconds)


def _peak_mib() -> int:
    import resource

    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return round(max(resource.getrusage(w).ru_maxrss for w in who) / 1024)


def _guarded(work: Callable[[], None]) -> int:
    """Run `work`; user errors become one line on stderr and exit code 2."""
    collect_seldom()
    try:
        work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        told = _told(error)
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here, as does `dvc repro`", file=sys.stderr)
        return 130
    return 0


def _told(error: OSError) -> str | None:
    """One line about what its user can mend, else None."""
    if error.errno == errno.ENOSPC:
        where = f" while writing {error.filename}" if error.filename else ""
        return f"the disk is full{where}; free some space and run again (finished work is kept)"
    named = isinstance(error, PATH_ERRORS) and error.filename
    return f"{error.filename}: {error.strerror}" if named else None


def main(command: Callable[[], None]) -> Callable[[], None]:
    """Wrap a plain click callback that is no stage, so that its user errors read the same."""

    @functools.wraps(command)  # carries click's parameters along
    def wrapped(*args, **kwargs) -> None:
        sys.exit(_guarded(lambda: command(*args, **kwargs)))

    return wrapped
