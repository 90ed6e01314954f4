"""Progress with rate and ETA on stderr: tqdm's bar on a terminal, a plain line now and then elsewhere."""

import sys
from collections.abc import Iterable, Iterator, Sized
from shutil import get_terminal_size
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

PLAIN_LINE_EVERY_S = 15.0
PLAIN = "{desc}: {n_fmt}/{total_fmt}{unit}, {rate_fmt}, {elapsed}, {remaining} to go{postfix}"


class Progress(tqdm):
    """Count `total` units of work. `update(n, note=...)` may be called as often as wanted."""

    monitor_interval = 0  # no thread that watches for a bar that stands still

    def __init__(self, total: int | None, label: str, unit: str = "row", done: int = 0):
        # With miniters=1 the clock alone decides: tqdm's own guess of a number may leave a pause of minutes.
        options = {"total": total, "desc": label, "unit": f" {unit}", "initial": done, "miniters": 1}
        if sys.stderr.isatty():
            size = get_terminal_size()  # tqdm's own look shows nothing where the size is not known
            super().__init__(**options, ncols=size.columns, nrows=size.lines)
        else:
            # Any delay keeps a first line of zero away.
            plain = {"mininterval": PLAIN_LINE_EVERY_S, "delay": 1e-9, "bar_format": PLAIN}
            super().__init__(**options, **plain, file=_Lines())

    @property
    def done(self) -> int:
        return self.n

    def update(self, n: int = 1, note: str | None = None) -> None:
        if note is not None:
            self.set_postfix_str(note, refresh=False)
        super().update(n)


class _Lines:
    """What tqdm writes to draw over its last line, as lines of their own on stderr."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Each line was."""


def progress(items: Iterable[T], label: str, unit: str = "row", total: int | None = None) -> Iterator[T]:
    """Iterate over `items` with a progress display."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(total, label, unit) as shown:
        for item in items:
            yield item
            shown.update()
