"""What trains the clinic's cases: our pipeline, a Hugging Face Trainer, a bare loop that writes CSV."""

import csv
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch
from clinic import Case, Outcome
from clinic_base import IGNORED, padded
from clinic_faults import planted
from clinic_rows import FOREIGN_TEMPLATES, parts_of, written
from torch import nn
from transformers import AutoModelForCausalLM, PrinterCallback, Trainer, TrainingArguments

from tunesmith.data.conversation import Message, Row
from tunesmith.data.render import Renderer, choose_template
from tunesmith.errors import RunFailed
from tunesmith.models.find import find_model
from tunesmith.models.tokenizer import load_tokenizer
from tunesmith.pipeline import finetune
from tunesmith.resolve import Resolved, options, resolve
from tunesmith.runs import RunFolder

Encoded = tuple[tuple[int, ...], tuple[int, ...]]
# What a case gets where it says nothing else: short runs with a small proof.
OURS = {
    "model.device": "cpu",
    "data.max_length": 768,
    "training.num_train_epochs": 2.0,
    "training.per_device_train_batch_size": 4,
    "training.gradient_accumulation_steps": 1,
    "evaluation.generate_rows": 8,
    "evaluation.max_new_tokens": 60,
    "evaluation.bootstrap_resamples": 200,
}
FOREIGN = {
    "training.learning_rate": 2e-3,
    "training.num_train_epochs": 2.0,
    "training.per_device_train_batch_size": 4,
    "training.gradient_accumulation_steps": 1,
    "training.lr_scheduler_type": "linear",
    "training.warmup_ratio": 0.05,
    "training.weight_decay": 0.0,
    "training.max_grad_norm": 1.0,
    "training.seed": 17,
    "method.name": "full",
    "logging_steps": 1,
    "optim": "adamw_torch",
}
FINAL_LOSSES = 5
MENDED_BY = {"schedule": "training.lr_scheduler_type", "unscored": "data.score"}


@dataclass(frozen=True, slots=True)
class Ran:
    """A run that is over.

    Attributes:
        outcome: what it did.
        resolved: its configuration, of ours only.
    """

    outcome: Outcome
    resolved: Resolved | None = None


def ours_resolved(case: Case, folder: Path, models: Mapping[str, Path]) -> Resolved:
    """The configuration of one of our own runs; its rows and template are written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {**OURS, **written(case, folder), "training.seed": case.seed, **case.settings}
    values["model.name"] = str(models.get(case.model, case.model))
    template = str(values.get("data.template", ""))
    if template.startswith("foreign:"):
        path = folder / "foreign.jinja"
        path.write_text(FOREIGN_TEMPLATES[template.removeprefix("foreign:")], encoding="utf-8")
        values["data.template"] = str(path)
    flags = {option.key: option.flag for option in options()}
    return resolve(flags={flags[key]: value for key, value in values.items() if value is not None})


def run_ours(case: Case, resolved: Resolved, folder: Path) -> Ran:
    """A run of `tunesmith train`, failed or not."""
    path = folder / "run"
    config = resolved.config.model_copy(update={"output_dir": str(path)})
    started = time.perf_counter()
    with planted(case.fault), suppress(RunFailed):
        finetune(Resolved(config, resolved.origins))
    run = RunFolder(path)
    start, end = _held_out(run)
    status = str(run.manifest.get("status"))
    return Ran(Outcome(str(path), start, end, status, time.perf_counter() - started), resolved)


def _held_out(run: RunFolder) -> tuple[float | None, float | None]:
    """Loss of the base and at the end: validation where there is one, else the test rows."""
    found = [line["eval_loss"] for line in run.metrics if "eval_loss" in line]
    if len(found) > 1:
        return found[0], found[-1]
    if (run.path / "evaluation.json").is_file():
        pair = (
            next(score["value"] for score in run.evaluation[who] if score["metric"] == "loss")
            for who in ("base", "tuned")
        )
        return next(pair), next(pair)
    losses = [line["loss"] for line in run.metrics if "loss" in line][-FINAL_LOSSES:]
    return None, fmean(losses) if losses and run.manifest.get("status") == "succeeded" else None


def encoded(rows: Sequence[Mapping[str, str]], renderer: Renderer, *, is_scored: bool) -> list[Encoded]:
    """Ids and labels, as other programs have them."""
    names = (("system", "system"), ("user", "prompt"), ("assistant", "completion"))
    found = []
    for number, row in enumerate(rows, start=1):
        messages = tuple(Message(role, row[key]) for role, key in names if key in row)
        rendered = renderer.render(Row(messages, "rows", number, "messages"))
        pairs = zip(rendered.ids, rendered.scored, strict=True)
        found.append((rendered.ids, tuple(i if s and is_scored else IGNORED for i, s in pairs)))
    return found


def foreign_parts(case: Case, models: Mapping[str, Path]) -> tuple[list[Encoded], list[Encoded], str]:
    """Training and validation rows of a run that is not ours, and its model's folder."""
    source = find_model(str(models.get(case.model, case.model)))
    tokenizer = load_tokenizer(source)
    renderer, parts = Renderer(tokenizer, choose_template(tokenizer)), parts_of(case)
    train = encoded(parts.train, renderer, is_scored=case.fault != "unscored")
    return train, encoded(parts.validation, renderer, is_scored=True), source.path


def run_trainer(case: Case, folder: Path, models: Mapping[str, Path]) -> Ran:
    """A Hugging Face Trainer; it leaves its trainer_state.json."""
    settings = FOREIGN | dict(case.settings)
    train, validation, path = foreign_parts(case, models)
    torch.manual_seed(case.seed)
    model = _foreign_model(path, case.fault, method=str(settings["method.name"]))
    steps = total_steps(settings, len(train))
    has_validation = settings.get("data.validation_size") != 0
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=steps,
        logging_steps=settings["logging_steps"],
        logging_nan_inf_filter=False,
        eval_strategy="steps" if has_validation else "no",
        eval_on_start=has_validation,
        eval_steps=max(1, math.ceil(steps / int(settings.get("validations", 6)))),
        per_device_train_batch_size=settings["training.per_device_train_batch_size"],
        gradient_accumulation_steps=settings["training.gradient_accumulation_steps"],
        learning_rate=settings["training.learning_rate"],
        lr_scheduler_type=settings["training.lr_scheduler_type"],
        warmup_steps=settings["training.warmup_ratio"],
        weight_decay=settings["training.weight_decay"],
        max_grad_norm=settings["training.max_grad_norm"],
        optim=settings["optim"],
        seed=case.seed,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation if has_validation else None,
        data_collator=padded,
        optimizers=_own_optimizers(model, case.fault, settings, steps),
    )
    trainer.remove_callback(PrinterCallback)
    started = time.perf_counter()
    trainer.train()
    trainer.save_state()
    seconds = time.perf_counter() - started
    state = folder / "trainer" / "trainer_state.json"
    history = json.loads(state.read_text(encoding="utf-8"))["log_history"]
    return Ran(_foreign_outcome(state, history, seconds))


def total_steps(settings: Mapping[str, Any], rows: int) -> int:
    """Optimizer steps of a run."""
    if settings.get("training.max_steps"):
        return int(settings["training.max_steps"])
    window = (
        settings["training.per_device_train_batch_size"] * settings["training.gradient_accumulation_steps"]
    )
    return math.ceil(settings["training.num_train_epochs"] * math.ceil(rows / window))


def _foreign_model(path: str, fault: str, *, method: str) -> Any:
    from peft import LoraConfig, get_peft_model

    dtype = torch.float16 if fault == "half" else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    if method == "lora":
        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, lora)
    if fault == "frozen_b":
        # The second factor starts at zero, and while it stays there the first one gets no gradient.
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_A" in name)
    return model


def _own_optimizers(model: nn.Module, fault: str, settings: Mapping[str, Any], steps: int) -> Any:
    """Optimizer and schedule that the user made: of a copy of the weights, or for another number of steps."""
    kind, _, argument = fault.partition(":")
    if kind == "stale":
        copies = [nn.Parameter(p.detach().clone()) for p in model.parameters() if p.requires_grad]
        return torch.optim.AdamW(copies, lr=settings["training.learning_rate"]), None
    if kind != "schedule":
        return None, None
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["training.learning_rate"])
    planned = max(1, round(float(argument) * steps))
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: max(0.0, 1 - s / planned))


def _foreign_outcome(source: Path, lines: Sequence[Mapping[str, Any]], seconds: float) -> Outcome:
    evals = [line["eval_loss"] for line in lines if line.get("eval_loss") is not None]
    losses = [line["loss"] for line in lines if line.get("loss") is not None][-FINAL_LOSSES:]
    start = evals[0] if len(evals) > 1 else None
    end = evals[-1] if len(evals) > 1 else fmean(losses)
    finite = end if math.isfinite(end) else None
    return Outcome(str(source), start, finite, "succeeded", seconds)


def run_loop(case: Case, folder: Path, models: Mapping[str, Path]) -> Ran:
    """A loop of twenty lines, as people write it, with a CSV log."""
    settings = FOREIGN | dict(case.settings)
    train, validation, path = foreign_parts(case, models)
    torch.manual_seed(case.seed)
    model = _foreign_model(path, case.fault, method=str(settings["method.name"]))
    started = time.perf_counter()
    lines = list(_looped(model, train, validation, case, settings))
    target = folder / "log.csv"
    folder.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for line in lines for name in line))
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(lines)
    return Ran(_foreign_outcome(target, lines, time.perf_counter() - started))


def _looped(
    model: Any, train: list[Encoded], validation: list[Encoded], case: Case, settings: Mapping[str, Any]
) -> Iterator[dict[str, float]]:
    """Each step's line; validation in lines of its own."""
    kind, _, argument = case.fault.partition(":")
    rate, steps = settings["training.learning_rate"], total_steps(settings, len(train))
    maker = torch.optim.SGD if settings["optim"] == "sgd" else torch.optim.AdamW
    optimizer = maker([p for p in model.parameters() if p.requires_grad], lr=rate)
    at_once = settings["training.per_device_train_batch_size"]
    windows = settings["training.gradient_accumulation_steps"]
    warmup = round(settings["training.warmup_ratio"] * steps)
    planned = round(float(argument) * steps) if kind == "schedule" else steps
    random, eval_every = Random(case.seed), max(1, math.ceil(steps / 6))  # noqa: S311
    yield {"step": 0, "eval_loss": _loss_of(model, validation)}
    for step in range(1, steps + 1):
        began = time.perf_counter()
        batches = [padded(random.choices(train, k=at_once)) for _ in range(windows)]
        if kind == "slow":
            time.sleep(float(argument) / 1000)
        waited = time.perf_counter() - began
        left = max(0.0, 1 - (step - 1) / planned) if settings["training.lr_scheduler_type"] == "linear" else 1
        now = rate * min(1.0, step / (warmup + 1)) * left
        for group in optimizer.param_groups:
            group["lr"] = now
        model.train()
        losses = [model(**batch).loss for batch in batches]
        (sum(losses) / windows).backward()
        most = settings["training.max_grad_norm"] or math.inf
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), most))
        optimizer.step()
        optimizer.zero_grad()
        line = {"step": step, "loss": fmean(map(float, losses)), "lr": now, "grad_norm": norm}
        if kind in ("slow", "timed"):
            line |= {"data_time": waited, "step_time": time.perf_counter() - began}
        yield line
        if step % eval_every == 0 or step == steps:
            yield {"step": step, "eval_loss": _loss_of(model, validation)}


def _loss_of(model: Any, rows: list[Encoded]) -> float:
    model.eval()
    with torch.no_grad():
        return float(model(**padded(rows)).loss)


FOREIGN_PROGRAMS: Mapping[str, Callable[[Case, Path, Mapping[str, Path]], Ran]] = {
    "trainer": run_trainer,
    "loop": run_loop,
}


def with_changes(case: Case, changes: Mapping[str, Any]) -> Case:
    """The case of a program that is not ours, with the settings that the doctor wants."""
    settings = {key: value for key, value in changes.items() if key in FOREIGN or key.startswith("training.")}
    kind = case.fault.partition(":")[0]
    # Whoever is told so writes the schedule, or the mask, anew.
    is_mended = MENDED_BY.get(kind) in changes
    return replace(case, settings=dict(case.settings) | settings, fault="" if is_mended else case.fault)
