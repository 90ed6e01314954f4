"""PDFs to text, our reader beside PyPDF2 on the same files: pages a second, and words that came out broken.

Ours is all that `corpus_papers` does with a file: letters and their places by pdfium, columns, heads,
hyphens, blocks, paragraphs. PyPDF2 gives the text of each page. Both run on one thread of this process, in
turns, and the least CPU time of the rounds counts; then ours runs as the stage does, in processes of its own,
by the clock and their start included.

broken     share of the tokens (runs of letters, in small ones) that are no word: not in the files given as
           --words, as the sources of the articles, or else in the vocabulary of --tokenizer, a BERT's. Names
           and rare words count for both sides.

    pip install --no-deps --target /tmp/pypdf2 PyPDF2==3.0.1
    PYTHONPATH=/tmp/pypdf2 python -m benchmarks.pdf [--files FOLDER] [--words FILE …] [--rounds 5]
"""

import argparse
import json
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PyPDF2 import PdfReader

from stages.core.processes import leave_idle_cores
from stages.sources.papers import in_processes, pdfs_at, read_paper

LETTERS = re.compile(r"[^\W\d_]+")


def words_of(text: str) -> list[str]:
    return LETTERS.findall(text.lower())


def ours(files: list[Path]) -> list[str]:
    return ["\n".join(page.text for page in read_paper(file, ()).pages) for file in files]


def theirs(files: list[Path]) -> list[str]:
    return ["\n".join(page.extract_text() for page in PdfReader(file).pages) for file in files]


def seconds(read: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    read()
    return clock() - started


def broken(texts: list[str], known: set[str]) -> float:
    tokens = [word for text in texts for word in words_of(text)]
    return sum(word not in known for word in tokens) / len(tokens)


def word_list(files: list[str], tokenizer: str) -> set[str]:
    if files:
        return {word for file in files for word in words_of(Path(file).read_text("utf-8"))}
    vocabulary = json.loads(Path(tokenizer, "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    return {word for word in vocabulary if LETTERS.fullmatch(word)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", default="prompts/papers/articles")
    parser.add_argument("--words", nargs="*", default=[])
    parser.add_argument("--tokenizer", default="models/base/minilm")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    leave_idle_cores()
    files, known = pdfs_at(given.files), word_list(given.words, given.tokenizer)
    pages = sum(len(PdfReader(file).pages) for file in files)
    readers = {"ours": partial(ours, files), "pypdf2": partial(theirs, files)}
    texts = {name: read() for name, read in readers.items()}
    took = dict.fromkeys(readers, float("inf"))
    for _ in range(given.rounds):
        for name, read in readers.items():
            took[name] = min(took[name], seconds(read, time.process_time))
    together = partial(in_processes, partial(read_paper, skip=()), files)
    took["ours_in_processes"] = seconds(together, time.perf_counter)
    rate = {name: round(pages / value, 1) for name, value in took.items()}
    shares = {name: round(broken(text, known), 4) for name, text in texts.items()}
    found = {
        "files": len(files),
        "pages": pages,
        "pages_per_second": rate,
        "times_as_fast": round(took["pypdf2"] / took["ours"], 2),
        "broken": shares,
        "words_in_list": len(known),
    }
    for name, text in texts.items():
        tokens, share = sum(len(words_of(one)) for one in text), shares[name]
        print(f"{name:8} {rate[name]:8.1f} pages/s  {tokens:,} tokens, {share:.2%} broken")
    print(json.dumps({"benchmark": "pdf", **found}))


if __name__ == "__main__":
    main()
