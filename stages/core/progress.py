"""Progress with rate and ETA: a rich bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # rich is imported on a terminal only
    from rich.progress import Progress as RichProgress
    from rich.progress import Task, TaskID

T = TypeVar("T")

PLAIN_LINE_EVERY_S = 15.0


class Progress:
    """Count `total` units of work. `update(n, note=...)` may be called as often as wanted."""

    def __init__(self, total: int | None, label: str, unit: str = "row", done: int = 0):
        self.total, self.label, self.unit, self.done = total, label, unit, done
        self.started, self.began_at, self.note = time.monotonic(), done, ""
        self.last_line = self.started
        self.bar = None
        if sys.stderr.isatty():
            self.bar, self.task = _bar(total, label, unit, done)

    def update(self, n: int = 1, note: str | None = None) -> None:
        self.done += n
        if note is not None:
            self.note = note
        if self.bar is not None:
            self.bar.update(self.task, advance=n, note=self.note)
        elif time.monotonic() - self.last_line >= PLAIN_LINE_EVERY_S:
            self._line()

    def _line(self) -> None:
        self.last_line = time.monotonic()
        rate = (self.done - self.began_at) / max(self.last_line - self.started, 1e-9)
        whole = f"/{self.total:,}" if self.total else ""
        text = f"{self.label}: {self.done:,}{whole} {self.unit}, {rate:,.1f}/s"
        if self.total and rate > 0 and self.done < self.total:
            text += f", about {(self.total - self.done) / rate:,.0f} s to go"
        print(text + (f", {self.note}" if self.note else ""), file=sys.stderr, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.stop()
        else:
            self._line()


def _bar(total: int | None, label: str, unit: str, done: int) -> "tuple[RichProgress, TaskID]":
    """A started rich display on stderr, and its one task."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Display
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: "Task") -> Text:
            return Text(f"{task.speed or 0:,.1f} {unit}/s")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", markup=False),
    )
    display = Display(*columns, console=Console(stderr=True), refresh_per_second=4)
    task = display.add_task(label, total=total, completed=done, note="")
    display.start()
    return display, task


def progress(items: Iterable[T], label: str, unit: str = "row", total: int | None = None) -> Iterator[T]:
    """Iterate over `items` with a progress display."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(total, label, unit) as shown:
        for item in items:
            yield item
            shown.update()
