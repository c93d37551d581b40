"""The largest micro-batch against all that the loop's own functions give."""

from math import ceil

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_run import random_rows
from tunesmith.config import TrainingConfig
from tunesmith.data.batches import micro_batches, windows
from tunesmith.planning.largest import largest_batch
from tunesmith.training.loop import plan_steps


def by_force(rows, training):
    """Every micro-batch of every window of every epoch."""
    plan = plan_steps(training, rows=len(rows), processes=1)
    size = training.per_device_train_batch_size * training.gradient_accumulation_steps
    met = []
    for epoch in range(ceil(plan.total_steps / plan.steps_per_epoch)):
        met += windows(rows, window_rows=size, seed=training.seed, epoch=epoch)
    found = []
    for window in met[: plan.total_steps]:
        for batch in micro_batches(window, micro_batch_rows=training.per_device_train_batch_size, pad_id=0):
            found.append((*batch.input_ids_BT.shape, int(batch.predicts_BT.sum())))
    return found


@settings(deadline=None, max_examples=50)
@given(
    count=st.integers(1, 40),
    micro=st.integers(1, 5),
    accumulation=st.integers(1, 4),
    epochs=st.floats(0.1, 3.5),
    steps=st.none() | st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_it_is_the_largest_of_all_that_the_loop_will_meet(count, micro, accumulation, epochs, steps, seed):
    training = TrainingConfig(
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=epochs,
        max_steps=steps,
        seed=seed,
    )
    rows = random_rows(count, seed=seed)
    found, met = largest_batch(rows, settings=training), by_force(rows, training)
    assert found in met
    assert found[0] * found[1] == max(np.prod(size[:2]) for size in met)
    assert found[2] == max(size[2] for size in met if size[0] * size[1] == found[0] * found[1])
