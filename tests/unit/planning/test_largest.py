"""The largest micro-batch against all that the loop's own functions give."""

from math import ceil

from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_run import random_rows
from tunesmith.config import TrainingConfig
from tunesmith.data.batches import micro_batches, windows
from tunesmith.planning.largest import largest_batch
from tunesmith.training.loop import plan_steps


def by_force(rows, training, *, is_packed):
    """Every micro-batch of every window of every epoch: tokens and scored tokens."""
    plan = plan_steps(training, rows=len(rows), processes=1)
    size = training.per_device_train_batch_size * training.gradient_accumulation_steps
    met = []
    for epoch in range(ceil(plan.total_steps / plan.steps_per_epoch)):
        met += windows(rows, window_rows=size, seed=training.seed, epoch=epoch)
    found = []
    for window in met[: plan.total_steps]:
        at_once = training.per_device_train_batch_size
        for batch in micro_batches(window, micro_batch_rows=at_once, pad_id=0, is_packed=is_packed):
            found.append((len(batch.rows), batch.input_ids_BT.numel(), int(batch.predicts_BT.sum())))
    return found


@settings(deadline=None, max_examples=50)
@given(
    count=st.integers(1, 40),
    micro=st.integers(1, 5),
    accumulation=st.integers(1, 4),
    epochs=st.floats(0.1, 3.5),
    steps=st.none() | st.integers(1, 12),
    seed=st.integers(0, 99),
    is_packed=st.booleans(),
)
def test_it_is_the_largest_of_all_that_the_loop_will_meet(
    count, micro, accumulation, epochs, steps, seed, is_packed
):
    training = TrainingConfig(
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=epochs,
        max_steps=steps,
        seed=seed,
    )
    rows = random_rows(count, seed=seed)
    count, length, scored = largest_batch(rows, settings=training, is_packed=is_packed)
    met = by_force(rows, training, is_packed=is_packed)
    most = max(tokens for _, tokens, _ in met)
    # Packed rows are told by their mean length, which is rounded up.
    assert most <= count * length < most + (count if is_packed else 1)
    assert scored == max(scored for *_, scored in met)
    assert not is_packed or count in [rows for rows, *_ in met]
