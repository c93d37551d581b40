"""Runs made of numbers: healthy shapes and sick ones, each drawn anew from its generator."""

from dataclasses import replace

import numpy as np

from tunesmith.doctor.signs import Curve, Signs

RATE = 2e-4
LENGTHS = (15, 20, 40, 60, 100, 250, 1000)


def length(random):
    return int(random.choice(LENGTHS))


def curve(values, *, steps=None):
    values = np.asarray(values, dtype=np.float64)
    steps = np.arange(1, len(values) + 1) if steps is None else np.asarray(steps)
    return Curve(steps.astype(np.float64), values)


def schedule(count, *, kind="cosine", peak=RATE, warmup=0.05):
    """Rates of steps 1 to `count`."""
    first = round(warmup * count)
    up = peak * np.arange(1, first + 1) / (first + 1)
    done = np.arange(count - first) / max(1, count - first)
    down = {"cosine": 0.5 * (1 + np.cos(np.pi * done)), "linear": 1 - done, "constant": np.ones_like(done)}
    return np.concatenate([up, peak * down[kind]])


def noisy(random, levels, noise):
    """Levels with log-normal noise: `noise` is the relative size of one standard deviation."""
    return np.asarray(levels) * np.exp(random.normal(0, noise, len(levels)))


def falling(count, *, start, end, speed):
    """An exponential fall; `speed` is how many times the run is longer than the fall."""
    return end + (start - end) * np.exp(-speed * np.arange(count) / count)


def run(losses, *, rates=None, validation=None, method="lora", status="succeeded", epochs=3.0, **others):
    """A run of ours; `validation` is (steps, losses)."""
    count = len(losses)
    rates = schedule(count) if rates is None else rates
    curves = {"loss": curve(losses), "learning_rate": curve(rates)}
    if validation is not None:
        curves["eval_loss"] = curve(validation[1], steps=validation[0])
    settings = {
        "training.learning_rate": float(max(rates)),
        "training.num_train_epochs": epochs,
        "training.warmup_ratio": 0.05,
        "training.per_device_train_batch_size": 4,
        "training.gradient_accumulation_steps": 4,
        "training.early_stopping_patience": 0,
        "method.name": method,
    }
    known = {"total_steps": count, "steps_per_epoch": count / epochs} | others
    return Signs("made", "run", curves, settings | known.pop("settings", {}), status=status, **known)


def foreign(signs):
    """The same as another program's log tells it: no settings but the rates that were logged."""
    return replace(signs, kind="trainer_state", settings={}, status="", data={}, facts={})


def quarters(count, random, levels, *, noise=0.01, is_from_base=True):
    """(steps, losses) of validations at the quarters of a run, whose training losses lie on `levels`."""
    steps = np.unique(np.ceil(np.arange(0 if is_from_base else 1, 5) * count / 4)).astype(int)
    return steps, noisy(random, [levels[max(0, step - 1)] for step in steps], noise)


def seen_so_far(signs, step):
    """The run while it goes on, after `step`."""
    cut = {
        name: Curve(each.steps[each.steps <= step], each.values[each.steps <= step])
        for name, each in signs.curves.items()
    }
    return replace(signs, curves=cut, status="running")


# Healthy shapes.


def fast_then_flat(random):
    levels = falling(length(random), start=random.uniform(2, 4), end=random.uniform(0.05, 1.5), speed=40)
    return run(noisy(random, levels, 0.1), validation=quarters(len(levels), random, levels))


def slow_and_steady(random):
    start = random.uniform(1.5, 3)
    levels = np.linspace(start, start * random.uniform(0.6, 0.85), length(random))
    return run(noisy(random, levels, 0.06), validation=quarters(len(levels), random, levels))


def noisy_small_batches(random):
    levels = falling(length(random), start=random.uniform(1.5, 3), end=random.uniform(0.3, 1), speed=4)
    settings = {"training.per_device_train_batch_size": 1, "training.gradient_accumulation_steps": 2}
    return run(noisy(random, levels, 0.3), settings=settings)


def heavy_tails(random):
    """Rows of unlike kinds: now and then one that is three times as hard."""
    levels = falling(length(random), start=2.5, end=1, speed=3)
    hard = np.where(random.random(len(levels)) < 0.04, 2.0, 1.0)
    return run(noisy(random, levels, 0.15) * hard)


def good_already(random):
    level = random.uniform(0.02, 0.2)
    levels = np.full(length(random), level)
    return run(noisy(random, levels, 0.25), validation=quarters(len(levels), random, levels, noise=0.02))


def any_schedule(random):
    levels = falling(length(random), start=2.3, end=random.uniform(0.4, 1.2), speed=random.uniform(3, 8))
    kind = str(random.choice(["constant", "linear", "cosine"]))
    rates = schedule(len(levels), kind=kind, warmup=float(random.choice([0, 0.03, 0.1])))
    return run(noisy(random, levels, 0.12), rates=rates)


def small_rise_of_validation(random):
    count = length(random)
    levels = falling(count, start=2.4, end=0.9, speed=8)
    steps = np.unique(np.linspace(0, count, 9).astype(int))
    losses = falling(len(steps), start=2.4, end=1.0, speed=16)
    best = len(steps) // 2
    losses[best:] = losses[best] * np.linspace(1, 1 + random.uniform(0.005, 0.025), len(steps) - best)
    return run(noisy(random, levels, 0.1), validation=(steps, noisy(random, losses, 0.003)))


def one_odd_row(random):
    epochs = 3
    levels = noisy(random, falling(60, start=2, end=0.8, speed=5), 0.08)
    levels[[random.integers(20 * epoch, 20 * epoch + 20) for epoch in range(epochs)]] *= 4
    return run(levels, epochs=epochs)


def stopped_early(random):
    levels = falling(60, start=2.5, end=0.2, speed=5)
    steps, losses = (0, 15, 30, 45, 60), (2.5, 1.4, 1.5, 1.7, 1.9)
    facts = {"training": {"is_early_stop": True}}
    validation = (steps, noisy(random, losses, 0.01))
    rates = schedule(100)[:60]
    return run(noisy(random, levels, 0.1), rates=rates, validation=validation, facts=facts, total_steps=100)


def stairs_of_epochs(random):
    epochs, each = 4, int(random.choice([10, 25, 60]))
    levels = np.repeat(2.0 * 0.62 ** np.arange(epochs), each) * np.tile(np.linspace(1, 1.06, each), epochs)
    return run(noisy(random, levels, 0.08), epochs=epochs)


def gentle_full(random):
    levels = falling(length(random), start=2.2, end=1.7, speed=3)
    rates = schedule(len(levels), peak=float(random.choice([5e-6, 2e-5, 5e-5])))
    return run(noisy(random, levels, 0.05), rates=rates, method="full")


def long_run(random):
    levels = falling(20_000, start=2.6, end=1.1, speed=6)
    return run(noisy(random, levels, 0.25))


def sparse_log(random):
    """A Trainer that logs means over ten steps."""
    count = int(random.choice([150, 400, 1000]))
    losses = noisy(random, falling(count, start=2.5, end=0.8, speed=6), 0.2).reshape(-1, 10).mean(axis=1)
    steps = np.arange(10, count + 1, 10)
    rates = schedule(count, kind="linear")[9::10]
    curves = {"loss": curve(losses, steps=steps), "learning_rate": curve(rates, steps=steps)}
    return Signs("made", "trainer_state", curves, total_steps=count, steps_per_epoch=count / 3)


HEALTHY = [
    fast_then_flat,
    slow_and_steady,
    noisy_small_batches,
    heavy_tails,
    good_already,
    any_schedule,
    small_rise_of_validation,
    one_odd_row,
    stopped_early,
    stairs_of_epochs,
    gentle_full,
    sparse_log,
]


# Sick shapes.


def rate_too_low(random):
    count = length(random)
    start = random.uniform(1.2, 3.5)
    method, rate = [("lora", 1e-6), ("lora", 1e-8), ("full", 1e-7), ("prefix", 1e-6)][random.integers(4)]
    levels = np.linspace(start, start * (1 - random.uniform(0, 0.03)), count)
    validation = quarters(count, random, levels, noise=0.0005) if random.random() < 0.5 else None
    rates = schedule(count, peak=rate)
    return run(noisy(random, levels, 0.1), rates=rates, method=method, validation=validation)


def nothing_scored(random):
    return foreign(run(np.zeros(length(random))))


def frozen(random):
    levels = np.full(length(random), random.uniform(1.2, 3))
    signs = run(noisy(random, levels, 0.15), validation=quarters(len(levels), random, levels, noise=0))
    return foreign(signs)


def no_gradient(random):
    levels = np.full(length(random), random.uniform(1.2, 3))
    signs = run(noisy(random, levels, 0.15))
    return replace(signs, curves={**signs.curves, "grad_norm": curve(np.zeros(len(levels)))})


def diverging(random):
    count = length(random)
    at = int(count * random.uniform(0.2, 0.6))
    low = random.uniform(0.8, 1.5)
    levels = np.concatenate(
        [falling(at, start=2.5, end=low, speed=3), np.full(count - at, random.uniform(4, 9))]
    )
    return run(noisy(random, levels, 0.1), rates=schedule(count, peak=1e-2, kind="constant"))


def collapsing_from_the_start(random):
    count = length(random)
    levels = random.uniform(4, 8) + 3 * np.exp(-5 * np.arange(count) / count)
    levels[0] = 2.2
    return run(noisy(random, levels, 0.08), rates=schedule(count, peak=6e-2, warmup=0))


def hump_of_a_short_warmup(random):
    count = int(random.choice([40, 60, 100, 250]))
    levels = falling(count, start=2.5, end=1, speed=4)
    at = np.arange(count) / count
    levels += random.uniform(2, 5) * np.exp(-(((at - 0.08) / 0.04) ** 2))
    levels[0] = 2.5
    return run(noisy(random, levels, 0.08))


def spikes_that_return(random):
    count = int(random.choice([60, 100, 250]))
    levels = falling(count, start=2.5, end=1.2, speed=3)
    for at in random.choice(np.arange(10, count - 10, 9), 4, replace=False):
        levels[at : at + 4] *= np.array([3, 2.2, 1.8, 1.5])
    return run(noisy(random, levels, 0.06), epochs=1.0)


def learned_by_heart(random):
    count = int(random.choice([40, 100, 250]))
    levels = falling(count, start=2.5, end=0.05, speed=5)
    steps = np.linspace(0, count, int(random.choice([5, 9, 21]))).astype(int)
    at = steps / count
    losses = 1.2 + 1.3 * np.exp(-12 * at) + random.uniform(0.5, 2) * np.maximum(0, at - 0.3)
    return run(noisy(random, levels, 0.1), validation=(steps, noisy(random, losses, 0.01)), epochs=30.0)


def schedule_too_short(random):
    count = int(random.choice([15, 40, 100, 250]))
    levels = falling(count, start=2.5, end=1, speed=5)
    short = int(count * random.uniform(0.3, 0.8))
    rates = np.concatenate([schedule(short, kind="linear"), np.zeros(count - short)])
    return foreign(run(noisy(random, levels, 0.1), rates=rates))


def waiting(random):
    signs = run(noisy(random, falling(40, start=2.5, end=1, speed=5), 0.1))
    share = np.clip(random.normal(random.uniform(0.4, 0.9), 0.1, 40), 0, 1)
    return replace(signs, curves={**signs.curves, "input_share": curve(share)})


def no_number(random):
    count = length(random)
    losses = noisy(random, falling(count, start=2.5, end=1, speed=5), 0.1)
    losses[random.integers(1, count) :] = np.nan
    return foreign(run(losses))


SICK = [
    (rate_too_low, "loss_not_decreasing"),
    (nothing_scored, "loss_not_decreasing"),
    (frozen, "loss_not_decreasing"),
    (no_gradient, "loss_not_decreasing"),
    (diverging, "loss_unstable"),
    (collapsing_from_the_start, "loss_unstable"),
    (hump_of_a_short_warmup, "loss_unstable"),
    (spikes_that_return, "loss_unstable"),
    (learned_by_heart, "overfitting"),
    (schedule_too_short, "schedule_ends_early"),
    (waiting, "slow_input"),
    (no_number, "non_finite"),
]
