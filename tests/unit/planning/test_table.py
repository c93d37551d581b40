"""Five methods side by side from one configuration, and what becomes JSON."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tunesmith.config import METHOD_NAMES, METHODS_WITH, MethodConfig, ModelConfig, RunConfig
from tunesmith.errors import ConfigError
from tunesmith.planning.fit import fit
from tunesmith.planning.rate import EFFICIENCY, Duration
from tunesmith.planning.rehearse import Setup
from tunesmith.planning.setups import Place, choose_place, method_settings, setup_of
from tunesmith.planning.shapes import known_config
from tunesmith.planning.table import TERMS, Column, fit_as_dict, plan_as_dict, plan_methods
from tunesmith.planning.terms import Memory
from tunesmith.planning.workload import assumed_workload

SHAPE = known_config("smollm2-135m")
HERE = Place("cpu", "float32", True, 1000, "here")
ELSEWHERE = Place("cuda", "bfloat16", False, None, "elsewhere")


def config_with(**sections: Any) -> RunConfig:
    return RunConfig.model_validate({"data": {"path": "rows.jsonl"}, **sections})


def memory_of(setup: Setup) -> Memory:
    """Every term another figure; checkpointing takes activations away."""
    activations = 10 if setup.is_checkpointed else 500
    return Memory(300, 2, 3, 4, 5, activations, 6, 7, 100, 60, 6_000, 10, 1)


def columns_of(config: RunConfig, place: Place = HERE, **given: Any) -> dict[str, Column]:
    found = plan_methods(
        config, SHAPE, place, assumed_workload(config, device="cuda"), memory_of=memory_of, **given
    )
    return {column.method: column for column in found}


def planned(column: Column) -> tuple[Setup, Memory]:
    assert column.planned is not None
    return column.planned.setup, column.planned.memory


def test_every_method_has_a_column_in_one_order() -> None:
    told: list[str] = []
    found = columns_of(config_with(), on_method=told.append)
    assert list(found) == told == list(METHOD_NAMES)


def test_the_terms_are_all_that_make_the_training_peak() -> None:
    memory = memory_of(planned(columns_of(config_with())["lora"])[0])
    assert sum(getattr(memory, field) for field in TERMS.values()) == memory.training_peak_bytes


def test_python_itself_is_not_counted_twice() -> None:
    # 927 is the peak; 100 of it is there already.
    for free, fits in ((827, True), (826, False)):
        config = config_with(training={"gradient_checkpointing": "never"})
        column = columns_of(config, replace(HERE, free_bytes=free))["lora"]
        assert column.planned is not None
        assert column.planned.limit_bytes == free + 100
        assert column.planned.fits is fits


@pytest.mark.parametrize(
    ("asked", "free", "is_checkpointed"),
    [
        ("auto", 827, False),
        ("auto", 826, True),
        ("never", 826, False),
        ("always", 827, True),
        ("auto", None, False),
    ],
)
def test_activations_are_kept_where_they_fit(asked: str, free: int | None, is_checkpointed: bool) -> None:
    config = config_with(training={"gradient_checkpointing": asked})
    setup, memory = planned(columns_of(config, replace(HERE, free_bytes=free))["adapter"])
    assert setup.is_checkpointed is is_checkpointed
    assert memory == memory_of(setup)


def test_a_given_limit_goes_before_what_is_free() -> None:
    column = columns_of(config_with(), limit_bytes=10)["full"]
    assert column.planned is not None
    assert (column.planned.limit_bytes, column.planned.fits) == (10, False)


def test_time_is_told_where_there_is_a_rate() -> None:
    column = columns_of(config_with(training={"max_steps": 3}), rate=8_000.0)["lora"]
    assert column.planned is not None
    assert column.planned.duration == Duration(4 * 6_000 / (8_000.0 * EFFICIENCY["cpu"]), 3, False)
    without = columns_of(config_with())["lora"].planned
    assert without is not None and without.duration is None


def test_weights_that_learn_are_float32_masters_unless_asked_otherwise() -> None:
    dtypes = {
        (asked, name): planned(column)[0].dtype
        for asked in ("auto", "bfloat16")
        for name, column in columns_of(config_with(model={"dtype": asked}), ELSEWHERE).items()
    }
    assert dtypes[("auto", "full")] == "float32"
    assert {dtype for key, dtype in dtypes.items() if key != ("auto", "full")} == {"bfloat16"}


def test_four_bit_weights_come_with_their_optimizer() -> None:
    optims = {name: planned(column)[0].optim for name, column in columns_of(config_with(), ELSEWHERE).items()}
    assert optims.pop("qlora") == "paged_adamw_32bit"
    assert set(optims.values()) == {"adamw_torch"}
    here = columns_of(config_with())["qlora"]
    assert planned(here)[0].optim == "adamw_8bit"
    assert here.notes == ("paging of AdamW's states needs CUDA; on cpu they are held in 8 bit instead",)


def test_what_cannot_be_had_on_the_device_is_refused_for_the_chosen_method() -> None:
    with pytest.raises(ConfigError, match="paging needs CUDA"):
        columns_of(config_with(training={"optim": "paged_adamw_8bit"}))


def test_what_another_method_cannot_have_is_told_in_its_column() -> None:
    def refusing(setup: Setup) -> Memory:
        if setup.method.name == "prefix":
            raise ConfigError("no prefix for this model", hint="take another")
        return memory_of(setup)

    config = config_with()
    found = plan_methods(config, SHAPE, HERE, assumed_workload(config, device="cuda"), memory_of=refusing)
    refused = next(column for column in found if column.method == "prefix")
    assert refused == Column("prefix", None, problem="no prefix for this model")
    assert plan_as_dict(found, chosen="lora")["methods"]["prefix"] == {"problem": "no prefix for this model"}


@pytest.mark.parametrize("chosen", METHOD_NAMES)
@pytest.mark.parametrize("other", METHOD_NAMES)
def test_methods_share_the_options_that_both_know(chosen: str, other: str) -> None:
    unusual = {
        "rank": 4,
        "alpha": 5.0,
        "variant": "dora",
        "target_modules": "attention",
        "dropout": 0.25,
        "num_virtual_tokens": 6,
        "placement": "pfeiffer",
        "reduction_factor": 3.0,
    }
    own = {key: value for key, value in unusual.items() if chosen in METHODS_WITH[key]}
    settings = method_settings(other, MethodConfig.model_validate({"name": chosen, **own}))
    default = MethodConfig()
    assert settings.name == other
    for key, value in unusual.items():
        both = {chosen, other} <= set(METHODS_WITH[key])
        assert getattr(settings, key) == (value if both else getattr(default, key))


def test_a_setup_is_the_configuration_in_numbers() -> None:
    config = config_with(
        data={"path": "x", "max_length": 99},
        training={"per_device_train_batch_size": 3, "gradient_checkpointing": "always"},
        evaluation={"per_device_eval_batch_size": 5, "max_new_tokens": 7},
        method={"rank": 2},
    )
    setup, note = setup_of(
        "lora", config=config, shape=SHAPE, place=HERE, workload=assumed_workload(config, device="cuda")
    )
    assert note is None
    assert setup == Setup(
        config=SHAPE,
        method=MethodConfig(name="lora", rank=2),
        rows=3,
        length_tokens=99,
        scored_tokens=3 * 98,
        device="cpu",
        dtype="float32",
        is_checkpointed=True,
        optim="adamw_torch",
        evaluation_rows=5,
        answer_tokens=7,
    )


@pytest.mark.parametrize(
    ("asked", "dtype"), [("auto", "bfloat16"), ("float32", "float32"), ("bfloat16", "bfloat16")]
)
def test_a_device_that_is_not_here_can_be_planned(
    asked: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    place = choose_place(ModelConfig.model_validate({"device": "cuda", "dtype": asked}))
    assert (place.device, place.dtype, place.is_here, place.free_bytes) == ("cuda", dtype, False, None)
    assert place.reason == f"{dtype} on cuda, which is not here"


def test_the_cpu_is_here_and_has_memory() -> None:
    place = choose_place(ModelConfig(device="cpu"))
    assert (place.device, place.dtype, place.is_here) == ("cpu", "float32", True)
    assert place.free_bytes is not None and place.free_bytes > 0


def test_all_of_it_is_json() -> None:
    config = config_with()
    columns = tuple(columns_of(config).values())
    written = json.loads(json.dumps(plan_as_dict(columns, chosen="lora")))
    assert written["chosen"] == "lora"
    lora = written["methods"]["lora"]
    assert lora["training_peak_bytes"] == sum(lora[field] for field in TERMS.values())
    assert lora["peak_bytes"] == max(lora["training_peak_bytes"], lora["evaluation_peak_bytes"])
    assert lora["setup"]["method"]["name"] == "lora"
    found = fit(planned(columns[1])[0], limit_bytes=500, training=config.training, memory_of=memory_of)
    as_json = json.loads(json.dumps(fit_as_dict(found)))
    assert as_json["proposal"]["changes"] == {"training.gradient_checkpointing": "always"}
    assert as_json["proposal"]["flags"] == "--gradient-checkpointing always"
    assert as_json["shorter"] is None
