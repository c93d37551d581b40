"""Hyperparameters for a model, its rows and this machine, each with its reason: `tunesmith recommend`.

The rules are in `recommend_rules.py`; here the facts are read, the rules asked in turn, and the rows of
a step cut into micro-batches that fit into memory. A value given as a flag is kept, and the others follow it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median
from typing import Any

from transformers import PretrainedConfig

from tunesmith.approaches.recommend_rules import (
    GUIDE,
    Advised,
    Answers,
    Complexity,
    Situation,
    alpha,
    complexity_of,
    data_verdict,
    dropout,
    epochs,
    is_structured,
    learning_rate,
    rank,
    shown_size,
    step_rows,
    steps_of,
    warmup,
    watching,
)
from tunesmith.config import LOW_RANK, METHODS_WITH, RunConfig
from tunesmith.data.prepare import Prepared, read_with
from tunesmith.data.render import Rendered
from tunesmith.errors import ModelError
from tunesmith.evaluation.marks import format_fact
from tunesmith.models.find import EMBEDDED, find_model
from tunesmith.models.tokenizer import load_tokenizer
from tunesmith.pipeline import say_data
from tunesmith.planning.fit import COSTS, Proposal, as_flags, fit, remembered
from tunesmith.planning.launch import gigabytes
from tunesmith.planning.rehearse import rehearse
from tunesmith.planning.setups import Place, choose_place, setup_of
from tunesmith.planning.shapes import PUBLISHED, find_config, parameters_of
from tunesmith.planning.workload import workload_of
from tunesmith.progress import Progress, Silent
from tunesmith.resolve import Resolved, options

ORIGIN = "recommend: "
MICRO_ROWS, ACCUMULATION = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"
# On a CPU more rows at once are no faster; see docs/lab-log.md.
CPU_ROWS = 4


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the recommendation.

    Attributes:
        key: of the configuration.
        value: what the recommended configuration holds.
        yours: what was asked for, or the default.
        reason: why, one clause.
        source: where the rule is from.
        is_kept: whether the value is the user's own, given as a flag.
    """

    key: str
    value: Any
    yours: Any
    reason: str
    source: str
    is_kept: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What was looked at.

    Attributes:
        model: name and where its shape is from.
        parameters: of the whole model.
        method: name.
        device: where it is planned to run, in a sentence.
        rows: training rows.
        validation_rows: rows that watch.
        mean_tokens: of a training row.
        longest_tokens: of a training row.
        answers: what they look like.
        complexity: of the task.
        why_complexity: what says so.
        steps: optimizer steps of the recommended run.
        peak_bytes: memory that the recommended run is planned to take.
    """

    model: str
    parameters: int
    method: str
    device: str
    rows: int
    validation_rows: int
    mean_tokens: float
    longest_tokens: int
    answers: Answers
    complexity: Complexity
    why_complexity: str
    steps: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A configuration with the reason of each value.

    Attributes:
        settings: in the order of the configuration.
        facts: what they rest on.
        is_data_enough: whether the rows are as many as such a task usually takes.
        data_verdict: the same as a sentence.
        notes: sentences about anything out of the ordinary.
        resolved: the configuration, ready for `tunesmith train`.
    """

    settings: tuple[Setting, ...]
    facts: Facts
    is_data_enough: bool
    data_verdict: str
    notes: tuple[str, ...]
    resolved: Resolved

    def with_rate(self, rate: float, reason: str, source: str) -> "Recommendation":
        """The same with another learning rate; a rate given as a flag stays."""
        measured = Advised("training.learning_rate", rate, reason, source)
        settings = tuple(
            _setting(measured, self.resolved, yours=each.yours)
            if each.key == measured.key and not each.is_kept
            else each
            for each in self.settings
        )
        return replace(self, settings=settings, resolved=_resolved(self.resolved, settings))

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "settings": [asdict(each) for each in self.settings],
            "facts": asdict(self.facts),
            "data": {"is_enough": self.is_data_enough, "verdict": self.data_verdict},
            "notes": list(self.notes),
        }


def recommend(
    resolved: Resolved, *, complexity: Complexity | None = None, progress: Progress | None = None
) -> Recommendation:
    """Settings for the rows, model and method of `resolved`.

    Args:
        resolved: configuration with the origin of each value; what came from a flag is kept.
        complexity: of the task; None tells it by the answers.
        progress: told what happens.

    Raises:
        UserError: if data or model cannot be used.
    """
    progress = progress or Silent()
    config = resolved.config
    shape, about = find_config(config.model.name, revision=config.model.revision)
    data, notes = _data(config, progress, is_elsewhere=PUBLISHED in about)
    answers = answers_of(data.train)
    told, why = complexity_of(answers)
    situation = Situation(
        config.method.name,
        parameters_of(shape),
        rows=len(data.train),
        has_validation=bool(data.validation),
        complexity=complexity or told,
    )
    ruled = _rule_settings(resolved, situation)
    place = choose_place(config.model)
    progress.say("rehearsing one step for its memory")
    settings, peak_bytes, more = _fitted(ruled, resolved, data, shape, place)
    lengths = [len(row.ids) for row in data.train]
    chosen = _resolved(resolved, settings)
    training = chosen.config.training
    rows_of_a_step = training.per_device_train_batch_size * training.gradient_accumulation_steps
    facts = Facts(
        model=f"{about}, {shown_size(situation.parameters)} parameters",
        parameters=situation.parameters,
        method=situation.method,
        device=place.reason,
        rows=situation.rows,
        validation_rows=len(data.validation),
        mean_tokens=fmean(lengths),
        longest_tokens=max(lengths),
        answers=answers,
        complexity=situation.complexity,
        why_complexity=why if complexity is None else "as you said",
        steps=training.max_steps or steps_of(situation.rows, rows_of_a_step, training.num_train_epochs),
        peak_bytes=peak_bytes,
    )
    is_enough, verdict = data_verdict(situation.rows, situation.complexity)
    return Recommendation(settings, facts, is_enough, verdict, (*notes, *more), chosen)


def answers_of(rows: Sequence[Rendered]) -> Answers:
    """What the last answers of the rows look like.

    Args:
        rows: rendered training rows, at least one.
    """
    texts = [row.row.reference.strip() for row in rows]
    turns = [sum(message.role == "assistant" for message in row.row.messages) for row in rows]
    return Answers(
        len(texts),
        len(set(texts)),
        median(row.scored_tokens / max(1, count) for row, count in zip(rows, turns, strict=True)),
        fmean(map(is_structured, texts)),
    )


def _data(config: RunConfig, progress: Progress, *, is_elsewhere: bool) -> tuple[Prepared, list[str]]:
    """The rows as training would render them; with another tokenizer, and a note, where the model is away."""
    notes: list[str] = []
    try:
        tokenizer = load_tokenizer(find_model(config.model.name, revision=config.model.revision))
    except ModelError:
        if not is_elsewhere:
            raise
        tokenizer = load_tokenizer(find_model(EMBEDDED))
        notes.append(f"`{config.model.name}` is not here, so tokens are counted as {EMBEDDED} has them")
    renderer, data = read_with(config.data, tokenizer, seed=config.training.seed)
    say_data(data, renderer, progress)
    return data, notes


def _rule_settings(resolved: Resolved, situation: Situation) -> dict[str, Setting]:
    """What the rules say, in the order of the configuration; each rule sees what those before it settled."""
    config = resolved.config
    found: dict[str, Setting] = {}
    if situation.method in LOW_RANK:
        found["method.rank"] = _setting(rank(situation), resolved)
        found["method.alpha"] = _setting(alpha(found["method.rank"].value), resolved)
    if situation.method in METHODS_WITH["dropout"]:
        found["method.dropout"] = _setting(dropout(situation), resolved)
    found["training.learning_rate"] = _setting(learning_rate(situation), resolved)
    passes = _setting(epochs(situation), resolved)
    if config.training.max_steps is None:
        found[passes.key] = passes
    window, why = step_rows(situation.rows, passes.value)
    found |= _window(window, why, resolved)
    window = found[MICRO_ROWS].value * found[ACCUMULATION].value
    total = config.training.max_steps or steps_of(situation.rows, window, passes.value)
    for advised in (warmup(total), *watching(situation, steps_of(situation.rows, window, 1))):
        found[advised.key] = _setting(advised, resolved)
    return found


def _window(window: int, why: str, resolved: Resolved) -> dict[str, Setting]:
    """The step's rows as micro-batch and accumulation; a flag for one of them decides the other."""
    training, kept = resolved.config.training, _kept_keys(resolved)
    micro = min(window, CPU_ROWS)
    if MICRO_ROWS in kept:
        micro = training.per_device_train_batch_size
    elif ACCUMULATION in kept:
        micro = max(1, round(window / training.gradient_accumulation_steps))
    source, times = f"{GUIDE} 4 to 16 rows a step", max(1, round(window / micro))
    pair = (
        Advised(MICRO_ROWS, micro, why, source),
        Advised(ACCUMULATION, times, f"makes steps of {micro * times} rows", source),
    )
    return {each.key: _setting(each, resolved) for each in pair}


def _fitted(
    settings: Mapping[str, Setting],
    resolved: Resolved,
    data: Prepared,
    shape: PretrainedConfig,
    place: Place,
) -> tuple[tuple[Setting, ...], int, list[str]]:
    """The settings with the cheapest changes that fit into free memory, the peak, and what to say of it."""
    config = _resolved(resolved, tuple(settings.values())).config
    workload = workload_of(
        data.train,
        config,
        has_validation=bool(data.validation),
        has_test=bool(data.test),
        device=place.device,
    )
    setup, note = setup_of(config.method.name, config=config, shape=shape, place=place, workload=workload)
    memory_of = remembered(rehearse)
    memory, notes = memory_of(setup), [note] if note else []
    if place.free_bytes is None:
        notes.append(
            f"{place.device} is not here, so its memory is not known; {gigabytes(memory.peak_bytes)} are "
            "planned, and `tunesmith plan --fit` proposes what fits"
        )
        return tuple(settings.values()), memory.peak_bytes, notes
    limit_bytes = place.free_bytes + memory.runtime_bytes
    found = fit(
        setup,
        limit_bytes=limit_bytes,
        training=config.training,
        memory_of=memory_of,
        batch_of=workload.batch_of,
    )
    proposal = found.proposal or found.smallest
    if found.proposal is None:
        notes.append(
            f"nothing fits into {gigabytes(limit_bytes)} with {config.method.name}: the smallest run takes "
            f"{gigabytes(proposal.memory.peak_bytes)}; `tunesmith plan --fit` looks at other methods"
        )
    changed = dict(settings) | _memory_settings(proposal, resolved)
    broken = [key for key in proposal.changes if key in _kept_keys(resolved)]
    if broken:
        kept = as_flags({key: proposal.changes[key] for key in broken})
        notes.append(f"your own values are kept, but to fit into memory it should be `{kept}`")
    return tuple(changed.values()), proposal.memory.peak_bytes, notes


def _memory_settings(proposal: Proposal, resolved: Resolved) -> dict[str, Setting]:
    """What memory asks for beside or in place of the rules."""
    found = {}
    for key, value in proposal.changes.items():
        # `auto` computes activations again by itself where it must.
        if key != "training.gradient_checkpointing":
            why = COSTS.get(key, "the same step in more pieces")
            found[key] = _setting(Advised(key, value, f"to fit into memory: {why}", "memory plan"), resolved)
    return found


def _kept_keys(resolved: Resolved) -> set[str]:
    return {key for key, origin in resolved.origins.items() if origin.startswith("--")}


def _setting(advised: Advised, resolved: Resolved, *, yours: Any = None) -> Setting:
    """A rule's word beside the user's, who has the last one in a flag."""
    known = {key: value for key, value, _ in resolved.rows()}[advised.key] if yours is None else yours
    if advised.key not in _kept_keys(resolved):
        return Setting(advised.key, advised.value, known, advised.reason, advised.source)
    told = "" if advised.value == known else f"; the rule says {format_fact(advised.value)}"
    return Setting(advised.key, known, known, f"you gave it{told}", "your flag", is_kept=True)


def _resolved(resolved: Resolved, settings: Sequence[Setting]) -> Resolved:
    """The configuration with these settings, each with its reason as origin."""
    values, origins = resolved.config.model_dump(), dict(resolved.origins)
    for each in settings:
        section, _, name = each.key.rpartition(".")
        values[section][name] = each.value
        if not each.is_kept:
            origins[each.key] = f"{ORIGIN}{each.reason}"
    order = {option.key: origins.get(option.key, "default") for option in options()}
    return Resolved(RunConfig.model_validate(values), order)
