"""One training group of a row: its order of steps, and what is left out and counted."""

from collections import Counter
from pathlib import Path

import pytest

from stages.core.errors import UserError
from stages.kinds.retriever.knobs import TrainRetrieverKnobs
from stages.kinds.retriever.parts.groups import Group, draw, of_task, usable
from stages.kinds.retriever.parts.prompts import INSTRUCTIONS, prompts
from stages.kinds.retriever.parts.rows import TASKS, lowest

WHERE = Path("data/d/scored/qa/train.jsonl")
KEYS = {name: f"text of {name}" for name in "abcdefgh"}


def knobs(**changes) -> TrainRetrieverKnobs:
    return TrainRetrieverKnobs(**{"rows": "d", "base": "b", "group": 3, "negative": "first"} | changes)


def row(pos="ab", neg="cdef", scores=None, name="r"):
    made = {"id": name, "query": "q", "pos": list(pos), "neg": list(neg), "group": "g"}
    return made | ({} if scores is None else {"teacher_scores": scores})


SCORED = row(scores=[1.0, 5.0, 9.0, 2.0, 7.0, 3.0])


@pytest.mark.parametrize(
    ("given", "changes", "keys", "scores"),
    [
        (row(), {}, "acd", None),
        (SCORED, {}, "acd", [1, 9, 2]),
        (SCORED, {"positive": "teacher"}, "cde", [9, 2, 7]),  # taken out of the negatives with its score
        (SCORED, {"positive": "teacher_pos"}, "bcd", [5, 9, 2]),
        (SCORED, {"negative": "teacher+"}, "ace", [1, 9, 7]),
        (SCORED, {"negative": "teacher-"}, "adf", [1, 2, 3]),
        (SCORED, {"negative": "teacher-", "distill": "stable"}, "afd", [1, 3, 2]),  # best negative first
        (SCORED, {"distill": "stable"}, "acd", [1, 9, 2]),  # and the positive before a better negative
        (row(scores=[1.0, 5, 5, 5, 5, 5]), {"positive": "teacher"}, "bcd", [5, 5, 5]),  # first of ties
        (row(neg="c"), {"group": 4}, "accc", None),  # too few: the list again
        (row(neg="cd"), {"group": 4}, "acdc", None),
        (row(pos="", neg="cde", scores=[1.0, 3, 2]), {"positive": "teacher"}, "dce", [3, 1, 2]),
    ],
)
def test_a_group_is_drawn_in_order(given, changes, keys, scores):
    drawn = draw(given, KEYS, knobs(**changes), 0)
    assert isinstance(drawn, Group)
    assert ("".join(drawn.keys), drawn.scores) == (keys, scores)


@pytest.mark.parametrize(
    ("given", "changes", "reason"),
    [
        (SCORED, {"scores_min": 9.5}, "scores_below_min"),
        (SCORED, {"scores_margin": 8.5}, "scores_within_margin"),
        (row(scores=[1.0] * 6), {"scores_margin": 0.1}, "scores_within_margin"),
        (row(neg=""), {}, "no_negative"),
        (row(pos="", neg="c", scores=[1.0]), {"positive": "teacher"}, "no_negative"),
        (row(pos=""), {}, "no_positive"),
        (row(pos=""), {"positive": "random"}, "no_positive"),
        (row(neg="ab"), {}, "no_negative"),  # positives that stand among the negatives
        (row(), {"positive": "teacher"}, "no_scores"),
    ],
)
def test_a_row_without_a_group_says_why(given, changes, reason):
    assert draw(given, KEYS, knobs(**changes), 0) == reason


def test_a_positives_text_is_no_negative_under_another_id():
    keys = KEYS | {"c": KEYS["a"]}
    assert draw(row(), keys, knobs(), 0).keys == ["a", "d", "e"]
    assert draw(row(), keys, knobs(), 0).right == ["a", "b"]


def test_other_positives_are_right_too_and_the_teachers_choice_with_them():
    assert draw(SCORED, KEYS, knobs(positive="teacher"), 0).right == ["a", "b", "c"]


def test_draws_differ_by_epoch_and_row_and_repeat():
    given = knobs(positive="random", negative="random", group=4)
    drawn = [draw(row(), KEYS, given, epoch) for epoch in range(30)]
    assert drawn == [draw(row(), KEYS, given, epoch) for epoch in range(30)]
    assert {group.keys[0] for group in drawn} == {"a", "b"}
    assert {key for group in drawn for key in group.keys[1:]} == set("cdef")
    assert all(len(set(group.keys)) == 4 for group in drawn)
    assert drawn != [draw(row(name="s"), KEYS, given, epoch) for epoch in range(30)]
    assert drawn != [draw(row(), KEYS, knobs(**given.model_dump() | {"seed": 2}), e) for e in range(30)]


def test_every_row_is_counted_once():
    rows = [
        row(name="1", scores=[1.0] * 6),
        row(name="2", scores=[1.0, 2, 3, 4, 5, 6]),
        row(name="3", neg="", scores=[1.0, 9]),
        row(name="4", pos="", scores=[1.0, 2, 3, 4]),
        row(name="5"),
    ]
    good, drops = usable(rows, KEYS, knobs(scores_margin=0.5), WHERE)
    assert [each["id"] for each in good] == ["2"]
    assert drops == Counter(scores_within_margin=1, no_negative=1, no_positive=1, no_scores=1)
    assert len(good) + drops.total() == len(rows)
    good, drops = usable(rows, KEYS, knobs(distill="none"), WHERE)
    assert [each["id"] for each in good] == ["1", "2", "5"] and len(good) + drops.total() == len(rows)


@pytest.mark.parametrize(
    ("given", "changes", "told"),
    [
        (row(), {"positive": "teacher"}, "positive is 'teacher', but no row has teacher_scores"),
        (row(), {"positive": "teacher_pos"}, "positive is 'teacher_pos', but no row"),
        (row(), {"negative": "teacher+"}, "negative is 'teacher\\+', but no row has teacher_scores"),
    ],
)
def test_rows_that_cannot_be_are_told(given, changes, told):
    with pytest.raises(UserError, match=told):
        usable([given], KEYS, knobs(**changes), WHERE)


def test_the_recipe_is_by_task():
    given = knobs(recipe="llm_embedder", negative="teacher+")
    losses = {}
    for task in TASKS:
        made = of_task(given, task, scored=True)
        losses[task] = (made.positive, made.distill, made.contrastive_weight > 0, made.distill_weight > 0)
        assert made.negative == "random"
    assert losses == {
        "qa": ("first", "stable", False, True),
        "convsearch": ("first", "kl", True, False),
        "chat": ("teacher", "kl", False, True),
        "lrlm": ("teacher", "kl", False, True),
        "icl": ("random", "stable", False, True),
        "tool": ("first", "kl", True, False),
    }
    lrlm = of_task(given, "lrlm", scored=True)
    assert (lrlm.teacher_temperature, lrlm.scores_margin, lrlm.max_rows) == (0.1, 0.1, 10_000)
    assert of_task(knobs(), "qa", scored=True) == knobs()
    unscored = of_task(given, "qa", scored=False)  # learned from its pairs alone
    assert (unscored.positive, unscored.contrastive_weight > 0, unscored.distill_weight) == ("first", True, 0)


def test_a_sample_of_rows_is_by_hash_and_nested():
    rows = [row(name=str(number)) for number in range(50)]
    few, more = ({each["id"] for each in lowest(rows, limit, "max_rows")} for limit in (10, 20))
    assert (
        len(few) == 10 and few < more and lowest(rows, 0, "max_rows") == rows == lowest(rows, 99, "max_rows")
    )


def test_instructions_and_prompts():
    assert INSTRUCTIONS["llm_embedder"]["tool"] == (
        "Transform this user request for fetching helpful tool descriptions: ",
        "Transform this tool description for retrieval: ",
    )
    assert INSTRUCTIONS["instructor"]["qa"] == (
        "Represent the query for retrieving supporting documents: ",
        "Represent the document for retrieval: ",
    )
    assert prompts("e5", ["icl", "qa"]) == {
        "query": "query: ",
        "document": "passage: ",
        "icl_query": "query: ",
        "icl_document": "passage: ",
        "qa_query": "query: ",
        "qa_document": "passage: ",
    }
    assert prompts("none", ["qa"]) == {"query": "", "document": ""}
