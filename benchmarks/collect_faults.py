"""kill -9 the collector at 200 random points: is anything lost, is anything fetched twice?

A local server answers after 50 ms, with a 429, a 500 or a broken connection now and then. A collector is
started on it, killed with SIGKILL at a random moment (half of the moments anywhere in its life, imports and
set-up of the store included, half while requests are in flight), and started again, 200 times; then it may
finish.
After each kill the store is compared with what the server has sent:

- lost: answers that were in the store once and are not any more. Must be 0.
- refetched: requests asked for again though their answer had been stored. Must be 0.
- in_flight: answers that were under way or had not reached the disk when a kill struck, or whose connection
  the server broke, and that were fetched again. At most kills x concurrency, and the broken ones.

At the end the output must have an accepted answer for each request, the same bytes as that of a run nobody
disturbed, and what counts against a cap must be no less than what the server bills.

    python -m benchmarks.collect_faults [--kills 200] [--rows 8000] [--seed 1]
"""

import argparse
import json
import logging
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run by its path, a script sees its own folder only

from stages.core import layout  # noqa: E402
from stages.core.hashing import sha256_file, sha256_json  # noqa: E402
from tests.helpers.teacher_server import Teacher, failure, make_requests, responses  # noqa: E402

CONCURRENCY, LIFE_S, BUSY_S = 16, 1.2, 0.4
INPUT_PRICE, OUTPUT_PRICE = 1000, 5000
PRICES = f"""prices:
  version: made up
  models: {{embedded: {{input: {INPUT_PRICE}, output: {OUTPUT_PRICE}}}}}
"""


def collector(url: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "stages", "collect", "d", "--base_url", url, "--api_key_env", ""]
    command += ["--concurrency", str(CONCURRENCY), "--retries", "50"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RETORT_TRACKING": "off"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def stored() -> set[str]:
    """Keys of the requests whose answer is in the store."""
    if not layout.STORE.exists():
        return set()
    with sqlite3.connect(layout.STORE, timeout=10) as connection:
        try:
            rows = connection.execute("SELECT request_key FROM attempts WHERE raw IS NOT NULL").fetchall()
        except sqlite3.OperationalError:  # killed before it had made its tables
            return set()
    return {key for (key,) in rows}


def committed() -> float:
    """Dollars that count against a cap."""
    with sqlite3.connect(layout.STORE, timeout=10) as connection:
        return connection.execute("SELECT sum(dollars) FROM wallet").fetchone()[0]


class Watch:
    """Compares the store with the server after each kill."""

    def __init__(self, teacher: Teacher, keys: dict[str, str]):
        self.teacher, self.keys = teacher, keys
        self.kept: dict[str, int] = {}  # stored request -> how often the server had answered it by then
        self.lost = self.refetched = 0

    def served(self) -> dict[str, int]:
        return {self.keys[body]: count for body, count in dict(self.teacher.billed).items()}

    def look(self) -> None:
        now, served = stored(), self.served()
        self.lost += len(self.kept.keys() - now)
        self.refetched += sum(served[key] > count for key, count in self.kept.items())
        self.kept = {key: served[key] for key in now}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    faults = [failure(429, **{"Retry-After": "0.1"}), failure(500), "reset mid-body", *[None] * 60]
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # it tells of every client that dies
    os.chdir(tempfile.mkdtemp())
    rows = make_requests("d", options.rows)
    bodies = [{"model": r["model"], "messages": r["messages"], **r["params"]} for r in rows]
    keys = {sha256_json(body): row["request_key"] for body, row in zip(bodies, rows, strict=True)}
    Path("params.yaml").write_text(PRICES)
    teacher = Teacher(lambda body, seen: chance.choice(faults), delay=0.05)
    watch, moments = Watch(teacher, keys), {"busy": 0, "before the first request": 0, "after the last": 0}
    with teacher.running() as url:
        for kill in range(options.kills):
            calls, process = teacher.calls, collector(url)
            if kill % 2:
                while teacher.calls == calls and process.poll() is None:
                    time.sleep(0.002)
            time.sleep(chance.random() * (BUSY_S if kill % 2 else LIFE_S))
            moment = "before the first request" if teacher.calls == calls else "busy"
            moments[moment if process.poll() is None else "after the last"] += 1
            process.kill()
            process.communicate()
            time.sleep(0.1)  # the server ends with what is in flight
            watch.look()
            if kill % 20 == 19:
                told = f"{kill + 1} kills, {len(watch.kept):,} answers stored, lost {watch.lost}, refetched"
                print(f"{told} {watch.refetched}", file=sys.stderr, flush=True)
        last = collector(url)
        told, failed = last.communicate()[1], last.returncode
        watch.look()
    if failed:
        sys.exit(f"the last run failed: {told}")
    disturbed, answers = sha256_file(layout.responses("d")), responses("d")
    counted, billed = committed(), teacher.billed_dollars(INPUT_PRICE, OUTPUT_PRICE)
    for file in (*layout.STORE.parent.glob("*"), layout.responses("d")):
        file.unlink()
    with Teacher().running() as url:
        collector(url).communicate()
    served = watch.served()
    result = {
        "kills": options.kills,
        "moments": moments,
        "requests": len(rows),
        "accepted": sum(row["accepted"] for row in answers),
        "lost": watch.lost,
        "refetched": watch.refetched,
        "in_flight": sum(served.values()) - len(served),
        "most_in_flight": options.kills * CONCURRENCY,
        "same_bytes_as_undisturbed": disturbed == sha256_file(layout.responses("d")),
        "billed_dollars": round(billed, 2),
        "counted_dollars": round(counted, 2),
        "counted_is_enough": billed <= counted,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
