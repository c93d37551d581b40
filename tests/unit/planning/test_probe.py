"""The probe: a real micro-batch in a child process, and the plan after it."""

from dataclasses import replace

import pytest
from transformers import AutoConfig

from tiny import tiny_model_folder
from tunesmith.config import MethodConfig
from tunesmith.errors import RunFailed
from tunesmith.planning.probe import Probe, corrected, probe
from tunesmith.planning.rehearse import Setup, rehearse


def setup(folder, **changes):
    planned = Setup(
        config=AutoConfig.from_pretrained(folder),
        method=MethodConfig(rank=2),
        rows=2,
        length_tokens=16,
        scored_tokens=17,
        device="cpu",
        dtype="float32",
        is_checkpointed=False,
        optim="adamw_torch",
        evaluation_rows=1,
        answer_tokens=0,
    )
    return replace(planned, **changes)


def test_a_probe_measures_a_real_micro_batch(tmp_path):
    planned = setup(tiny_model_folder(tmp_path))
    probed = probe(planned, model_name=str(tmp_path), revision=None)
    memory = rehearse(planned)
    # Nearly all of it is Python and its libraries here.
    assert probed.peak_bytes == pytest.approx(memory.training_peak_bytes, rel=0.15)
    assert 0 < probed.seconds_per_micro_batch < 30
    after = corrected(memory, probed)
    assert after.training_peak_bytes == probed.peak_bytes == max(after.loading_bytes, probed.peak_bytes)


def test_a_probe_that_fails_says_why(tmp_path):
    planned = setup(tiny_model_folder(tmp_path), rows=1, length_tokens=24, scored_tokens=8)
    with pytest.raises(
        RunFailed, match=r"the probe of 1 rows x 24 tokens with `lora` failed: (?s:.*)no such"
    ) as said:
        probe(planned, model_name=str(tmp_path / "no such.gguf"), revision=None)
    assert "tunesmith plan --fit" in said.value.hint


@pytest.mark.parametrize("peak", [100, 10**9, 10**12])
def test_a_corrected_plan_has_the_measured_peak_and_keeps_its_other_terms(tmp_path, peak):
    memory = rehearse(setup(tiny_model_folder(tmp_path)))
    after = corrected(memory, Probe(peak_bytes=peak, seconds_per_micro_batch=1.0))
    assert after.training_peak_bytes == peak
    assert after.loading_bytes <= peak
    assert replace(after, workspace_bytes=0, loading_bytes=0) == replace(
        memory, workspace_bytes=0, loading_bytes=0
    )
