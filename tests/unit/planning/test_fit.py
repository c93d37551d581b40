"""The cheapest change that fits: laws over made-up memories, each against a search of all combinations."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.config import MethodConfig, TrainingConfig
from tunesmith.errors import ConfigError
from tunesmith.planning.fit import COSTS, METHOD_COSTS, Fit, as_flags, as_yaml, fit, parse_bytes
from tunesmith.planning.rehearse import Setup
from tunesmith.planning.shapes import known_config
from tunesmith.planning.terms import Memory
from tunesmith.resolve import options, resolve

SHAPE = known_config("smollm2-135m")
METHODS = ("full", "lora", "qlora")
LENGTH = 256


def setup_of(
    method: str, *, rows: int = 4, is_checkpointed: bool = False, optim: str = "adamw_torch"
) -> Setup:
    return Setup(
        config=SHAPE,
        method=MethodConfig(name=method),
        rows=rows,
        length_tokens=LENGTH,
        scored_tokens=rows * (LENGTH - 1),
        device="cpu",
        dtype="float32",
        is_checkpointed=is_checkpointed,
        optim=optim,
        evaluation_rows=8,
        answer_tokens=32,
    )


def memory(weights: int, optimizer: int, activations: int, evaluation: int) -> Memory:
    """Only four terms matter here."""
    return Memory(weights, 0, 0, 0, optimizer, activations, 0, 0, 0, evaluation, 0, 10, 1)


Costs = tuple[int, int, int, int, int, int]


def memory_by(costs: Costs) -> Callable[[Setup], Memory]:
    """Every change makes it smaller, by how much the numbers decide."""
    full, lora, qlora, states, row, evaluation = costs
    weights = {"full": full + lora + qlora, "lora": lora + qlora, "qlora": qlora}

    def memory_of(setup: Setup) -> Memory:
        activations = setup.rows * setup.length_tokens * row // (4 if setup.is_checkpointed else 1)
        eighth = 4 if setup.optim == "adamw_8bit" else 1
        return memory(
            weights[setup.method.name], states // eighth, activations, evaluation * setup.evaluation_rows
        )

    return memory_of


numbers = st.integers(0, 1000)
costs_drawn = st.tuples(numbers, numbers, numbers, st.integers(0, 4000), st.integers(0, 4), numbers)


def all_ways(asked: str, training: TrainingConfig) -> list[Setup]:
    """Every combination in order of cost: what stands first in the product costs most."""
    rows = training.per_device_train_batch_size
    window = rows * training.gradient_accumulation_steps
    counts = [count for count in range(rows, 0, -1) if window % count == 0]
    methods = METHODS[METHODS.index(asked) :]
    axes = itertools.product(methods, ("adamw_torch", "adamw_8bit"), counts, (False, True), (8, 4, 2, 1))
    return [
        replace(
            setup_of(method, rows=count, optim=optim, is_checkpointed=is_checkpointed),
            evaluation_rows=evaluation_rows,
        )
        for method, optim, count, is_checkpointed, evaluation_rows in axes
    ]


def fitted(costs: Costs, limit: int, *, asked: str, training: TrainingConfig) -> Fit:
    rows = training.per_device_train_batch_size
    return fit(
        setup_of(asked, rows=rows),
        limit_bytes=limit,
        training=training,
        memory_of=memory_by(costs),
        others=[setup_of(method, rows=rows) for method in METHODS],
    )


trainings = st.builds(
    lambda rows, more: TrainingConfig(per_device_train_batch_size=rows, gradient_accumulation_steps=more),
    st.integers(1, 8),
    st.integers(1, 6),
)


@given(costs_drawn, st.integers(1, 12_000), st.sampled_from(METHODS), trainings)
def test_the_proposal_is_the_cheapest_of_all_that_fit(
    costs: Costs, limit: int, asked: str, training: TrainingConfig
) -> None:
    memory_of = memory_by(costs)
    found = fitted(costs, limit, asked=asked, training=training)
    ways = all_ways(asked, training)
    expected = next((way for way in ways if memory_of(way).peak_bytes <= limit), None)
    assert (found.proposal.setup if found.proposal else None) == expected
    if found.proposal:
        assert found.proposal.memory == memory_of(found.proposal.setup)
    assert found.smallest.memory.peak_bytes == min(memory_of(way).peak_bytes for way in ways)


@given(costs_drawn, st.integers(1, 12_000), st.sampled_from(METHODS), trainings)
def test_shorter_rows_are_proposed_only_where_the_method_cannot_stay(
    costs: Costs, limit: int, asked: str, training: TrainingConfig
) -> None:
    found = fitted(costs, limit, asked=asked, training=training)
    if found.proposal and found.proposal.setup.method.name == asked:
        assert found.shorter is None
    if found.shorter:
        setup = found.shorter.setup
        assert setup.method.name == asked
        assert found.shorter.changes["data.max_length"] == setup.length_tokens < LENGTH
        assert found.shorter.memory.peak_bytes <= limit
        doubled = replace(
            setup,
            rows=1,
            optim="adamw_8bit",
            is_checkpointed=True,
            evaluation_rows=1,
            length_tokens=2 * setup.length_tokens,
        )
        assert memory_by(costs)(doubled).peak_bytes > limit


@given(costs_drawn, st.sampled_from(METHODS), trainings)
def test_nothing_changes_where_it_fits_already(costs: Costs, asked: str, training: TrainingConfig) -> None:
    asked_peak = memory_by(costs)(setup_of(asked, rows=training.per_device_train_batch_size)).peak_bytes
    found = fitted(costs, asked_peak, asked=asked, training=training)
    assert found.proposal is not None
    assert (found.proposal.changes, found.proposal.costs) == ({}, ())


@given(costs_drawn, st.integers(1, 12_000), st.sampled_from(METHODS), trainings)
def test_the_changes_are_a_configuration_of_the_same_step(
    costs: Costs, limit: int, asked: str, training: TrainingConfig
) -> None:
    found = fitted(costs, limit, asked=asked, training=training)
    if found.proposal is None:
        return
    changes = found.proposal.changes
    section = training.model_copy(
        update={key.partition(".")[2]: value for key, value in changes.items() if key.startswith("training")}
    )
    rows = [one.per_device_train_batch_size * one.gradient_accumulation_steps for one in (section, training)]
    assert rows[0] == rows[1]
    words = as_flags(changes).split()
    flags = dict(zip([word.removeprefix("--") for word in words[::2]], words[1::2], strict=True))
    config = resolve(None, {"data": "rows.jsonl", "method": asked} | flags).config
    assert config.method.name == found.proposal.setup.method.name
    if found.proposal.setup.is_checkpointed:
        assert config.training.gradient_checkpointing == "always"


def test_each_setup_is_rehearsed_once() -> None:
    seen: list[Setup] = []

    def memory_of(setup: Setup) -> Memory:
        seen.append(setup)
        return memory_by((9, 9, 9, 9, 9, 9))(setup)

    fit(
        setup_of("full"),
        limit_bytes=1,
        training=TrainingConfig(per_device_train_batch_size=4),
        memory_of=memory_of,
        others=[setup_of(method) for method in METHODS],
    )
    assert len(seen) == len({str(setup) for setup in seen}) > 3


def test_where_nothing_fits_the_smallest_is_named() -> None:
    found = fitted((0, 0, 10, 0, 1, 0), 70, asked="lora", training=TrainingConfig())
    assert (found.proposal, found.shorter is None) == (None, False)
    assert found.smallest.memory.peak_bytes == 10 + LENGTH // 4
    found = fitted((0, 0, 10, 0, 1, 0), 5, asked="lora", training=TrainingConfig())
    assert (found.proposal, found.shorter) == (None, None)


def test_the_largest_micro_batch_comes_from_the_data_where_they_are_known() -> None:
    asked = fit(
        setup_of("lora"),
        limit_bytes=6 * 100,
        training=TrainingConfig(per_device_train_batch_size=4),
        memory_of=lambda setup: memory(0, 0, setup.rows * setup.length_tokens, 0),
        batch_of=lambda rows: (rows, {4: 256, 2: 300, 1: 400}[rows], rows),
    )
    assert asked.proposal is not None
    assert asked.proposal.setup.rows == 2
    assert asked.proposal.setup.length_tokens == 300


def test_where_nothing_is_evaluated_the_evaluation_is_not_changed() -> None:
    found = fit(
        replace(setup_of("lora"), evaluation_rows=0),
        limit_bytes=LENGTH,
        training=TrainingConfig(per_device_train_batch_size=4),
        memory_of=memory_by((0, 0, 0, 0, 1, 1)),
    )
    assert found.proposal is not None
    assert found.proposal.changes == {"training.gradient_checkpointing": "always"}
    assert found.smallest.setup.evaluation_rows == 0


def test_every_change_has_a_cost_and_every_key_is_an_option() -> None:
    keys = {option.key for option in options()}
    assert set(COSTS) <= keys
    assert set(METHOD_COSTS) <= set(METHODS)


def test_changes_as_yaml_and_as_flags() -> None:
    changes: dict[str, str | int] = {
        "method.name": "qlora",
        "training.per_device_train_batch_size": 1,
        "training.gradient_accumulation_steps": 16,
    }
    assert as_yaml(changes) == (
        "method:\n  name: qlora\n"
        "training:\n  per_device_train_batch_size: 1\n  gradient_accumulation_steps: 16"
    )
    assert as_flags(changes) == (
        "--method qlora --per-device-train-batch-size 1 --gradient-accumulation-steps 16"
    )


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("8GB", 8 * 10**9),
        ("8 gb", 8 * 10**9),
        ("7.5GiB", 15 * 2**29),
        ("900MB", 900 * 10**6),
        ("512MiB", 2**29),
        ("24G", 24 * 10**9),
        ("1TB", 10**12),
    ],
)
def test_amounts_of_memory(text: str, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize("text", ["8", "GB", "-8GB", "8XB", "", "0GB", "8GBB", "0.0000000001GB", "8iB"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no amount of memory") as refused:
        parse_bytes(text)
    assert "8GB" in refused.value.hint
