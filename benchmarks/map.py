"""The neighbours and pairs of 1,000,000 synthetic texts among 100,000 observed ones, 384 dims, on two cores.

Vectors are drawn from a fixed seed: 10,000 centres, 10 observed and 100 synthetic ones around each at a
cosine of about .8, in no order. So each synthetic vector has ten neighbours at about .64, and all others
lie below .3. Each search runs in a process of its own, which tells seconds, CPU seconds and peak memory of
all that `map` does once it has vectors: index, neighbours, exact scores, pairs at least .8 similar, matrix
written. ivf and hnsw (on demand, it takes minutes to build) get the first 50,000 synthetic vectors, and their
seconds are scaled: those before the first result count once, the others by the rows. Recall is of the exact
float64 neighbours of 1,000 rows (ivf and hnsw: 200).

The other side is the algorithm of SKIM's published search: blocks of 512 rows, a float32 product with all
keys, torch.topk; with 10 neighbours, as we look for, and with the 200 of its default. Blocks are spread over
the rows, half of them timed before our search and half after it, and scaled to all rows (--full: all rows).
The published code transposes the product before topk, which on a processor takes longer than this.

`ratio` is of seconds with 10 neighbours; ours are those of `search: exact`, the default.

    python -m benchmarks.map [--also ivf hnsw] [--blocks 16] [--full]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SYNTHETIC, OBSERVED, DIMS, CENTRES, K = 1_000_000, 100_000, 384, 10_000, 10
BLOCK, SAMPLE, SOME = 50_000, 1000, 50_000
CORES = "0,1"


def unit(draw: np.random.Generator, rows: int) -> np.ndarray:
    vectors = draw.standard_normal((rows, DIMS), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def generate(directory: Path) -> None:
    """synthetic.npy and observed.npy, planted; plain.npy and keys.npy, of one centre a row: no neighbours."""
    middle = unit(np.random.default_rng(0), CENTRES)
    sets = {"observed": OBSERVED, "synthetic": SYNTHETIC, "keys": OBSERVED, "plain": SOME}
    for seed, (name, rows) in enumerate(sets.items(), start=1):
        stored = np.lib.format.open_memmap(directory / f"{name}.npy", "w+", np.float16, (rows, DIMS))
        centre = np.random.default_rng(seed).permutation(rows) % CENTRES
        for start in range(0, rows, BLOCK):
            own = centre[start : start + BLOCK]
            vectors = unit(np.random.default_rng([seed, start]), len(own))
            if name in ("observed", "synthetic"):
                vectors = 0.8 * middle[own] + 0.6 * vectors
            stored[start : start + len(own)] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        stored.flush()


def ours(directory: Path, name: str, queries: str, keys: str, rows: int) -> dict:
    """What `map` does from vectors on, a hundred texts a document; saves the neighbours of some rows."""
    from scipy.sparse import save_npz

    from stages.kinds.xc.parts.mapping import NeighbourPairs, Shape, matrix
    from stages.retrieval.knobs import Search
    from stages.retrieval.neighbours import neighbours

    started, spent = time.perf_counter(), time.process_time()
    synthetic = np.load(directory / f"{queries}.npy", mmap_mode="r")[:rows]
    observed = np.load(directory / f"{keys}.npy", mmap_mode="r")
    starts = np.arange(0, rows + 1, 100)
    found = NeighbourPairs(Shape("queries", len(observed), len(starts) - 1), starts, 0.8)
    kept, index_seconds, step = [], None, max(rows // SAMPLE, 250)
    blocks = neighbours(synthetic, observed, K, Search(search=name))
    for first, indices, cosines in blocks:
        index_seconds = index_seconds or time.perf_counter() - started
        found.add(first, indices, cosines)
        kept.append(indices[-first % step :: step])
    pairs, values = found.pairs()
    save_npz(directory / "skim.npz", matrix(pairs, values, found.shape.matrix))
    np.save(directory / f"{name}-{queries}.npy", np.concatenate(kept))
    peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    return {
        "seconds": time.perf_counter() - started,
        "until_first_block": index_seconds,
        "cpu_seconds": time.process_time() - spent,
        "peak_gib": int(peak) / 2**20,
        "pairs": len(pairs),
    }


def in_a_process(directory: Path, *arguments) -> dict:
    command = [sys.executable, "-m", "benchmarks.map", "--child", str(directory), *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def recall(directory: Path, name: str, queries: str, keys: str, rows: int) -> float:
    """Share of the exact neighbours that were found, over the rows that were kept."""
    found = np.load(directory / f"{name}-{queries}.npy")
    asked = np.load(directory / f"{queries}.npy", mmap_mode="r")[: rows : max(rows // SAMPLE, 250)]
    among = np.load(directory / f"{keys}.npy", mmap_mode="r").astype(np.float64)
    hits = 0
    for start in range(0, len(asked), 100):
        scores = asked[start : start + 100].astype(np.float64) @ among.T
        best = np.argpartition(-scores, K, axis=1)[:, :K]
        part = found[start : start + 100]
        hits += sum(len(set(a) & set(b)) for a, b in zip(best.tolist(), part.tolist(), strict=True))
    return hits / found.size


class Reference:
    """Blocked torch.topk on float32, timed block by block."""

    def __init__(self, directory: Path):
        import torch

        torch.set_num_threads(len(CORES.split(",")))
        self.torch = torch
        self.synthetic = np.load(directory / "synthetic.npy", mmap_mode="r")
        self.keys = torch.from_numpy(np.load(directory / "observed.npy").astype(np.float32))
        self.keys /= self.keys.norm(dim=1, keepdim=True)
        self.seconds, self.cpu = {10: [], 200: []}, {10: [], 200: []}
        self.search(0, K)  # memory and kernels are made ready before the clock runs

    def search(self, start: int, k: int) -> None:
        part = self.torch.from_numpy(self.synthetic[start : start + 512].astype(np.float32))
        scores, places = (part @ self.keys.T).topk(k)
        scores.numpy(), places.numpy().astype(np.int32)

    def time(self, starts: list[int], k: int) -> None:
        for start in starts:
            before, spent = time.perf_counter(), time.process_time()
            self.search(start, k)
            self.seconds[k].append(time.perf_counter() - before)
            self.cpu[k].append(time.process_time() - spent)

    def whole(self, measured: list[float]) -> float:
        return sum(measured) / len(measured) * SYNTHETIC / 512


def measure(directory: Path, others: list[str], blocks: int) -> dict:
    say = lambda text: print(text, flush=True)  # noqa: E731
    say(f"load before: {os.getloadavg()[0]:.1f}")
    generate(directory)
    reference = Reference(directory)
    starts = np.linspace(0, SYNTHETIC - 512, blocks).astype(int).tolist()
    for k, every in ((10, 2), (200, 4)):
        reference.time(starts[::every], k)
    exact = in_a_process(directory, "exact", "synthetic", "observed", SYNTHETIC)
    for k, every in ((10, 2), (200, 4)):
        reference.time(starts[1::every], k)
    whole = {k: reference.whole(reference.seconds[k]) for k in (10, 200)}
    for k, seconds in whole.items():
        cpu = reference.whole(reference.cpu[k])
        timed = len(reference.seconds[k])
        say(f"torch.topk, {k} neighbours: {seconds:.0f} s, {cpu:.0f} s CPU, by {timed} blocks of 512 rows")
    exact["recall"] = recall(directory, "exact", "synthetic", "observed", SYNTHETIC)
    say(line("exact", exact, exact["seconds"]))
    for name in others:
        got = in_a_process(directory, name, "synthetic", "observed", SOME)
        got["recall"] = recall(directory, name, "synthetic", "observed", SOME)
        index = got["until_first_block"]
        say(line(f"{name}, {SOME:,} rows scaled", got, index + (got["seconds"] - index) * SYNTHETIC / SOME))
    if "ivf" in others:
        got = in_a_process(directory, "ivf", "plain", "keys", SOME)
        got["recall"] = recall(directory, "ivf", "plain", "keys", SOME)
        say(line(f"ivf, {SOME:,} rows without planted neighbours", got, got["seconds"]))
    say(f"load after: {os.getloadavg()[0]:.1f}")
    return {
        "recall_at_10": round(exact["recall"], 4),
        "seconds": round(exact["seconds"], 1),
        "reference_seconds": round(whole[K], 1),
        "ratio": round(whole[K] / exact["seconds"], 2),
        "peak_gib": round(exact["peak_gib"], 2),
    }


def line(name: str, got: dict, seconds: float) -> str:
    return (
        f"{name}: {seconds:.0f} s, recall@10 {got['recall']:.4f}, {got['cpu_seconds']:.0f} s CPU measured, "
        f"peak {got['peak_gib']:.2f} GiB, {got['pairs']:,} pairs"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--also", nargs="*", choices=["ivf", "hnsw"], default=["ivf"], help="beside exact")
    arguments.add_argument("--blocks", type=int, default=16, help="blocks that the other side is timed on")
    arguments.add_argument("--full", action="store_true", help="the other side, too, on all rows")
    arguments.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    os.sched_setaffinity(0, map(int, CORES.split(",")))
    if given.child:
        directory, name, queries, keys, rows = given.child
        print(json.dumps(ours(Path(directory), name, queries, keys, int(rows))))
        return
    blocks = SYNTHETIC // 512 if given.full else given.blocks
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(measure(Path(scratch), given.also, blocks)))


if __name__ == "__main__":
    main()
