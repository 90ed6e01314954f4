"""How good the lines of a page are: one number a page for every measure; see docs/kinds/xc/evaluation.md.

Lines are judged raw, as they were written: no repeats dropped, no bullets cut. The one-line summary that
`extractive` copies tops what rewards copying (retrieval, groundedness), so it stands beside every system.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from stages.core.text import content_words, plain_words, stems, tokens
from stages.kinds.kind import Task
from stages.kinds.xc.parts import queries
from stages.kinds.xc.parts.queries import mentions_name
from stages.retrieval.bm25 import Bm25

MEASURES = (
    "format_validity",
    "groundedness",
    "hit_at_1",
    "hit_at_10",
    "hit_at_10_nameless",
    "verbatim",
    "distinct",
    "rouge_l",
    "stop_rate",
)
SUMMARY_WORDS = 40


@dataclass(frozen=True)
class Output:
    """What a system wrote for one page: its non-empty lines over all samples, and the share that stopped."""

    lines: list[str]
    stopped: float


def raw_lines(text: str) -> list[str]:
    """The lines that hold something, without white space around them."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def summary_line(document: dict) -> str:
    """The page's first sentence that says something: a first paragraph up to a full stop, else its title."""
    paragraphs = [" ".join(part.split()) for part in document["text"].split("\n\n")]
    for paragraph in paragraphs:
        if len(content_words(paragraph)) >= 2:
            sentence = paragraph.split(". ")[0].rstrip(".")
            return " ".join(sentence.split()[:SUMMARY_WORDS])
    return document["title"]


def page_text(document: dict) -> str:
    """What is searched of a page, and what its lines may be grounded in."""
    return f"{document['title']}\n{document['text']}"


class Scorer:
    """Scores lines against their page and against all pages of a corpus (one BM25 index)."""

    def __init__(self, documents: list[dict], task: Task = queries.TASK):
        from rouge_score.rouge_scorer import RougeScorer

        self.documents = {document["id"]: document for document in documents}
        self.places = {name: place for place, name in enumerate(self.documents)}
        self.index = Bm25([page_text(document) for document in documents])
        self.rank = lru_cache(maxsize=None)(self.index.rank)
        self.well_formed = task.well_formed
        self.rouge = RougeScorer(["rougeL"], tokenizer=_cached_tokenizer())

    def score(self, name: str, output: Output, reference: list[str]) -> list[float]:
        """The MEASURES of one page, NaN where one is not defined.

        A page without lines scores 0, except for `hit_at_10_nameless` and `verbatim` (nothing to judge) and
        `rouge_l` where the teacher has no lines either way.
        """
        document, lines = self.documents[name], output.lines
        if not lines:
            empty = dict.fromkeys(MEASURES, 0.0) | {"hit_at_10_nameless": NAN, "verbatim": NAN}
            return _ordered(empty | {"rouge_l": 0.0 if reference else NAN, "stop_rate": output.stopped})
        ranks = [self.rank(line, self.places[name]) for line in lines]
        pairs = zip(lines, ranks, strict=True)
        nameless = [rank <= 10 for line, rank in pairs if not mentions_name(line, document)]
        page_stems = set(tokens(page_text(document)))
        flat = _flat(page_text(document))
        return _ordered(
            {
                "format_validity": mean(self.well_formed(line) for line in lines),
                "groundedness": mean(grounded(line, page_stems) for line in lines),
                "hit_at_1": mean(rank <= 1 for rank in ranks),
                "hit_at_10": mean(rank <= 10 for rank in ranks),
                "hit_at_10_nameless": mean(nameless),
                "verbatim": mean(_flat(line) != "  " and _flat(line) in flat for line in lines),
                "distinct": len(set(map(_flat, lines))) / len(lines),
                "rouge_l": mean(self._rouge_l(line, reference) for line in lines) if reference else NAN,
                "stop_rate": output.stopped,
            }
        )

    def _rouge_l(self, line: str, reference: list[str]) -> float:
        """F of ROUGE-L (Lin 2004, no stemming) against the reference line that fits best."""
        return self.rouge.score_multi(reference, line)["rougeL"].fmeasure


NAN = float("nan")


def _ordered(values: dict[str, float]) -> list[float]:
    return [values[measure] for measure in MEASURES]


def mean(values: Iterable[float]) -> float:
    """NaN of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else NAN


def grounded(line: str, known_stems: set[str]) -> float:
    """The share of the line's content words whose stems are among `known_stems`; 0 for a line without any."""
    words = content_words(line)
    return mean(stems(word)[0] in known_stems for word in words) if words else 0.0


def _flat(text: str) -> str:
    """Words only, one space around each: equal for texts that differ in case, white space or punctuation."""
    return f" {' '.join(plain_words(text))} "


def _cached_tokenizer():
    """rouge-score's own tokenizer, which would cut the teacher's lines again for every line it judges."""
    from rouge_score.tokenizers import DefaultTokenizer

    tokenizer = DefaultTokenizer(use_stemmer=False)
    tokenizer.tokenize = lru_cache(maxsize=1 << 16)(tokenizer.tokenize)
    return tokenizer
