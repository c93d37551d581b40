"""What a run settles before it starts: checkpointing only where it is needed, and everything told."""

from dataclasses import replace

import pytest
from transformers import LlamaConfig

from tiny_run import random_rows
from tunesmith.config import RunConfig
from tunesmith.planning.launch import first_peak_told, loose_bytes, plan_launch, settle_checkpointing
from tunesmith.planning.rehearse import rehearse
from tunesmith.planning.setups import Place, setup_of
from tunesmith.planning.workload import workload_of

SHAPE = LlamaConfig(
    vocab_size=48,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=4,
    num_attention_heads=2,
    pad_token_id=0,
)
ROOMY = 10**12


def launched(free_bytes=ROOMY, *, method="lora", **training):
    config = RunConfig.model_validate(
        {"data": {"path": "rows.jsonl"}, "method": {"name": method}, "training": training}
    )
    workload = workload_of(random_rows(12), config, has_validation=True, has_test=True, device="cpu")
    place = Place("cpu", "float32", True, free_bytes, "")
    return plan_launch(config, SHAPE, place, workload), config, place, workload


def test_nothing_is_left_open():
    launch = launched()[0]
    assert launch.training.optim == "adamw_torch"
    assert launch.training.gradient_checkpointing == "never"
    assert not launch.is_checkpointed
    assert launch.as_dict()["peak_bytes"] == launch.memory.peak_bytes > 0


def test_activations_are_kept_where_they_fit_and_only_there():
    _, config, place, workload = launched()
    setup, _ = setup_of("lora", config=config, shape=SHAPE, place=place, workload=workload)
    need = (kept := rehearse(setup)).training_peak_bytes - kept.runtime_bytes
    assert settle_checkpointing(setup, is_open=True, free_bytes=need) == (setup, kept)
    chosen, memory = settle_checkpointing(setup, is_open=True, free_bytes=need - 1)
    assert chosen == replace(setup, is_checkpointed=True)
    assert memory.activations_bytes < kept.activations_bytes
    assert settle_checkpointing(setup, is_open=False, free_bytes=0) == (setup, kept)


def test_what_may_not_fit_is_told_and_not_refused():
    launch = launched(free_bytes=1000)[0]
    assert launch.is_checkpointed
    (told,) = launch.notes
    assert "activations are computed again instead of kept, because keeping them would not fit" in told
    assert told.endswith("this may not fit: `tunesmith plan --fit` proposes what would")


@pytest.mark.parametrize(("asked", "is_checkpointed"), [("always", True), ("never", False)])
def test_what_was_asked_for_is_done(asked, is_checkpointed):
    launch = launched(free_bytes=1000, gradient_checkpointing=asked)[0]
    assert launch.is_checkpointed == is_checkpointed
    assert "instead of kept" not in launch.notes[0]


def test_an_optimizer_other_than_the_usual_is_told():
    launch = launched(method="qlora")[0]
    assert launch.training.optim == "adamw_8bit"
    assert "paging of AdamW's states needs CUDA" in launch.notes[0]


def test_first_peak_is_told_once_beside_the_plan():
    launch = launched()[0]
    lines, said = [], []
    record = first_peak_told(launch, lambda **line: lines.append(line), said.append)
    record(step=0, eval_loss=2.0)
    record(step=1, loss=2.0, peak_memory_bytes=1_250_000_000)
    record(step=2, loss=1.9, peak_memory_bytes=1_300_000_000)
    assert [line["step"] for line in lines] == [0, 1, 2]
    (told,) = said
    expected = launch.expected_bytes / 1e9
    assert told == (
        f"first step: peak memory 1.25 GB; expected with the largest micro-batch: {expected:.2f} GB"
    )


def test_heap_is_held_small_where_it_would_not_fit_else_and_only_there():
    memory = launched()[0].memory
    loose, held = loose_bytes(memory), memory.training_peak_bytes
    assert loose > held
    roomy = launched(free_bytes=loose - memory.runtime_bytes)[0]
    assert (roomy.is_heap_small, roomy.expected_bytes) == (False, loose)
    tight = launched(free_bytes=loose - memory.runtime_bytes - 1)[0]
    assert (tight.is_heap_small, tight.expected_bytes) == (True, held)
    assert not tight.is_checkpointed
    assert "memory is given back at each turn, which costs time" in tight.notes[0]
    assert "given back" not in roomy.notes[0]
