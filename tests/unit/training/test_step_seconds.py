"""What a step's line says of its time: the whole, and what of it went into rows becoming micro-batches."""

import time
from dataclasses import replace

import pytest

from tiny_run import of, random_rows, train


class SlowIds(tuple):
    """Token ids that take a while each time somebody asks how many they are."""

    def __len__(self):
        time.sleep(0.002)
        return super().__len__()


def test_input_is_a_part_of_the_step_and_the_speed_follows_from_its_seconds(tmp_path):
    rows = random_rows(8)
    _, lines, trained = train(tmp_path, rows=rows, num_train_epochs=1)
    steps, inputs = of(lines, "step_seconds"), of(lines, "input_seconds")
    assert len(steps) == len(inputs) == trained.steps == 2
    assert all(0 < waited < whole for waited, whole in zip(inputs, steps, strict=True))
    assert sum(steps) == pytest.approx(trained.seconds)
    tokens = sum(rate * seconds for rate, seconds in zip(of(lines, "tokens_per_second"), steps, strict=True))
    assert tokens == pytest.approx(sum(len(row.ids) for row in rows)) == trained.tokens


def test_slow_rows_show_as_waiting(tmp_path):
    def waiting(rows, name):
        _, lines, _ = train(tmp_path / name, rows=rows, num_train_epochs=4)
        return sum(of(lines, "input_seconds")) / sum(of(lines, "step_seconds"))

    rows = random_rows(8)
    slow = [replace(row, ids=SlowIds(row.ids)) for row in rows]
    assert waiting(rows, "quick") < 0.25 < waiting(slow, "slow")
