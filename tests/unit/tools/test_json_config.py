import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.tools.json_config import check_config, is_config_name

ADAPTER = {
    "peft_type": "LORA",
    "base_model_name_or_path": "org/model",
    "r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "target_modules": ["q_proj"],
    "task_type": "CAUSAL_LM",
}
MODEL = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 49152}


def messages(name, value):
    return [warning.message for warning in check_config(name, value)]


def test_only_two_names_are_configs():
    assert is_config_name("config.json")
    assert is_config_name("adapter_config.json")
    assert not is_config_name("rows.json")


def test_good_configs_have_no_warning():
    assert check_config("adapter_config.json", ADAPTER) == []
    assert check_config("config.json", MODEL | {"rope_scaling": None, "pad_token_id": 3}) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"r": "8"}, "`r` must be a whole number above 0"),
        ({"r": True}, "`r` must be a whole number above 0"),
        ({"lora_alpha": None}, "`lora_alpha` must be a number"),
        ({"lora_dropout": 10}, "`lora_dropout` must be a number from 0 to 1"),
        ({"target_modules": [1]}, "`target_modules` must be a list of texts, text or null"),
        ({"task_type": 1}, "`task_type` must be text or null"),
        ({"use_dora": "no"}, "`use_dora` must be true or false"),
        ({"modules_to_save": "x"}, "`modules_to_save` must be a list of texts or null"),
    ],
)
def test_a_value_of_another_type_is_named(change, says):
    assert messages("adapter_config.json", ADAPTER | change) == [says]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("rank", "r"), ("lora_rank", "r"), ("target_module", "target_modules"), ("lora_aplha", "lora_alpha")],
)
def test_a_near_miss_is_named_and_not_called_missing_too(wrong, right):
    value = {wrong if key == right else key: inner for key, inner in ADAPTER.items()}
    assert messages("adapter_config.json", value) == [
        f"no loader reads `{wrong}`; the key is called `{right}`"
    ]


@pytest.mark.parametrize("key", ["peft_type", "base_model_name_or_path", "r", "target_modules"])
def test_a_missing_key_is_named(key):
    value = {name: inner for name, inner in ADAPTER.items() if name != key}
    assert messages("adapter_config.json", value) == [f"the key `{key}` is missing"]


def test_a_config_that_is_no_object_is_named():
    assert messages("config.json", [MODEL]) == ["`config.json` must hold one object"]


@given(
    value=st.dictionaries(
        st.sampled_from([*ADAPTER, *MODEL, "rank"]) | st.text(max_size=5),
        st.none() | st.booleans() | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    ),
    name=st.sampled_from(["config.json", "adapter_config.json"]),
)
def test_any_object_is_judged(value, name):
    for warning in check_config(name, value):
        assert warning.key is None or warning.key in value
