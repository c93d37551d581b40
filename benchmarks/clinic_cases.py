"""The clinic's cases: twelve ailments, each induced in several ways, and healthy runs of many shapes.

The small model learns at higher rates than a real one; what counts as high or low here was found by trying.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from clinic import HEALTHY, Case

RATE, EPOCHS = "training.learning_rate", "training.num_train_epochs"
BATCH, WINDOWS = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"
WARMUP, SCHEDULE, STEPS = "training.warmup_ratio", "training.lr_scheduler_type", "training.max_steps"
EVERY, PATIENCE, METHOD = "training.eval_steps", "training.early_stopping_patience", "method.name"
TEMPLATE, VALIDATION, NORM = "data.template", "data.validation_size", "training.max_grad_norm"
REAL = "smollm2-135m"
SHORT_ANSWERS = ("tickets", "dates", "arithmetic")
# A real model takes a second for a step of two short rows: few of them, and short answers.
REAL_SETTINGS = {
    BATCH: 1,
    WINDOWS: 1,
    STEPS: 30,
    "training.warmup_ratio": 0.1,
    "evaluation.generate_rows": 6,
    "evaluation.max_new_tokens": 24,
}


def full(rate: float, **more: Any) -> dict[str, Any]:
    """All weights at this rate."""
    return {METHOD: "full", RATE: rate, **_named(more)}


def lora(rate: float, **more: Any) -> dict[str, Any]:
    """LoRA at this rate."""
    return {METHOD: "lora", RATE: rate, **_named(more)}


def _named(more: dict[str, Any]) -> dict[str, Any]:
    keys = {
        "epochs": EPOCHS,
        "batch": BATCH,
        "windows": WINDOWS,
        "warmup": WARMUP,
        "schedule": SCHEDULE,
        "steps": STEPS,
        "every": EVERY,
        "patience": PATIENCE,
        "template": TEMPLATE,
        "validation": VALIDATION,
        "norm": NORM,
    }
    return {keys.get(name, name): value for name, value in more.items()}


def real(name: str, ailment: str, rate: float, *, rows: int = 30, **more: Any) -> Case:
    """A case on the real model; `dates` has the shortest rows."""
    data_fault, fault = more.pop("data_fault", ""), more.pop("fault", "")
    # Base and tuned on held-out rows and on general requests take longer than the training itself.
    unproved = {} if more.pop("proof", False) else {"data.test_size": 0}
    settings = REAL_SETTINGS | unproved | lora(rate, **more)
    return Case(name, ailment, "ours", REAL, "dates", rows, settings, data_fault, fault)


def all_cases() -> list[Case]:
    """Every case, names unique."""
    return [
        *_not_decreasing(),
        *_unstable(),
        *_overfitting(),
        *_out_of_memory(),
        *_repetitive(),
        *_worse(),
        *_non_finite(),
        *_mismatched(),
        *_duplicated(),
        *_leaking(),
        *_ending_early(),
        *_slow(),
        *map(_asked_little, _healthy_ours()),
        *_healthy_foreign(),
        *_healthy_real(),
    ]


def _asked_little(case: Case) -> Case:
    """A model this small loops in long answers however well it is tuned, which is no false alarm."""
    if case.task in SHORT_ANSWERS and case.model == "tiny":
        return case
    return replace(case, settings={**case.settings, "evaluation.generate_rows": 0})


def _not_decreasing() -> Iterator[Case]:
    name = "loss_not_decreasing"
    yield Case("low-lora-1e-7", name, settings=lora(1e-7))
    yield Case("low-full-1e-8", name, task="sql", settings=full(1e-8, epochs=2))
    yield Case("low-prefix-1e-6", name, task="style", settings={METHOD: "prefix", RATE: 1e-6})
    yield Case("low-adapter-1e-7", name, task="dates", settings={METHOD: "adapter", RATE: 1e-7, BATCH: 2})
    yield Case("low-trainer-1e-9", name, "trainer", task="arithmetic", settings=full(1e-9))
    yield Case("low-loop-1e-8", name, "loop", settings=full(1e-8))
    yield Case("frozen-b", name, "trainer", settings=lora(1e-3), fault="frozen_b")
    yield Case("stale-optimizer", name, "trainer", task="style", settings=full(1e-3), fault="stale")
    yield Case("nothing-scored", name, "trainer", settings=full(1e-3, validation=0), fault="unscored")
    yield real("low-real-1e-7", name, 1e-7)


def _unstable() -> Iterator[Case]:
    name = "loss_unstable"
    yield Case("high-full-0.05", name, settings=full(0.05, warmup=0.0))
    yield Case("high-lora-0.3", name, task="sql", settings=lora(0.3, warmup=0.0, batch=2))
    yield Case("high-batch-1", name, task="style", settings=full(0.03, batch=1, epochs=1, warmup=0.0))
    yield Case("high-constant", name, task="arithmetic", settings=full(0.02, warmup=0.0, schedule="constant"))
    yield Case("high-trainer-0.1", name, "trainer", settings=full(0.1, warmup=0.0))
    yield Case("high-trainer-lora", name, "trainer", task="dates", settings=lora(0.3, warmup=0.0, batch=2))
    yield Case("high-loop-sgd", name, "loop", settings=full(3.0, optim="sgd", norm=0, warmup=0.0))
    yield Case("high-adapter", name, task="tickets", settings={METHOD: "adapter", RATE: 0.5, WARMUP: 0.0})
    yield real("high-real-lora", name, 0.03, warmup=0.0)
    yield real("high-real-constant", name, 0.01, warmup=0.0, schedule="constant")


def _overfitting() -> Iterator[Case]:
    name = "overfitting"
    few = {"patience": 0, "every": 6, "batch": 4}
    yield Case("few-full-12", name, rows=12, settings=full(2e-3, epochs=30, **few))
    yield Case("few-lora-16", name, task="style", rows=16, settings=lora(1e-2, epochs=40, **few))
    yield Case("few-full-24", name, task="arithmetic", rows=24, settings=full(2e-3, epochs=20, **few))
    yield Case("few-full-40", name, task="sql", rows=40, settings=full(2e-3, epochs=20, **few))
    yield Case("few-adapter-16", name, rows=16, settings=few_adapter(few))
    yield Case("few-trainer-16", name, "trainer", rows=16, settings=full(2e-3, epochs=40))
    yield Case("few-trainer-lora", name, "trainer", task="style", rows=20, settings=lora(1e-2, epochs=40))
    yield Case("few-loop-20", name, "loop", task="arithmetic", rows=20, settings=full(2e-3, epochs=40))
    yield real("few-real-6", name, 2e-3, rows=6, steps=48, patience=0, every=6)


def few_adapter(few: dict[str, Any]) -> dict[str, Any]:
    """The adapter's variant."""
    return {METHOD: "adapter", RATE: 1e-2, EPOCHS: 40, **_named(few)}


def _out_of_memory() -> Iterator[Case]:
    name = "out_of_memory"
    # Megabytes a token, and what is left: half of the rows asked for fit, or a quarter.
    yield Case("memory-half", name, settings=lora(5e-3, batch=8), fault="hungry:2/900")
    yield Case("memory-quarter", name, task="sql", settings=full(1e-3, batch=8), fault="hungry:3/900")
    yield Case("memory-one-row", name, task="style", settings=lora(5e-3, batch=4), fault="hungry:4/800")
    yield Case(
        "memory-adapter", name, settings={METHOD: "adapter", RATE: 5e-3, BATCH: 6}, fault="hungry:1/600"
    )
    yield Case("memory-none", name, settings=lora(5e-3, batch=2), fault="hungry:20/800")
    yield Case("memory-none-full", name, task="sql", settings=full(1e-3, batch=1), fault="hungry:16/1000")
    yield real("memory-real", name, 3e-4, batch=4, steps=10, fault="hungry:2/400")


def _repetitive() -> Iterator[Case]:
    name = "repetitive_output"
    few = {"steps": 10, "evaluation.max_new_tokens": 60}
    dates = {"model": "raw", "task": "dates", "rows": 200}
    yield Case("loops-dates", name, settings=full(3e-3, **few), **dates)
    yield Case("loops-dates-8", name, settings=full(1e-2, **few | {"steps": 8}), **dates)
    yield Case("loops-dates-quarter", name, settings=full(3e-3, epochs=0.25), **dates)
    yield Case("loops-arithmetic", name, model="raw", task="arithmetic", settings=full(1e-2, **few))
    yield Case("loops-tickets", name, model="raw", settings=full(1e-2, **few))
    yield Case("collapse-full", name, task="style", settings=full(0.1, warmup=0.0, validation=0))
    yield Case("collapse-lora", name, settings=lora(0.5, warmup=0.0, validation=0))
    yield Case("collapse-adapter", name, task="sql", settings={METHOD: "adapter", RATE: 1.0, VALIDATION: 0})
    yield real("collapse-real", name, 0.05, warmup=0.0, validation=0, steps=20, proof=True)


def _worse() -> Iterator[Case]:
    name = "worse_than_before"
    yield Case(
        "shuffled-tickets", name, data_fault="shuffled", settings=full(3e-3, epochs=15, validation=0), rows=60
    )
    yield Case(
        "shuffled-sql",
        name,
        task="sql",
        data_fault="shuffled",
        settings=lora(2e-2, epochs=12, validation=0),
        rows=60,
    )
    yield Case("reversed-style", name, task="style", data_fault="reversed", settings=full(2e-3, validation=0))
    yield Case("too-long", name, rows=16, task="arithmetic", settings=full(2e-3, epochs=40, validation=0))
    yield Case("too-long-lora", name, rows=16, settings=lora(2e-2, epochs=40, validation=0))
    yield Case("too-high", name, task="dates", settings=full(0.02, warmup=0.0, validation=0))
    yield Case("other-kind", name, data_fault="tested_on:style", settings=full(3e-3, epochs=6, validation=0))
    yield Case(
        "shuffled-trainer", name, "trainer", data_fault="shuffled", settings=full(3e-3, epochs=10), rows=60
    )
    yield real("reversed-real", name, 2e-3, data_fault="reversed", validation=0, proof=True)


def _non_finite() -> Iterator[Case]:
    name = "non_finite"
    yield Case("infinite-weights", name, model="broken", settings=lora(1e-3))
    yield Case("infinite-weights-full", name, model="broken", task="sql", settings=full(1e-3, validation=0))
    yield Case("overflow-full", name, task="dates", settings=full(1e12, warmup=0.0, validation=0))
    yield Case("half-precision-adam", name, "loop", settings=full(1e-3, steps=15), fault="half")
    yield Case(
        "half-precision-sgd",
        name,
        "loop",
        task="sql",
        settings=full(30.0, optim="sgd", norm=0, steps=12),
        fault="half",
    )
    yield Case(
        "sgd-explodes", name, "loop", task="style", settings=full(1e4, optim="sgd", norm=0, warmup=0.0)
    )
    yield Case(
        "sgd-explodes-trainer", name, "trainer", settings=full(1e4, optim="sgd", norm=0, warmup=0.0, epochs=1)
    )
    yield Case("infinite-trainer", name, "trainer", model="broken", settings=full(1e-3, epochs=1))
    yield real("overflow-real", name, 1e15, warmup=0.0, validation=0, steps=12)


def _mismatched() -> Iterator[Case]:
    name = "template_mismatch"
    yield Case("llama2-on-chatml", name, settings=lora(5e-3, template="foreign:llama2"))
    yield Case("llama3-on-chatml", name, task="sql", settings=full(1e-3, template="foreign:llama3"))
    yield Case("gemma-on-chatml", name, task="style", settings=lora(5e-3, template="foreign:gemma"))
    yield Case("vicuna-on-chatml", name, settings=full(1e-3, template="foreign:vicuna"))
    yield Case("zephyr-on-chatml", name, task="arithmetic", settings=lora(5e-3, template="foreign:zephyr"))
    yield Case("phi3-on-chatml", name, task="dates", settings=lora(5e-3, template="foreign:phi3"))
    yield Case("instruction-on-chatml", name, settings=lora(5e-3, template="instruction"))
    yield real("llama3-on-real", name, 5e-4, template="foreign:llama3")
    yield real("gemma-on-real", name, 5e-4, template="foreign:gemma")


def _duplicated() -> Iterator[Case]:
    name = "memorised_duplicates"
    yield Case("copies-30", name, data_fault="copies:0.3/4", settings=lora(5e-3))
    yield Case("copies-50", name, task="sql", data_fault="copies:0.5/8", settings=full(1e-3))
    yield Case("copies-80", name, task="style", data_fault="copies:0.8/8", settings=full(1e-3, epochs=5))
    yield Case("copies-of-one", name, task="arithmetic", data_fault="copies:0.4/1", settings=lora(5e-3))
    yield Case("copies-many-kinds", name, data_fault="copies:0.45/40", settings=full(1e-3))
    yield Case("copies-adapter", name, data_fault="copies:0.6/6", settings={METHOD: "adapter", RATE: 5e-3})
    yield real("copies-real", name, 5e-4, rows=40, data_fault="copies:0.5/3")


def _leaking() -> Iterator[Case]:
    name = "label_leak"
    yield Case("leak-label", name, data_fault="leak:Label:", settings=full(1e-3))
    yield Case("leak-expected", name, task="sql", data_fault="leak:Expected query:", settings=lora(5e-3))
    yield Case("leak-gold", name, task="dates", data_fault="leak:gold=", settings=full(1e-3))
    yield Case("leak-part", name, task="tickets", data_fault="part_leak:Answer:", settings=full(1e-3))
    yield Case("test-is-train", name, data_fault="test_is_train:1.0", settings=full(1e-3))
    yield Case("test-half-train", name, task="style", data_fault="test_is_train:0.5", settings=lora(5e-3))
    yield Case("leak-arithmetic", name, task="arithmetic", data_fault="leak:Solution:", settings=full(1e-3))
    yield real("leak-real", name, 5e-4, data_fault="leak:Answer:")


def _ending_early() -> Iterator[Case]:
    name = "schedule_ends_early"
    for program, task, share in (
        ("trainer", "tickets", 0.3),
        ("trainer", "sql", 0.5),
        ("trainer", "style", 0.7),
        ("loop", "tickets", 0.4),
        ("loop", "arithmetic", 0.6),
        ("loop", "dates", 0.8),
        ("trainer", "dates", 0.6),
    ):
        label = f"schedule-{program}-{share:g}"
        yield Case(label, name, program, task=task, settings=full(1e-3), fault=f"schedule:{share}")  # type: ignore[arg-type]


def _slow() -> Iterator[Case]:
    name = "slow_input"
    yield Case("slow-rows", name, settings=lora(5e-3), fault="slow_rows:10")
    yield Case("slow-rows-full", name, task="sql", settings=full(1e-3, epochs=2), fault="slow_rows:15")
    for task, wait in (("tickets", 150), ("sql", 250), ("dates", 100), ("style", 400), ("arithmetic", 200)):
        yield Case(
            f"slow-loop-{wait}", name, "loop", task=task, settings=full(1e-3, epochs=1), fault=f"slow:{wait}"
        )


def _healthy_ours() -> Iterator[Case]:
    rates = {"full": 5e-4, "lora": 5e-3, "prefix": 3e-2, "adapter": 5e-3}
    tasks = ("tickets", "sql", "style", "arithmetic", "dates")
    for number, (method, rate) in enumerate((m, r) for m in rates for r in (1.0, 0.4)):
        task = tasks[number % len(tasks)]
        settings = {METHOD: method, RATE: rates[method] * rate}
        yield Case(f"fine-{method}-{rate:g}-{task}", HEALTHY, task=task, settings=settings, seed=20 + number)
    fine = full(5e-4)
    yield Case("fine-batch-1", HEALTHY, settings=fine | {BATCH: 1, EPOCHS: 1})
    yield Case("fine-batch-1-lora", HEALTHY, task="style", settings=lora(2e-3, batch=1, epochs=1))
    yield Case("fine-batch-2-noisy", HEALTHY, task="dates", settings=fine | {BATCH: 2, EPOCHS: 2})
    yield Case("fine-8x4", HEALTHY, task="sql", rows=320, settings=fine | {BATCH: 8, WINDOWS: 4, EPOCHS: 2})
    yield Case("fine-4x4", HEALTHY, rows=240, settings=lora(5e-3, windows=4))
    yield Case("fine-16-points", HEALTHY, rows=128, settings=lora(5e-3, batch=8, epochs=1))
    yield Case("fine-constant", HEALTHY, task="style", settings=fine | {SCHEDULE: "constant"})
    yield Case("fine-linear", HEALTHY, task="arithmetic", settings=fine | {SCHEDULE: "linear", WARMUP: 0.1})
    yield Case("fine-no-warmup", HEALTHY, settings=fine | {WARMUP: 0.0})
    yield Case("fine-5-epochs", HEALTHY, rows=240, settings=fine | {EPOCHS: 5})
    yield Case("fine-no-validation", HEALTHY, task="sql", settings=lora(5e-3, validation=0))
    yield Case("fine-no-validation-full", HEALTHY, task="dates", settings=fine | {VALIDATION: 0})
    yield Case("fine-many-validations", HEALTHY, settings=fine | {EVERY: 5})
    yield Case("fine-raw-base", HEALTHY, model="raw", settings=full(1e-3, epochs=4), rows=300)
    yield Case("fine-raw-style", HEALTHY, model="raw", task="style", settings=full(1e-3, epochs=4), rows=300)
    yield Case("fine-flat-end", HEALTHY, rows=320, task="sql", settings=full(1e-3, epochs=3, batch=8))
    yield Case("fine-all-scored", HEALTHY, settings=fine | {"data.score": "all"})
    yield Case("fine-low-but-moving", HEALTHY, settings=lora(1e-3, epochs=4))
    yield Case("fine-few-copies", HEALTHY, data_fault="copies:0.03/4", settings=fine)
    yield Case("fine-rank-4", HEALTHY, task="arithmetic", settings=lora(5e-3, **{"method.rank": 4}))
    yield Case("fine-decay", HEALTHY, task="dates", settings=fine | {"training.weight_decay": 0.05})


def _healthy_foreign() -> Iterator[Case]:
    yield Case("fine-trainer", HEALTHY, "trainer", settings=full(5e-4))
    yield Case("fine-trainer-lora", HEALTHY, "trainer", task="sql", settings=lora(3e-3))
    yield Case(
        "fine-trainer-every-5",
        HEALTHY,
        "trainer",
        task="style",
        settings=full(5e-4, logging_steps=5, epochs=4),
    )
    yield Case(
        "fine-trainer-cosine", HEALTHY, "trainer", task="dates", settings=full(5e-4, schedule="cosine")
    )
    yield Case("fine-trainer-batch-1", HEALTHY, "trainer", settings=full(3e-4, batch=1, epochs=1))
    yield Case(
        "fine-trainer-8x2",
        HEALTHY,
        "trainer",
        task="arithmetic",
        settings=full(1e-3, batch=8, windows=2, epochs=4),
    )
    yield Case("fine-trainer-constant", HEALTHY, "trainer", settings=full(3e-4, schedule="constant"))
    yield Case("fine-loop", HEALTHY, "loop", settings=full(5e-4))
    yield Case("fine-loop-timed", HEALTHY, "loop", task="sql", settings=full(5e-4), fault="timed")
    yield Case("fine-loop-lora", HEALTHY, "loop", task="style", settings=lora(3e-3))
    yield Case("fine-loop-batch-2", HEALTHY, "loop", task="dates", settings=full(5e-4, batch=2, epochs=2))


def _healthy_real() -> Iterator[Case]:
    yield real("fine-real", HEALTHY, 5e-4, proof=True)
    yield real("fine-real-low", HEALTHY, 2e-4, schedule="linear")
    yield real("fine-real-constant", HEALTHY, 3e-4, schedule="constant", warmup=0.1)
    yield real("fine-real-batch-2", HEALTHY, 5e-4, batch=2, steps=20, rows=60)
    yield real("fine-real-no-validation", HEALTHY, 5e-4, validation=0, proof=True)
    yield real("fine-real-attention", HEALTHY, 1e-3, **{"method.target_modules": "attention"})
