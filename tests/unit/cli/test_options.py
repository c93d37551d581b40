"""Flags are made from the configuration and handed on in its shape."""

import inspect
from typing import Any

import pytest

from tunesmith.cli.main import main
from tunesmith.cli.options import given, with_options
from tunesmith.resolve import options


def test_every_option_is_a_flag_of_train() -> None:
    @with_options()
    def command(**flags: Any) -> None:
        """Do nothing."""

    names = set(inspect.signature(command).parameters)
    assert {option.flag.replace("-", "_") for option in options()} <= names


def test_a_command_can_have_some_of_the_options() -> None:
    @with_options(["data.path", "training.seed"])
    def command(**flags: Any) -> None:
        """Do nothing."""

    assert list(inspect.signature(command).parameters) == ["data", "seed", "unknown"]


@pytest.mark.parametrize(
    ("value", "shaped"),
    [
        (["all-linear"], "all-linear"),
        (["attention"], "attention"),
        (["q_proj,v_proj"], ["q_proj", "v_proj"]),
        (["q_proj", "v_proj"], ["q_proj", "v_proj"]),
    ],
)
def test_target_modules_are_a_word_or_names(value: list[str], shaped: object) -> None:
    assert given({"target_modules": value}) == {"target-modules": shaped}


def test_columns_are_pairs_and_what_is_not_given_is_left_out() -> None:
    assert given({"columns": ["instruction=q", "output=a=b"], "rank": None}) == {
        "columns": {"instruction": "q", "output": "a=b"}
    }


def test_help_shows_each_fields_docstring_default_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--help"])
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--learning-rate STR Peak learning rate of AdamW; if not given:" in shown
    assert "[choices: refuse, drop, truncate] [default: refuse]" in shown
