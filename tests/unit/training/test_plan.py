from hypothesis import given
from hypothesis import strategies as st

from tunesmith.config import TrainingConfig
from tunesmith.training.schedule import Plan, plan_steps

SETTINGS = st.fixed_dictionaries(
    {
        "num_train_epochs": st.floats(0.01, 20),
        "per_device_train_batch_size": st.integers(1, 9),
        "gradient_accumulation_steps": st.integers(1, 9),
        "warmup_ratio": st.floats(0, 0.99),
    },
    optional={"max_steps": st.integers(1, 500), "eval_steps": st.integers(1, 50)},
)


@given(SETTINGS, st.integers(1, 500))
def test_plan_covers_the_rows_and_looks_up_about_four_times(settings, rows):
    chosen = TrainingConfig(**settings)
    plan = plan_steps(chosen, rows=rows)
    window = chosen.per_device_train_batch_size * chosen.gradient_accumulation_steps
    assert (plan.steps_per_epoch - 1) * window < rows <= plan.steps_per_epoch * window
    assert plan.total_steps >= 1
    if chosen.max_steps:
        assert plan.total_steps == chosen.max_steps
    else:
        asked = chosen.num_train_epochs * plan.steps_per_epoch
        assert asked <= plan.total_steps < asked + 1
    assert 0 <= plan.warmup_steps <= plan.total_steps
    assert plan.save_every == plan.eval_every
    if chosen.eval_steps:
        assert plan.eval_every == chosen.eval_steps
    else:
        assert 1 <= plan.eval_every <= plan.total_steps
        assert plan.total_steps / plan.eval_every <= 4


def test_plan_of_a_run_by_hand():
    settings = TrainingConfig(num_train_epochs=2.5, save_steps=7, warmup_ratio=0.1)
    assert plan_steps(settings, rows=161) == Plan(
        window_rows=16, total_steps=28, steps_per_epoch=11, warmup_steps=3, eval_every=7, save_every=7
    )
