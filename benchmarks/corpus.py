"""Reading a dataset of the XC repository's format: rows a second and peak memory, in a process of its own.

Makes ORCAS's shape in a temporary folder: 800,000 labels whose metadata (JSON lines) has a URL, a title, a
body of about 1 KB and relevant queries; as many training queries, a tenth as many test queries, two labels a
query. `read` reads and checks everything there is (texts, matrices, metadata) and keeps what the stage keeps;
`stage` is the whole of corpus_xc, which also cuts bodies with a tokenizer, splits and writes. Rows are the
labels alone, although the queries are read in the same time. Other work on the machine shows in the seconds.

    python -m benchmarks.corpus [--rows 800000]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import orjson
from scipy.sparse import csr_matrix, save_npz

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "models/base/smol"  # dvc repro base_package@smol
READ = """
import sys, time
from collections import Counter
from pathlib import Path
from stages.kinds.xc.parts.format.corpus import read_source
from stages.kinds.xc.parts.format.documents import Metadata, documents
from stages.kinds.xc.parts.format.texts import check_files
folder = Path(sys.argv[1])
start = time.perf_counter()
source = read_source(check_files(folder, "queries"), "queries", 0.05)
between = time.perf_counter()
metadata = Metadata(source.files["metadata"], 7501)
rows = sum(1 for _ in documents(source.files["Y"], metadata, None, folder, Counter()))
print(rows, between - start, time.perf_counter() - between, time.process_time())
"""
STAGE = "import sys; from stages.__main__ import main; sys.argv.insert(1, 'corpus_xc'); main()"


def make(folder: Path, rows: int) -> None:
    """Write the dataset; bodies are distinct, of the words that this project's documentation uses."""
    draw = random.Random(0)
    words = sorted({word for page in ROOT.glob("docs/**/*.md") for word in page.read_text("utf-8").split()})
    words = [word for word in words if word.isalpha()]
    passages = [" ".join(draw.choices(words, k=48)) for _ in range(5000)]
    queries = [" ".join(draw.choices(words, k=4)) for _ in range(5000)]
    with open(folder / "Y.txt", "w") as labels, open(folder / "metadata.jsonl", "wb") as metadata:
        for row in range(rows):
            url = f"https://www.site{row % 997}.example/page/{row}"
            body = " ".join(draw.choices(passages, k=3))[:1000] + f" {row}"
            page = {"url": url, "doc_title": f"Page {row}", "doc_body": body}
            page["relevant_queries"] = draw.choices(queries, k=4)
            labels.write(f"{url}\n")
            metadata.write(orjson.dumps(page) + b"\n")
    generator = np.random.default_rng(0)
    for which, count in (("trn", rows), ("tst", rows // 10)):
        with open(folder / f"{which}_X.txt", "w") as stream:
            stream.writelines(f"{queries[n % 5000]} {which} {n}\n" for n in range(count))
        columns = np.sort(generator.integers(0, rows, (count, 2)), axis=1)
        columns[:, 1] += columns[:, 0] == columns[:, 1]
        columns %= rows
        matrix = csr_matrix(
            (np.ones(2 * count), columns.ravel(), np.arange(0, 2 * count + 1, 2)), (count, rows)
        )
        save_npz(folder / f"{which}_X_Y.npz", matrix, compressed=False)


def run(code: str, *arguments: str, folder: Path) -> tuple[str, float, float]:
    """(what a child printed, its seconds, its peak memory in GiB)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RETORT_TRACKING": "off"}
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout
        printed = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"the child ended with code {child.returncode}")
    return printed, time.perf_counter() - start, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=800_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "source"
        folder.mkdir()
        make(folder, rows)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 2**30
        print(f"{rows:,} labels with metadata, {rows * 11 // 10:,} queries: {size:.2f} GiB")
        printed, _, read_peak = run(READ, str(folder), folder=Path(name))
        count, checked, read, cpu = (float(number) for number in printed.split())
        assert count == rows
        print(
            f"read: texts and matrices {checked:.1f} s, metadata {read:.1f} s (with imports {cpu:.1f} CPU "
            f"seconds), peak {read_peak:.2f} GiB"
        )
        options = ["--path", str(folder), "--points", "queries", "--tokenizer", str(TOKENIZER)]
        _, seconds, stage_peak = run(STAGE, "d", *options, folder=Path(name))
        print(f"stage: {seconds:.1f} s, peak {stage_peak:.2f} GiB")
    figures = {
        "rows": rows,
        "read_rows_per_second": round(rows / (checked + read)),
        "stage_rows_per_second": round(rows / seconds),
        "peak_gib": round(max(read_peak, stage_peak), 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
