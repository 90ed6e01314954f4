"""What a program prints is shown as ever, and kept."""

import os
import subprocess
import sys
import threading

import pytest

from tests.helpers.workspace import ROOT

PRINTS = """
import sys, time
sys.stdout.write(f"out {sys.stdout.isatty()}\\n")
sys.stdout.flush()
time.sleep(0.3)  # the two streams are shown as they come
sys.stderr.write("bar 1\\rbar 2\\rbar 3\\n\\x1b[31mred\\x1b[0m")
sys.exit(3)
"""
RUNS = """
import sys
from pathlib import Path
from stages.core.terminal import run_logged
sys.exit(run_logged([sys.executable, "-c", sys.argv[1]], Path(sys.argv[2])))
"""


@pytest.mark.parametrize("terminal", [True, False])
def test_output_is_shown_and_kept_a_bar_as_its_last_line(tmp_path, terminal):
    log = tmp_path / "x.log"
    log.write_text("$ command\n")
    source, sink = os.openpty() if terminal else os.pipe()
    shown = []
    reader = threading.Thread(target=lambda: shown.extend(iter(lambda: read(source), b"")))
    reader.start()
    command = [sys.executable, "-c", RUNS, PRINTS, str(log)]
    done = subprocess.run(command, cwd=ROOT, stdout=sink, stderr=sink)
    os.close(sink)
    reader.join(20)
    text = b"".join(shown)
    assert done.returncode == 3 and f"out {terminal}".encode() in text and b"bar 1\rbar 2" in text
    first, *lines = log.read_text().splitlines()
    assert first == "$ command" and sorted(lines) == ["bar 3", f"out {terminal}", "red"]


def read(source: int) -> bytes:
    try:
        return os.read(source, 4096)
    except OSError:
        return b""


def test_a_reader_that_went_away_stops_no_program(tmp_path):
    many = "for n in range(100_000): print(n)"
    pipe = f"{sys.executable} -c '{RUNS}' '{many}' {tmp_path}/x.log | head -1; true"
    subprocess.run(pipe, shell=True, cwd=ROOT, check=True, timeout=60, capture_output=True)
    assert (tmp_path / "x.log").read_text().splitlines()[-1] == "99999"
