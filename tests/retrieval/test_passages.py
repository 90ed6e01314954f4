"""Pieces of documents: they cover them, stay within their tokens, overlap, and stand where they say."""

import random
from itertools import pairwise

import pytest

from stages.kinds.rag.knobs import Chunks
from stages.kinds.rag.parts.questions import coverage, holding
from stages.retrieval.passages import Cutter, Piece
from tests.helpers.tiny import WORDS, tokenizer_folder


def cutter(chunk: int, overlap: int = 0) -> Cutter:
    return Cutter(Chunks(tokenizer=tokenizer_folder(), chunk=chunk, overlap=overlap, eval_rows="none"))


def text_of(seed: int) -> str:
    """Words in lines, sentences and paragraphs, some longer than a piece, with letters of several bytes."""
    drawn = random.Random(seed)
    ends = [" ", " ", " ", ". ", "\n", "\n\n", " \n \n", "é ", "。", "  "]
    words = [*WORDS.split(), "x" * 90, "日本語" * 9, "🙂", "a_b.c"]
    return "".join(drawn.choice(words) + drawn.choice(ends) for _ in range(drawn.randrange(1, 300)))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("chunk", "overlap"), [(1, 0), (7, 0), (20, 6), (60, 59)])
def test_pieces_cover_a_text_in_order_within_their_tokens(seed, chunk, overlap):
    text, cut = text_of(seed), cutter(chunk, overlap)
    spans = list(cut.spans(text))
    covered = {place for start, end in spans for place in range(start, end)}
    assert all(text[place].isspace() for place in set(range(len(text))) - covered)
    assert all(one[0] < other[0] and one[1] < other[1] for one, other in pairwise(spans))
    for start, end in spans:
        assert text[start:end].strip() == text[start:end] != ""
        count = len(cut.tokenizer.encode(text[start:end], add_special_tokens=False).ids)
        assert count <= chunk or end - start == 1  # a character is never cut


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("the sum of a list\n\nthe median", ["the sum of a list", "the median"]),
        ("the sum of a list\nthe median of it", ["the sum of a list", "the median of it"]),
        ("the sum of a list. The median of it", ["the sum of a list.", "The median of it"]),
        ("", []),
        (" \n\n ", []),
        ("sum", ["sum"]),
    ],
)
def test_a_cut_is_at_the_strongest_break(text, pieces):
    assert [text[start:end] for start, end in cutter(11).spans(text)] == pieces


def test_a_piece_repeats_the_end_of_the_one_before():
    text, cut = " ".join(WORDS.split()), cutter(30, 8)
    spans = list(cut.spans(text))
    shared = [text[after:end] for (_, end), (after, _) in pairwise(spans)]
    assert all(shared)
    assert all(len(cut.tokenizer.encode(part).ids) <= 8 for part in shared)


def test_passages_are_numbered_by_source_and_stand_where_they_say():
    documents = [
        Piece("a", "A", "the sum of a list\n\nthe median"),
        Piece("a", "A", "sort"),
        Piece("b", "B", ""),
    ]
    passages = cutter(11).passages(documents)
    assert [(one["id"], one["seq"]) for one in passages] == [("a#0", 0), ("a#1", 1), ("a#2", 2)]
    assert [documents[0].text[one["start"] : one["end"]] for one in passages[:2]] == [
        one["text"] for one in passages[:2]
    ]


def test_the_passage_that_holds_most_of_an_answer():
    assert coverage("The cat, the cat!", "a cat") == 0.5  # each word as often as it stands there
    passages = cutter(11).passages([Piece("a", "", "the sum of a list\n\nthe median of a list")])
    assert holding("A median of the lists.", passages) == "a#1"
    assert holding("zebra", passages) == "a#0"
