"""Settings of a comparison: whatever cannot be meant is refused, all of it at once."""

from pathlib import Path

import pytest

from tunesmith.approaches.settings import APPROACHES, CompareSettings, Prices, check_settings
from tunesmith.errors import ConfigError


def test_the_defaults_are_fine_and_ordered():
    check_settings(CompareSettings())
    assert CompareSettings(approaches=tuple(reversed(APPROACHES))).ordered == APPROACHES
    assert not CompareSettings(approaches=("rag", "zero-shot")).needs_run
    assert CompareSettings(approaches=("fine-tuned+rag",)).needs_run


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (CompareSettings(approaches=("few-shots",)), "`few-shots` is no approach; did you mean `few-shot`?"),
        (CompareSettings(approaches=("magic",)), "`magic` is no approach; there are zero-shot, few-shot"),
        (CompareSettings(approaches=()), "there is no approach to compare"),
        (CompareSettings(approaches=("rag", "rag")), "approach `rag` is named twice"),
        (CompareSettings(shots=0), "`shots` is 0, and must be at least 1"),
        (CompareSettings(passages=-1), "`passages` is -1, and must be at least 1"),
        (CompareSettings(documents=Path("nowhere")), "`documents` is `nowhere`, which is no folder"),
        (
            CompareSettings(approaches=("few-shot",), embeddings="m"),
            "`embeddings` has no effect without rag or fine-tuned",
        ),
        (CompareSettings(approaches=("rag",), run=Path("r")), "`run` has no effect without fine-tuned"),
        (CompareSettings(prices=Prices(hour=-1)), "`price_hour` is -1; a price is a number from 0 up"),
        (CompareSettings(prices=Prices(hour=float("nan"))), "`price_hour` is nan"),
        (CompareSettings(prices=Prices(prompt=1)), "`price_prompt` is given without `price_answer`"),
        (CompareSettings(prices=Prices(answer=1)), "`price_answer` is given without `price_prompt`"),
        (CompareSettings(prices=Prices(currency="EUR")), "`currency` has no effect without a price"),
        (CompareSettings(prices=Prices(hour=1, currency="E\n")), "at most 8 printable characters"),
    ],
)
def test_what_cannot_be_meant_is_named(settings, message):
    with pytest.raises(ConfigError) as caught:
        check_settings(settings)
    assert message in str(caught.value)
    assert "compare --help" in caught.value.hint


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError, match="3 problems") as caught:
        check_settings(CompareSettings(shots=0, passages=0, prices=Prices(hour=-2)))
    assert str(caught.value).count("\n") == 3
