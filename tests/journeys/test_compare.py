"""A comparison with the embedded model from the command line: all five, twice."""

import json

import pytest

from tunesmith.approaches.compare import compare
from tunesmith.approaches.settings import APPROACHES, CompareSettings
from tunesmith.progress import Silent
from tunesmith.resolve import resolve

MOODS = {"lovely": "good", "awful": "bad", "great": "good", "terrible": "bad"}
THINGS = ("soup", "film", "room", "train")


@pytest.mark.real_model
def test_five_approaches_on_the_embedded_model(tmp_path):
    rows = [
        {"instruction": f"The {thing} was {word}. Good or bad?", "output": mood}
        for thing in THINGS
        for word, mood in MOODS.items()
    ]
    for name, those in (("rows", rows[:12]), ("test", rows[12:])):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in those), encoding="utf-8"
        )
    flags = {
        "data": str(tmp_path / "rows.jsonl"),
        "test-file": str(tmp_path / "test.jsonl"),
        "validation-size": "0",
        "gradient-accumulation-steps": "1",
        "max-steps": "2",
        "max-new-tokens": "4",
        "bootstrap-resamples": "100",
    }
    settings = CompareSettings(shots=2, passages=2)
    found = compare(resolve(None, flags), settings, folder=tmp_path / "out", progress=Silent())
    assert found.findings.names == APPROACHES
    costs = {result.name: result.costs for result in found.findings.results}
    assert costs["few-shot"].shared_share > 0.3
    assert costs["fine-tuned"].prompt_tokens < costs["few-shot"].prompt_tokens
    assert costs["fine-tuned"].training.peak_memory_bytes > 0
    answers = [
        json.loads(line)["answers"] for line in (found.folder / "answers.jsonl").read_text().splitlines()
    ]
    assert len(answers) == 4
    again = compare(resolve(None, flags), settings, folder=tmp_path / "out", progress=Silent())
    assert again.findings == found.findings
