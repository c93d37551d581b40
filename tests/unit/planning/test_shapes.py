"""Shapes by name: each against the published parameter count, and what a name is taken for."""

from pathlib import Path

import pytest

from tiny import tiny_model, tiny_model_folder
from tunesmith.errors import ModelError
from tunesmith.planning.shapes import SHAPES, find_config, known_config, known_name, parameters_of

# Totals as the models' authors and the hub publish them.
PUBLISHED = {
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "tinyllama-1.1b": 1_100_048_384,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "mistral-7b": 7_248_023_552,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "phi-3-mini": 3_821_079_552,
    "phi-4": 14_659_507_200,
}


def test_each_shape_has_a_published_count() -> None:
    assert set(PUBLISHED) == set(SHAPES)


@pytest.mark.parametrize("name", SHAPES)
def test_the_computed_count_is_the_published_one(name: str) -> None:
    assert parameters_of(known_config(name)) == PUBLISHED[name]


def test_the_count_is_that_of_a_model_that_was_built() -> None:
    model = tiny_model()
    assert parameters_of(model.config) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("llama-2-7b", "llama-2-7b"),
        ("Llama-2-7B-chat", "llama-2-7b"),
        ("meta-llama/Llama-2-7b-hf", "llama-2-7b"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b"),
        ("google/gemma-2-2b-it", "gemma-2-2b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b"),
        ("microsoft/Phi-3-mini-4k-instruct", "phi-3-mini"),
        ("somebody/Llama-2-7b-hf", None),
        ("Qwen/Qwen2.5-7B-Math", None),
        ("llama-2-8b", None),
    ],
)
def test_a_name_stands_for_a_shape_only_where_that_is_sure(name: str, known: str | None) -> None:
    assert known_name(name) == known


@pytest.mark.parametrize("name", SHAPES)
def test_every_hub_id_stands_for_its_shape(name: str) -> None:
    assert known_name(SHAPES[name].hub) == name


def test_a_folder_gives_its_own_configuration(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path)
    config, about = find_config(str(folder))
    assert (config.hidden_size, config.num_hidden_layers) == (32, 2)
    assert about == f"{folder} (folder)"


def test_a_folder_goes_before_a_shape_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_model_folder(tmp_path / "llama-2-7b")
    monkeypatch.chdir(tmp_path)
    assert find_config("llama-2-7b")[0].num_hidden_layers == 2


def test_a_hub_id_without_network_is_taken_for_the_shape_it_names() -> None:
    config, about = find_config("meta-llama/Llama-2-7b-hf")
    assert config.num_hidden_layers == 32
    assert about == "llama-2-7b (its published shape; `meta-llama/Llama-2-7b-hf` itself is not at hand)"


@pytest.mark.parametrize("revision", [None, "main"])
def test_a_typo_is_answered_with_the_nearest_name(revision: str | None) -> None:
    with pytest.raises(ModelError, match="there is no folder `lama-2-7b` here") as refused:
        find_config("lama-2-7b", revision=revision)
    assert refused.value.hint == "nearest that can be planned without its files: `llama-2-7b`"


def test_a_revision_is_never_guessed() -> None:
    with pytest.raises(ModelError, match="the hub gave no such model"):
        find_config("meta-llama/Llama-2-7b-hf", revision="abc")


def test_a_name_like_nothing_keeps_the_usual_hint() -> None:
    with pytest.raises(ModelError) as refused:
        find_config("zzzzzzzz")
    assert "check the spelling and the network" in refused.value.hint
