"""Run a program, show what it prints, and keep it in a file."""

import fcntl
import os
import re
import subprocess
import termios
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import BinaryIO

COLOURS = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
PATIENCE_S = 5.0  # for a process that the program left behind and that could print still


def run_logged(command: Sequence[str], log: Path) -> int:
    """Run `command`; returns its exit code. What it prints is shown and added to the file `log`.

    On a terminal the program sees a terminal. In the file a progress bar is one line, as it was last drawn.
    """
    with open(log, "ab", buffering=0) as kept:
        pairs = [os.openpty() if os.isatty(shown) else os.pipe() for shown in (1, 2)]
        for shown, (_, sink) in enumerate(pairs, start=1):
            if os.isatty(shown):
                size = fcntl.ioctl(shown, termios.TIOCGWINSZ, bytes(8))
                fcntl.ioctl(sink, termios.TIOCSWINSZ, size)
        process = subprocess.Popen(command, stdout=pairs[0][1], stderr=pairs[1][1])
        copying = []
        for shown, (source, sink) in enumerate(pairs, start=1):
            os.close(sink)
            copying.append(Thread(target=_copy, args=(source, shown, kept), daemon=True))
            copying[-1].start()
        try:
            return process.wait()
        finally:
            process.wait()  # Ctrl-C is the program's, too: it ends by itself
            for thread in copying:
                thread.join(PATIENCE_S)


def _copy(source: int, shown: int, kept: BinaryIO) -> None:
    """Copy until `source` ends; its reader must not stop, whatever becomes of the other two."""
    rest = b""
    while data := _read(source):
        with suppress(OSError):
            os.write(shown, data)
        *lines, rest = (rest + data).split(b"\n")
        _keep(lines, kept)
    _keep([rest] if rest else [], kept)
    os.close(source)


def _keep(lines: list[bytes], kept: BinaryIO) -> None:
    """Add lines to the file, each as a terminal would show it in the end."""
    with suppress(OSError, ValueError):
        for line in lines:
            kept.write(COLOURS.sub(b"", line.rstrip(b"\r").rpartition(b"\r")[2]) + b"\n")


def _read(source: int) -> bytes:
    try:
        return os.read(source, 1 << 16)
    except OSError:  # how a terminal ends
        return b""
