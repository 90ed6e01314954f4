"""Asking a teacher: `stages.collect` beside bespokelabs-curator and a plain asyncio.gather loop on httpx.

One fake server (collect_peers/fake_teacher.py) on a core of its own; each contestant is a process on another.

A  50 ms an answer, no limits, at the best of 32, 64, 128 and 256 requests in flight, tried for each of them.
   `seconds` is the whole process; `requests_per_second` counts from the first request that the server sees to
   the end of the process, which leaves out imports and preparation. CPU is user and system time of the whole
   process; `cpu_ms_per_further_request` is without start-up: what 5,000 requests cost above 1,000.
B  5,000 requests/min enforced, and a 429 with Retry-After: 1 for 30% of what is admitted; 64 in flight. Ours
   and curator are told the limit. `throttled_share_of_allowed` is the rate of answers, from the first request
   to the last answer, in terms of the 5,000/60 x 0.7 a second that there can be. At the end only retries are
   left to wait for, so few requests mean a small share.
C  kill -9 when half of the answers are sent, then a new start; 16 in flight, so that nobody lags behind the
   server. `repaid_after_kill` counts answers sent once more though the first was sent more than 0.1 s before
   the kill; for the last 0.1 s see `repaid_in_flight`.
D  peak memory over 100,000 rows at 5 ms an answer; all but ours are stopped after 8 minutes.

Curator gets its own environment, made at first use: `.venv-curator`, or where CURATOR_VENV points. It runs
without telemetry and viewer; what it took besides stands in collect_peers/with_curator.py. All four scenarios
take about a quarter of an hour.

    python -m benchmarks.collect [--requests 5000] [--scenarios A,B,C,D] [--contestants ours,curator,gather]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run by its path, a script sees its own folder only

from benchmarks.collect_peers import contestants, fake_teacher  # noqa: E402

IN_FLIGHT, THROTTLED_IN_FLIGHT, KILLED_IN_FLIGHT = (32, 64, 128, 256), 64, 16
MEMORY_IN_FLIGHT = {"ours": 32, "curator": 32, "gather": 8}  # httpx slows down where many are busy at once
RPM, SHARE_429 = 5000, 0.3
JUST_BEFORE_S, LIMIT_S = 0.1, 480
BARS = {
    "requests_per_second": (">=", 600),
    "throttled_share_of_allowed": (">=", 0.95),
    "repaid_after_kill": ("<=", 0),
    "peak_mib_100k_rows": ("<", 500),
}
say = partial(print, file=sys.stderr, flush=True)


@dataclass
class Run:
    """One contestant's process. `ended` is on the clock of the server's times."""

    code: int | None  # None: stopped at the time limit
    seconds: float
    ended: float
    cpu_s: float
    peak_mib: float  # the kernel counts from the process that forked, so this script must stay small itself
    stats: dict
    rows: int
    why: str

    @property
    def since_first(self) -> float:
        return self.ended - self.stats["first_arrival"]

    @property
    def answering(self) -> float:
        return self.stats["last_answer"] - self.stats["first_arrival"]


class Bench:
    def __init__(self, port: int, core: int, scratch: Path):
        self.url, self.core, self.scratch = f"http://127.0.0.1:{port}", core, scratch

    def server(self, path: str, settings: dict | None = None) -> dict:
        body = None if settings is None else json.dumps(settings).encode()
        with urllib.request.urlopen(self.url + path, data=body) as answer:
            return json.load(answer)

    def fresh(self, rows: int, **settings) -> Path:
        """An empty directory with `rows` requests, and a server that remembers nothing."""
        shutil.rmtree(self.scratch / "run", ignore_errors=True)
        directory = self.scratch / "run"
        source = self.scratch / f"{rows}.jsonl"
        if not source.exists():
            contestants.write_requests(source, rows)
        for path in (directory / "requests.jsonl", directory / "data" / "bench" / "requests.jsonl"):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, path)
        (directory / "home").mkdir()
        self.server("/reset", settings)
        return directory

    def run(self, name: str, directory: Path, in_flight: int, rpm=0, limit_s=LIMIT_S, kill_at=0) -> Run:
        asked = contestants.command(name, self.url + "/v1", in_flight, rpm)
        log, env, stopped = directory / "log", contestants.environment(directory), False
        with open(log, "w") as stream, fake_teacher.pinned(self.core):
            started = time.monotonic()
            process = subprocess.Popen(asked, cwd=directory, env=env, stdout=stream, stderr=stream)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            ended = time.monotonic()
            if pid:
                break
            overdue = limit_s and ended - started > limit_s
            if overdue or (kill_at and self.server("/stats")["answers"] >= kill_at):
                process.kill()
                _, status, usage = os.wait4(process.pid, 0)
                stopped = True
                break
            time.sleep(0.005)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        lines = log.read_text(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")[:300]
        why = f"stopped after {limit_s} s" if stopped else f"exit code {code}"
        return Run(
            None if stopped else code,
            ended - started,
            ended,
            usage.ru_utime + usage.ru_stime,
            usage.ru_maxrss / 1024,
            self.server("/stats"),
            contestants.answered(name, directory),
            f"{why}; it said last: {last}",
        )

    def unthrottled(self, name: str, rows: int) -> dict:
        trials, few = {}, max(rows // 5, 1000)  # several times what is in flight
        for in_flight in IN_FLIGHT:
            trials[in_flight] = self.run(name, self.fresh(few, latency=0.05), in_flight)
            if trials[in_flight].code != 0:
                return {"notes": f"A: {trials[in_flight].why}"}
        tried = {in_flight: round(trial.rows / trial.answering) for in_flight, trial in trials.items()}
        best = max(tried, key=tried.get)
        done = self.run(name, self.fresh(rows, latency=0.05), best)
        if done.code != 0:
            return {"notes": f"A: {done.why}"}
        further = 1000 * (done.cpu_s - trials[best].cpu_s)
        return {
            "seconds": round(done.seconds, 2),
            "seconds_from_first_request": round(done.since_first, 2),
            "seconds_to_last_answer": round(done.answering, 2),
            "requests_per_second": round(done.rows / done.since_first, 1),
            "cpu_ms_per_request": round(1000 * done.cpu_s / rows, 3),
            "cpu_ms_per_further_request": round(further / (rows - few), 3) if rows > few else None,
            "calls": done.stats["arrivals"],
            "failures": rows - done.rows,
            "peak_mib": round(done.peak_mib),
            "in_flight": best,
            "tried": tried,
        }

    def throttled(self, name: str, rows: int) -> dict:
        directory = self.fresh(rows, latency=0.05, rpm=RPM, share_429=SHARE_429, retry_after=1)
        done = self.run(name, directory, THROTTLED_IN_FLIGHT, rpm=RPM)
        if done.code != 0:
            return {"notes": f"B: {done.why}; {done.stats['answers']:,} answers"}
        allowed = RPM / 60 * (1 - SHARE_429)
        return {
            "throttled_share_of_allowed": round(done.stats["answers"] / done.answering / allowed, 4),
            "throttled_seconds": round(done.seconds, 1),
            "throttled_calls": done.stats["arrivals"],
            "throttled_over_limit": done.stats["over_limit"],
            "throttled_failures": rows - done.rows,
        }

    def killed(self, name: str, rows: int) -> dict:
        directory = self.fresh(rows, latency=0.05)
        first = self.run(name, directory, KILLED_IN_FLIGHT, kill_at=rows // 2)
        if first.code is not None:
            return {"notes": f"C: ended before the kill; {first.why}"}
        time.sleep(0.5)  # until the server is done with what the dead process had asked
        second = self.run(name, directory, KILLED_IN_FLIGHT)
        if second.code != 0:
            return {"notes": f"C, after the kill: {second.why}"}
        times = [sorted(at) for at in self.server("/stats?times=1")["times"].values()]
        again = [at[0] > first.ended - JUST_BEFORE_S for at in times for _ in at[1:]]
        return {
            "repaid_after_kill": len(again) - sum(again),
            "repaid_in_flight": sum(again),
            "answers_at_kill": first.stats["answers"],
            "calls_with_kill": second.stats["arrivals"],
            "failures_after_kill": rows - second.rows,
        }

    def memory(self, name: str, rows: int) -> dict:
        limit_s = None if name == "ours" else LIMIT_S
        done = self.run(name, self.fresh(rows, latency=0.005), MEMORY_IN_FLIGHT[name], limit_s=limit_s)
        if done.code:
            return {"notes": f"D: {done.why}"}
        found = {
            "peak_mib_100k_rows" if rows == 100_000 else f"peak_mib_{rows}_rows": round(done.peak_mib),
            "memory_seconds": round(done.seconds, 1),
            "memory_rows_done": done.stats["answered_requests"],
        }
        return found | ({"notes": f"D: {done.why}, with the peak until then"} if done.code is None else {})


def show(title: str, found: dict[str, dict]) -> None:
    names = list(dict.fromkeys(key for row in found.values() for key in row if key != "notes"))
    say(f"\n{title}\n{'':<28}" + "".join(f"{name:>12}" for name in found))
    for key in (name for name in names if name != "tried"):
        say(f"{key:<28}" + "".join(f"{row.get(key, '-')!s:>12}" for row in found.values()))
    for name, row in found.items():
        if row.get("tried"):
            say(f"{name}: requests/s by requests in flight, in short trials: {row['tried']}")
        if row.get("notes"):
            say(f"{name}: {row['notes']}")


def measure(given: argparse.Namespace, bench: Bench) -> dict[str, dict]:
    names, rows = given.contestants.split(","), given.requests
    results: dict[str, dict] = {name: dict.fromkeys(("seconds", *BARS)) for name in names}
    notes: dict[str, list] = {name: [] for name in names}
    scenarios = {
        "A": ("A. no limits, 50 ms", lambda name: bench.unthrottled(name, rows)),
        "B": ("B. 5,000 requests/min, 30% 429", lambda name: bench.throttled(name, rows)),
        "C": ("C. killed at half", lambda name: bench.killed(name, rows)),
        "D": (f"D. {given.memory_rows:,} rows", lambda name: bench.memory(name, given.memory_rows)),
    }
    for letter, (title, scenario) in scenarios.items():
        if letter not in given.scenarios.split(","):
            continue
        found = {}
        for name in names:
            say(f"{letter}: {name} ...")
            found[name] = scenario(name)
            results[name] |= {key: value for key, value in found[name].items() if key != "notes"}
            notes[name] += [found[name]["notes"]] if "notes" in found[name] else []
        show(title, found)
    for name in names:
        empty = [key for key, value in results[name].items() if value is None]
        notes[name] += [f"not measured: {', '.join(empty)}"] if empty else []
        results[name]["notes"] = notes[name]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--memory-rows", type=int, default=100_000)
    parser.add_argument("--scenarios", default="A,B,C,D")
    parser.add_argument("--contestants", default="ours,curator,gather")
    given = parser.parse_args()
    mine, other = fake_teacher.cores()
    with tempfile.TemporaryDirectory() as scratch, fake_teacher.running(mine) as port:
        server = round(fake_teacher.capacity(port, other))
        say(f"the server answers up to {server:,} requests/s")
        results = measure(given, Bench(port, other, Path(scratch)))
    ours = results.pop("ours", {})
    if ours and not contestants.our_limits():
        ours["notes"].append("this version of stages.collect cannot be told a rate limit")
    for key, (sign, bar) in BARS.items():
        value = ours.get(key)
        met = value is not None and {">=": value >= bar, "<=": value <= bar, "<": value < bar}[sign]
        say(f"{key} {sign} {bar}: " + ("not measured" if value is None else "met" if met else "MISSED"))
    print(json.dumps({**ours, "requests": given.requests, "server_requests_per_second": server, **results}))


if __name__ == "__main__":
    main()
