"""Time is operations over rate; a workload is what the loop will really cut."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_run import random_rows
from tunesmith.config import MethodConfig, RunConfig
from tunesmith.data.batches import micro_batches, windows
from tunesmith.planning.rate import EFFICIENCY, Duration, duration, matrix_rate
from tunesmith.planning.rehearse import Setup
from tunesmith.planning.shapes import known_config
from tunesmith.planning.terms import Memory
from tunesmith.planning.workload import assumed_workload, padded_tokens, workload_of

SHAPE = known_config("smollm2-135m")
MEMORY = Memory(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6_000, 10, 1)


def setup(device: str = "cpu") -> Setup:
    method = MethodConfig(name="lora")
    return Setup(SHAPE, method, 4, 1024, 4 * 1023, device, "float32", False, "adamw_torch", 16, 256)


def config_with(**training: object) -> RunConfig:
    return RunConfig.model_validate({"data": {"path": "rows.jsonl"}, "training": training})


shapes_of_steps = st.tuples(st.integers(1, 30), st.integers(1, 5), st.integers(1, 4))


@given(shapes_of_steps, st.booleans())
def test_padded_tokens_are_those_of_the_micro_batches(numbers: tuple[int, int, int], is_packed: bool) -> None:
    count, at_once, more = numbers
    rows = random_rows(count)
    training = config_with(per_device_train_batch_size=at_once, gradient_accumulation_steps=more).training
    by_loop = sum(
        batch.input_ids_BT.numel()
        for window in windows(rows, window_rows=at_once * more, seed=training.seed, epoch=0)
        for batch in micro_batches(window, micro_batch_rows=at_once, pad_id=0, is_packed=is_packed)
    )
    assert padded_tokens(rows, settings=training, is_packed=is_packed) == by_loop


@given(shapes_of_steps)
def test_no_step_of_the_data_takes_more_than_is_assumed_without_them(numbers: tuple[int, int, int]) -> None:
    count, at_once, more = numbers
    config = config_with(per_device_train_batch_size=at_once, gradient_accumulation_steps=more)
    assumed = assumed_workload(config, device="cpu")
    known = workload_of(random_rows(count), config, has_validation=True, has_test=True, device="cpu")
    (rows, length, scored), (most_rows, longest, most_scored) = (
        known.batch_of(at_once),
        assumed.batch_of(at_once),
    )
    assert rows * length <= most_rows * longest
    assert scored <= most_scored
    assert known.padded_tokens_per_step <= assumed.padded_tokens_per_step
    assert (known.evaluation_rows, known.answer_tokens) == (16, 256)


def test_steps_are_known_from_data_or_from_the_configuration() -> None:
    rows = random_rows(10)
    config = config_with(per_device_train_batch_size=2, gradient_accumulation_steps=2, num_train_epochs=2)
    assert workload_of(rows, config, has_validation=False, has_test=False, device="cpu").steps == 6
    assert assumed_workload(config, device="cpu").steps is None
    assert assumed_workload(config_with(max_steps=7), device="cpu").steps == 7


def test_nothing_is_evaluated_where_nothing_is_held_out_or_answered() -> None:
    config = config_with()
    held = workload_of(random_rows(3), config, has_validation=False, has_test=False, device="cpu")
    assert (held.evaluation_rows, held.answer_tokens) == (0, 0)
    validated = workload_of(random_rows(3), config, has_validation=True, has_test=False, device="cpu")
    assert (validated.evaluation_rows, validated.answer_tokens) == (16, 0)
    silent = RunConfig.model_validate({"data": {"path": "x"}, "evaluation": {"generate_rows": 0}})
    assert assumed_workload(silent, device="cpu").answer_tokens == 0
    short = RunConfig.model_validate({"data": {"path": "x"}, "evaluation": {"max_new_tokens": 9}})
    assert assumed_workload(short, device="cpu").answer_tokens == 9


def test_time_is_operations_over_rate_in_proportion_to_tokens() -> None:
    workload = assumed_workload(config_with(max_steps=10), device="cpu")
    lasting = duration(setup(), MEMORY, workload, rate=1000.0, seconds_per_micro_batch=None)
    micro_batch = 6_000 / (1000.0 * EFFICIENCY["cpu"])
    assert lasting == Duration(4 * micro_batch, 10, False)
    assert lasting.seconds == 40 * micro_batch
    half = replace(workload, padded_tokens_per_step=workload.padded_tokens_per_step / 2, steps=None)
    shorter = duration(setup(), MEMORY, half, rate=1000.0, seconds_per_micro_batch=None)
    assert shorter == Duration(2 * micro_batch, None, False)
    assert shorter.seconds is None


def test_a_measured_micro_batch_goes_before_the_rate() -> None:
    workload = assumed_workload(config_with(max_steps=10), device="cpu")
    lasting = duration(setup("cuda"), MEMORY, workload, rate=1.0, seconds_per_micro_batch=2.0)
    assert lasting == Duration(8.0, 10, True)


@pytest.mark.parametrize(("device", "rate"), [("cpu", None), ("cuda", 1e12), ("mps", 1e12)])
def test_no_time_is_told_where_nothing_was_measured(device: str, rate: float | None) -> None:
    workload = assumed_workload(config_with(max_steps=10), device="cpu")
    assert duration(setup(device), MEMORY, workload, rate=rate, seconds_per_micro_batch=None) is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_matrix_rate_is_one_of_a_machine(dtype: str) -> None:
    # From a slow core to a large accelerator.
    assert 1e7 < matrix_rate(SHAPE, tokens=64, device="cpu", dtype=dtype) < 1e17
