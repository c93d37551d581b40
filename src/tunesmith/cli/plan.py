"""`tunesmith plan`: memory by term and time for every method, before anything is started."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tunesmith.cli.options import given, with_options
from tunesmith.cli.terminal import loading_libraries, messages, output, print_json
from tunesmith.cli.train import Json
from tunesmith.config import RunConfig
from tunesmith.errors import ConfigError, ModelError
from tunesmith.resolve import read_yaml, resolve

if TYPE_CHECKING:
    from tunesmith.planning.fit import Fit, MemoryOf
    from tunesmith.planning.setups import Place
    from tunesmith.planning.table import Column
    from tunesmith.planning.workload import Workload

# Stands where a configuration needs a data file and a plan does without; it is never read.
NO_DATA = "-"
KEYS = (
    *("model.name", "model.revision", "model.dtype", "model.device"),
    *("data.path", "data.validation_file", "data.test_file", "data.format", "data.bad_rows", "data.columns"),
    *("data.system", "data.template", "data.max_length", "data.overlong", "data.score"),
    *("data.validation_size", "data.test_size"),
    *("method.name", "method.rank", "method.variant", "method.dropout", "method.target_modules"),
    *("method.num_virtual_tokens", "method.placement", "method.reduction_factor"),
    *("training.num_train_epochs", "training.max_steps", "training.per_device_train_batch_size"),
    *("training.gradient_accumulation_steps", "training.gradient_checkpointing", "training.optim"),
    *("training.seed", "evaluation.generate_rows", "evaluation.max_new_tokens"),
    "evaluation.per_device_eval_batch_size",
)


@dataclass(frozen=True, slots=True)
class Question:
    """What is planned.

    Attributes:
        config: the run.
        shape: numbers of its model, a configuration of transformers.
        about: a sentence on where the shape is from.
        place: device and free memory.
        workload: largest micro-batch and steps.
        has_data: whether the workload is of real rows.
        has_weights: whether the model itself was found, not only its shape.
    """

    config: RunConfig
    shape: Any
    about: str
    place: "Place"
    workload: "Workload"
    has_data: bool
    has_weights: bool


@with_options(KEYS)
def plan(
    config: Annotated[Path | None, Parameter(help="YAML configuration; flags override it.")] = None,
    /,
    *,
    fit: Annotated[
        str | None, Parameter(help="Memory there is, such as `8GB`: the cheapest change that fits into it.")
    ] = None,
    probe: Annotated[
        bool,
        Parameter(negative="", help="Correct the chosen method by one real micro-batch in a process apart."),
    ] = False,
    json: Json = False,
    **flags: Any,
) -> None:
    """Memory by term and time of every method, side by side, before launch.

    One step is rehearsed by the code that trains, on tensors that take no memory. Neither weights, network
    nor GPU are needed. Without data all rows are taken to be `max_length` long and scored whole.

    Examples:
        tunesmith plan config.yaml

        tunesmith plan --model llama-2-7b --device cuda --max-length 512 --fit 24GB

        tunesmith plan --model smollm2-135m --data rows.jsonl --probe
    """
    chosen = _resolved(config, given(flags))
    with loading_libraries():
        from tunesmith.planning.fit import parse_bytes, remembered
        from tunesmith.planning.rehearse import rehearse

    limit_bytes = None if fit is None else parse_bytes(fit)
    question = _question(chosen)
    if probe:
        _check_probe(question)
    memory_of = remembered(rehearse)
    columns = _columns(question, memory_of, limit_bytes)
    if probe:
        columns = _probed(question, columns)
    fitted = None if limit_bytes is None else _fit(question, columns, memory_of, limit_bytes)
    _show(question, columns, fitted, json=json)


def _resolved(file: Path | None, flags: dict[str, Any]) -> RunConfig:
    """The configuration, with a placeholder where it names no data."""
    section = read_yaml(file)[0].get("data") if file else None
    is_named = "data" in flags or (isinstance(section, dict) and "path" in section)
    return resolve(file, flags if is_named else {**flags, "data": NO_DATA}).config


def _question(config: RunConfig) -> Question:
    from tunesmith.planning.setups import choose_place
    from tunesmith.planning.shapes import PUBLISHED, find_config
    from tunesmith.planning.workload import assumed_workload

    shape, about = find_config(config.model.name, revision=config.model.revision)
    place = choose_place(config.model)
    has_data = config.data.path != NO_DATA
    workload = _workload(config, place.device) if has_data else assumed_workload(config, device=place.device)
    return Question(config, shape, about, place, workload, has_data, PUBLISHED not in about)


def _workload(config: RunConfig, device: str) -> "Workload":
    """The rows as training would render and split them."""
    from tunesmith.data.prepare import read_with
    from tunesmith.models.find import find_model
    from tunesmith.models.tokenizer import load_tokenizer
    from tunesmith.planning.workload import workload_of

    try:
        tokenizer = load_tokenizer(find_model(config.model.name, revision=config.model.revision))
    except ModelError as error:
        raise ModelError(
            f"the length of rows is counted with the model's tokenizer: {error}",
            hint="without `--data` a plan needs only the shape: give the length as `--max-length`",
        ) from error
    _, data = read_with(config.data, tokenizer, seed=config.training.seed)
    return workload_of(
        data.train,
        config,
        has_validation=bool(data.validation),
        has_test=bool(data.test),
        device=device,
    )


def _columns(question: Question, memory_of: "MemoryOf", limit_bytes: int | None) -> tuple["Column", ...]:
    from tunesmith.planning.rate import matrix_rate
    from tunesmith.planning.table import plan_methods

    config, place, workload = question.config, question.place, question.workload
    rows, length_tokens, _ = workload.batch_of(config.training.per_device_train_batch_size)
    tokens = rows * length_tokens
    rate = (
        matrix_rate(question.shape, tokens=tokens, device=place.device, dtype=place.dtype)
        if place.is_here
        else None
    )
    return plan_methods(
        config,
        question.shape,
        place,
        workload,
        memory_of=memory_of,
        rate=rate,
        limit_bytes=limit_bytes,
        on_method=lambda name: messages.print(f"rehearsing {name}", style="dim"),
    )


def _check_probe(question: Question) -> None:
    """A probe needs the device and the weights.

    Raises:
        ConfigError: if one of them is not here.
    """
    missing = [
        *([] if question.place.is_here else [question.place.device]),
        *([] if question.has_weights else [f"the weights of {question.config.model.name}"]),
    ]
    if missing:
        raise ConfigError(
            f"`--probe` runs a real micro-batch, and what it needs is not here: {', '.join(missing)}",
            hint="leave out `--probe`, or plan on the machine that will train",
        )


def _probed(question: Question, columns: tuple["Column", ...]) -> tuple["Column", ...]:
    """The chosen method's column corrected by a real micro-batch."""
    from tunesmith.planning.probe import corrected, probe
    from tunesmith.planning.rate import duration

    config = question.config
    found = []
    for column in columns:
        planned = column.planned
        if column.method == config.method.name and planned is not None:
            messages.print(f"probing {column.method}: one real micro-batch, twice", style="dim")
            probed = probe(planned.setup, model_name=config.model.name, revision=config.model.revision)
            memory = corrected(planned.memory, probed)
            lasting = duration(
                planned.setup,
                memory,
                question.workload,
                rate=None,
                seconds_per_micro_batch=probed.seconds_per_micro_batch,
            )
            column = replace(column, planned=replace(planned, memory=memory, duration=lasting))
        found.append(column)
    return tuple(found)


def _fit(question: Question, columns: tuple["Column", ...], memory_of: "MemoryOf", limit_bytes: int) -> "Fit":
    from tunesmith.planning.fit import fit

    config = question.config
    is_always = config.training.gradient_checkpointing == "always"
    setups = {
        column.method: replace(column.planned.setup, is_checkpointed=is_always)
        for column in columns
        if column.planned is not None
    }
    messages.print("looking for the cheapest change that fits", style="dim")
    return fit(
        setups[config.method.name],
        limit_bytes=limit_bytes,
        training=config.training,
        memory_of=memory_of,
        others=list(setups.values()),
        batch_of=question.workload.batch_of,
    )


def _show(question: Question, columns: tuple["Column", ...], fitted: "Fit | None", *, json: bool) -> None:
    from tunesmith.planning.table import fit_as_dict, plan_as_dict

    place, chosen = question.place, question.config.method.name
    if json:
        print_json(
            {
                "model": question.config.model.name,
                "shape": question.about,
                "device": place.device,
                "dtype": place.dtype,
                "is_here": place.is_here,
                "data": question.config.data.path if question.has_data else None,
                **plan_as_dict(columns, chosen=chosen),
                "fit": fit_as_dict(fitted) if fitted else None,
            }
        )
        return
    from tunesmith.cli.plan_text import bars, fit_lines, head_lines, note_lines, plan_table

    for line in head_lines(question.about, place, columns, chosen=chosen, has_data=question.has_data):
        output.print(line, markup=False)
    output.print()
    output.print(plan_table(columns, chosen=chosen))
    output.print()
    for bar in bars(columns):
        output.print(bar)
    for note in note_lines(columns):
        messages.print(note, markup=False)
    if fitted:
        output.print()
        for line in fit_lines(fitted):
            output.print(line, markup=False)
