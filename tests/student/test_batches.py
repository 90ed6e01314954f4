"""Which rows are in which batch, by mode."""

from collections import Counter

import pytest

from stages.core.errors import UserError
from stages.student.batches import Batches

NAMES, SIZES, BLOCK = ["qa", "tool", "icl"], [17, 9, 40], 4
MODES = ["epoch", "epoch_static", "random", "epoch_random"]


def made(mode="epoch", names=NAMES, sizes=SIZES, block=BLOCK, small="one_batch", seed=1):
    return Batches(names, sizes, block, mode, small, seed)


def epochs(batches, count=2):
    """[[(file, rows) of each batch] of each epoch]; a batch of one file."""
    drawn = [batches.at(step) for step in range(count * batches.per_epoch)]
    assert [epoch for epoch, _, _ in drawn] == sorted(list(range(count)) * batches.per_epoch)
    pairs = [(file, tuple(rows.tolist())) for _, file, rows in drawn]
    return [pairs[at : at + batches.per_epoch] for at in range(0, len(pairs), batches.per_epoch)]


@pytest.mark.parametrize("mode", MODES)
def test_batches_are_of_one_file_and_of_no_row_twice(mode):
    batches = made(mode)
    assert batches.per_epoch == 4 + 2 + 10 and batches.left_over == 1 + 1
    for epoch in epochs(batches):
        for file, rows in epoch:
            assert len(set(rows)) == BLOCK and max(rows) < SIZES[file]
        if mode != "random":
            used = Counter((file, row) for file, rows in epoch for row in rows)
            assert max(used.values()) == 1 and used.total() == sum(SIZES) - batches.left_over
            assert Counter(file for file, _ in epoch) == {0: 4, 1: 2, 2: 10}


@pytest.mark.parametrize("mode", [*MODES, "none"])
def test_batches_follow_from_seed_and_epoch(mode):
    def drawn(seed):
        batches = made(mode, ["qa"] * 3, seed=seed)
        steps = [batches.at(step) for step in range(2 * batches.per_epoch)]
        return [(file, rows.tolist()) for _, file, rows in steps]

    one = drawn(1)
    assert one == drawn(1) != drawn(2) and one[: len(one) // 2] != one[len(one) // 2 :]


def test_static_blocks_stay_and_change_places():
    first, second = epochs(made("epoch_static"))
    assert sorted(first) == sorted(second) and first != second
    first, second = epochs(made("epoch"))
    assert sorted(first) != sorted(second)


def test_random_files_come_by_their_size():
    files = Counter(file for epoch in epochs(made("random"), 60) for file, _ in epoch)
    shares = [files[file] / files.total() for file in range(3)]
    assert shares == pytest.approx([size / sum(SIZES) for size in SIZES], abs=0.04)


def test_epoch_random_draws_by_what_is_left():
    """The large file is spread over the epoch: early batches are mostly its."""
    first = Counter(epoch[0][0] for epoch in epochs(made("epoch_random"), 200))
    assert first[2] / 200 == pytest.approx(10 / 16, abs=0.1)


def test_a_file_listed_twice_counts_twice():
    (epoch,) = epochs(made("epoch", ["qa", "tool", "qa"], [8, 8, 8]), 1)
    assert Counter(file for file, _ in epoch) == {0: 2, 1: 2, 2: 2}


def test_none_mixes_rows_of_one_task_alone():
    batches = made("none", ["qa", "qa"], [10, 10])
    used = Counter(row for step in range(5) for row in batches.at(step)[2].tolist())
    assert used == dict.fromkeys(range(10), 2)  # a file that is listed twice is there twice
    with pytest.raises(UserError, match="inbatch: none mixes rows, so all have to be of one task"):
        made("none")


@pytest.mark.parametrize("mode", MODES)
def test_a_small_file_is_one_batch_or_an_error(mode):
    (epoch,) = epochs(made(mode, ["qa", "tool"], [3, 400]), 1)
    assert all(sorted(rows) == [0, 1, 2] for file, rows in epoch if file == 0)
    assert mode == "random" or Counter(file for file, _ in epoch) == {0: 1, 1: 100}
    with pytest.raises(UserError, match="train: qa has 3 rows, fewer than the 4 of a batch"):
        made(mode, ["qa", "tool"], [3, 400], small="error")


def test_a_file_without_rows_gives_no_batch():
    assert made("epoch", ["qa", "tool"], [0, 8]).per_epoch == 2
