import re

import pytest
from pydantic import ValidationError

from tunesmith.config import DataConfig, RunConfig
from tunesmith.resolve import options

# A new option needs a reason, a test that it acts, and a line here.
KEYS = [
    "output_dir",
    "model.name",
    "model.revision",
    "model.dtype",
    "model.device",
    "data.path",
    "data.validation_file",
    "data.test_file",
    "data.format",
    "data.bad_rows",
    "data.columns",
    "data.system",
    "data.template",
    "data.max_length",
    "data.overlong",
    "data.score",
    "data.validation_size",
    "data.test_size",
    "method.name",
    "method.rank",
    "method.alpha",
    "method.variant",
    "method.dropout",
    "method.target_modules",
    "method.num_virtual_tokens",
    "method.placement",
    "method.reduction_factor",
    "training.learning_rate",
    "training.num_train_epochs",
    "training.max_steps",
    "training.per_device_train_batch_size",
    "training.gradient_accumulation_steps",
    "training.gradient_checkpointing",
    "training.optim",
    "training.lr_scheduler_type",
    "training.warmup_ratio",
    "training.weight_decay",
    "training.max_grad_norm",
    "training.eval_steps",
    "training.early_stopping_patience",
    "training.save_steps",
    "training.save_total_limit",
    "training.seed",
    "evaluation.generate_rows",
    "evaluation.max_new_tokens",
    "evaluation.answer_schema",
    "evaluation.answer_pattern",
    "evaluation.answer_choices",
    "evaluation.per_device_eval_batch_size",
    "evaluation.bootstrap_resamples",
    "evaluation.confidence",
    "evaluation.elsewhere",
]
MOST_OPTIONS = 60
MOST_FIELDS = 16


def test_options_are_the_frozen_list_in_its_order():
    assert [option.key for option in options()] == KEYS
    assert len(KEYS) <= MOST_OPTIONS


def test_flags_are_unique_and_typeable():
    flags = [option.flag for option in options()]
    assert len(set(flags)) == len(flags)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", flag) for flag in flags)


@pytest.mark.parametrize("option", options(), ids=lambda option: option.key)
def test_option_has_help_that_is_a_sentence(option):
    assert re.fullmatch(r"[A-Z`].{10,200}[.]", option.help)
    assert "\n" not in option.help


def test_one_option_is_required():
    assert [option.key for option in options() if option.is_required] == ["data.path"]


def test_defaults_are_among_the_choices():
    limited = [option for option in options() if option.choices]
    assert {"model.dtype", "data.format", "method.target_modules"} < {option.key for option in limited}
    assert all(option.default in option.choices for option in limited)


def test_no_section_has_more_fields_than_a_person_can_read():
    sections = [option.section for option in options()]
    assert max(map(sections.count, set(sections))) <= MOST_FIELDS


def test_configuration_is_frozen():
    config = RunConfig(data=DataConfig(path="a.json"))
    with pytest.raises(ValidationError, match="frozen"):
        config.training.seed = 3
    assert config.training.seed == RunConfig(data=DataConfig(path="b.json")).training.seed


def test_configuration_survives_json():
    config = RunConfig(data=DataConfig(path="a.json", columns={"instruction": "question"}))
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("section", "field", "lowest", "below"),
    [
        ("data", "max_length", 16, 15),
        ("data", "validation_size", 0, -1),
        ("method", "rank", 1, 0),
        ("method", "dropout", 0, -0.1),
        ("training", "learning_rate", 1e-12, 0),
        ("training", "max_steps", 1, 0),
        ("training", "early_stopping_patience", 0, -1),
        ("training", "warmup_ratio", 0.99, 1),
        ("evaluation", "bootstrap_resamples", 100, 99),
        ("evaluation", "confidence", 0.99, 1),
    ],
)
def test_limits_of_numbers(section, field, lowest, below):
    def config(value):
        return RunConfig.model_validate({"data": {"path": "a.json"}} | _section(section, field, value))

    assert getattr(getattr(config(lowest), section), field) == lowest
    with pytest.raises(ValidationError, match=rf"{section}\.{field}"):
        config(below)


def _section(section, field, value):
    path = {"path": "a.json"} if section == "data" else {}
    return {section: path | {field: value}}


def test_learning_rate_follows_the_method_where_it_is_not_given():
    def rate(**sections):
        return RunConfig.model_validate({"data": {"path": "a.json"}} | sections).training.learning_rate

    assert rate() == rate(method={"name": "qlora"}) == 2e-4
    assert rate(method={"name": "full"}) == 2e-5
    assert rate(method={"name": "prefix"}, training={"seed": 1}) == 3e-2
    assert rate(method={"name": "adapter"}, training={"learning_rate": 3e-3}) == 3e-3


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("full", {"rank": 8}),
        ("prefix", {"dropout": 0.1}),
        ("adapter", {"variant": "dora"}),
        ("lora", {"placement": "pfeiffer"}),
        ("qlora", {"num_virtual_tokens": 5}),
    ],
)
def test_an_option_of_another_method_is_refused(name, option):
    message = f"`method.{next(iter(option))}`: no effect with method `{name}`"
    with pytest.raises(ValidationError, match=message):
        RunConfig.model_validate({"data": {"path": "a.json"}, "method": {"name": name} | option})
