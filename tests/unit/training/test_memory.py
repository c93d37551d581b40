"""Memory is short in the middle of a run: the step is done again with fewer rows, nothing else changes."""

import re
import weakref
from dataclasses import replace
from itertools import islice

import pytest
import torch

from tiny_run import Told, bits, make_loop, of, random_rows, tiny_lora, train, weights
from tunesmith.errors import RunFailed
from tunesmith.training.checkpoint import checkpoints_in
from tunesmith.training.memory_error import NoMemory, half_of, is_out_of_memory, within_memory
from tunesmith.training.ranks import ALONE, Ranks

EXABYTE = 1 << 60
# Rows of one length, so that a number of rows is a number of tokens, packed or padded.
LENGTH_TOKENS = 20


def even_rows(count, *, seed):
    found = (row for row in random_rows(9 * count, seed=seed) if len(row.ids) >= LENGTH_TOKENS)
    cut = [
        replace(row, ids=row.ids[-LENGTH_TOKENS:], scored=row.scored[-LENGTH_TOKENS:])
        for row in islice(found, count)
    ]
    assert len(cut) == count
    assert all(row.scored_tokens for row in cut)
    return cut


ROWS, VALIDATION = even_rows(11, seed=0), even_rows(5, seed=9)


def exhaust_python():
    bytearray(EXABYTE)


def exhaust_torch():
    torch.empty(EXABYTE, dtype=torch.uint8)


def exhaust_cuda():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has 8 GiB.")


WAYS = [exhaust_python, exhaust_torch, exhaust_cuda]


def short_of_memory(model, way, *, rows, from_pass=1):
    """From its `from_pass`-th pass on, the model asks for too much where it sees more than `rows` rows."""
    passes = 0

    def ask(module, arguments):
        nonlocal passes
        tokens = arguments[0].shape[:2].numel()
        if tokens < LENGTH_TOKENS:  # a short look at how the model computes
            return
        passes += 1
        if passes >= from_pass and tokens > rows * LENGTH_TOKENS:
            way()

    # Behind the second layer, so that a part of the pass is already done.
    model.get_base_model().model.layers[1].register_forward_pre_hook(ask)
    return model


def double(**settings):
    """In float64: Adam divides by the gradient's size, so rounding of a tiny gradient is no tiny step."""
    return tiny_lora(**settings).double()


def assert_same_run(found, expected):
    (weights_found, lines_found, _), (weights_expected, lines_expected, _) = found, expected
    for name in ("loss", "eval_loss"):
        assert of(lines_found, name) == pytest.approx(of(lines_expected, name), abs=1e-5)
    for name, tensor in weights_expected.items():
        torch.testing.assert_close(weights_found[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("from_pass", [1, 2, 3, 4, 5])
def test_run_short_of_memory_equals_one_planned_with_fewer_rows(tmp_path, way, from_pass):
    plan = {"rows": ROWS, "num_train_epochs": 2}
    small = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    expected = train(tmp_path / "a", model=double(), **plan | small)
    model = short_of_memory(double(), way, rows=1, from_pass=from_pass)
    found = train(tmp_path / "b", model=model, **plan)
    assert_same_run(found, expected)
    (line,) = [line for line in found[1] if "micro_batch_rows" in line]
    # Windows of 4 rows are two passes, the third window is a short one of 3 rows: two passes too.
    assert (line["step"], line["micro_batch_rows"]) == ((from_pass + 1) // 2, 1)


def test_rows_are_halved_until_they_fit_and_each_time_it_is_said(tmp_path):
    big = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "rows": ROWS}
    model, told, lines = short_of_memory(double(), exhaust_torch, rows=2), Told(), []
    loop = make_loop(model, tmp_path, lambda **line: lines.append(line), progress=told, **big)
    loop.run()
    assert of(lines, "micro_batch_rows") == [4, 2]
    said = [text for text in told.lines if "memory" in text]
    assert len(said) == 2
    assert re.fullmatch(
        r"step 1: 8 rows of up to \d+ tokens do not fit into memory \(.*can't allocate memory.*\); "
        "from here on 4 at once, with the same result",
        said[0],
    )
    assert "step 1: 4 rows of up to" in said[1]
    small = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "rows": ROWS}
    expected = train(tmp_path / "b", model=double(), **small)
    assert_same_run((weights(model), lines, None), expected)


def test_choice_is_kept_in_the_checkpoint_and_by_a_resumed_run(tmp_path):
    plan = {"rows": ROWS, "validation": VALIDATION, "save_steps": 2, "max_steps": 6, "save_total_limit": 9}
    whole = train(tmp_path, model=short_of_memory(double(), exhaust_torch, rows=1), **plan)
    model, lines = short_of_memory(double(), exhaust_torch, rows=1), []
    loop = make_loop(model, tmp_path, lambda **line: lines.append(line), **plan)
    loop.resume(checkpoints_in(tmp_path)[0])
    assert (loop.state.micro_batch_rows, loop.state.eval_batch_rows, loop.micro_batch_rows) == (1, 1, 1)
    loop.run()
    assert of(lines, "micro_batch_rows") == []
    assert of(lines, "loss") == of(whole[1], "loss")[2:]
    assert bits(weights(model)) == bits(whole[0])


def test_validation_is_done_again_with_fewer_rows(tmp_path):
    plan = {"rows": ROWS, "validation": VALIDATION, "max_steps": 4, "per_device_train_batch_size": 1}
    expected = train(tmp_path / "a", model=double(), **plan)
    model, told, lines = short_of_memory(double(), exhaust_cuda, rows=1), Told(), []
    loop = make_loop(model, tmp_path / "b", lambda **line: lines.append(line), progress=told, **plan)
    trained = loop.run()
    assert_same_run((weights(model), lines, trained), expected)
    assert trained.best_step == expected[2].best_step
    said = [text.split(" tokens")[0] for text in told.lines if "memory" in text]
    longest = max(len(row.ids) for row in VALIDATION)
    assert said == [f"validation after step 0: {rows} rows of up to {longest}" for rows in (4, 2)]


def test_dropout_goes_on_as_if_the_failed_try_had_not_been(tmp_path):
    """Only the second pass of a step fails, so the first has drawn already; then all is drawn anew."""
    plan = {"rows": ROWS, "max_steps": 3}
    small = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    expected = train(tmp_path / "a", model=tiny_lora(dropout=0.3), **plan | small)
    model = short_of_memory(tiny_lora(dropout=0.3), exhaust_torch, rows=1, from_pass=2)
    found = train(tmp_path / "b", model=model, **plan)
    assert bits(found[0]) == bits(expected[0])
    assert of(found[1], "loss") == of(expected[1], "loss")


@pytest.mark.parametrize("way", WAYS)
def test_one_row_that_does_not_fit_ends_the_run_with_what_helps(tmp_path, way):
    model = short_of_memory(tiny_lora(), way, rows=0, from_pass=3)
    with pytest.raises(RunFailed, match=r"step 2: one row of \d+ tokens do not fit into memory") as caught:
        train(tmp_path, model=model, rows=ROWS)
    for remedy in ("--gradient-checkpointing always", "--max-length", "--method qlora", "tunesmith plan"):
        assert remedy in caught.value.hint


def test_with_several_processes_the_run_ends_at_once():
    message = "step 3: 8 rows do not fit, on process 1 of 4"
    with pytest.raises(RunFailed, match=message) as caught:
        half_of(8, what="step 3: 8 rows do not fit", ranks=Ranks(1, 4))
    assert "halve `--per-device-train-batch-size`" in caught.value.hint
    assert [half_of(rows, what="", ranks=ALONE) for rows in (2, 3, 8)] == [1, 1, 4]


def test_other_errors_pass(tmp_path):
    def break_down():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        train(tmp_path, model=short_of_memory(tiny_lora(), break_down, rows=1), rows=ROWS)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("expected scalar type Float but found Half"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_shortness_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


def test_failed_try_leaves_no_tensor_and_no_random_number_behind():
    kept = []

    def work():
        tensor = torch.rand(3)
        kept.append(weakref.ref(tensor))
        exhaust_torch()
        return tensor

    before = torch.get_rng_state()
    found = within_memory(work)
    assert isinstance(found, NoMemory)
    assert kept[0]() is None
    assert torch.equal(torch.get_rng_state(), before)
