import re
import subprocess
import sys

import psutil
import pytest
import torch

from tunesmith.errors import ConfigError
from tunesmith.hardware import (
    Hardware,
    choose_hardware,
    describe_device,
    free_memory_bytes,
    peak_memory_bytes,
)

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
without_mps = pytest.mark.skipif(torch.backends.mps.is_available(), reason="an MPS device is here")


@pytest.fixture
def can_bfloat16(monkeypatch):
    """Lets the processor multiply in bfloat16, or not."""
    return lambda can: monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: can)


def test_cpu_as_asked_computes_in_float32(can_bfloat16):
    can_bfloat16(False)
    chosen = choose_hardware(device="cpu")
    threads = torch.get_num_threads()
    assert chosen == Hardware("cpu", "float32", f"float32 on cpu, {threads} threads (device as asked)")
    assert chosen.torch_dtype is torch.float32
    assert chosen.mixed_precision == "no"


def test_dtype_as_asked():
    chosen = choose_hardware(device="cpu", dtype="bfloat16")
    assert (chosen.dtype, chosen.torch_dtype, chosen.mixed_precision) == ("bfloat16", torch.bfloat16, "bf16")
    assert chosen.reason.endswith("(device as asked and dtype as asked)")


def test_cpu_that_multiplies_in_bfloat16_computes_in_float32_and_says_what_is_faster(can_bfloat16):
    can_bfloat16(True)
    chosen, told = choose_hardware(device="cpu"), "`--dtype bfloat16` takes less time here"
    assert chosen.dtype == "float32"
    assert f"(device as asked; {told}, and rounds more coarsely)" in chosen.reason
    assert told not in choose_hardware(device="cpu", dtype="float32").reason


@without_cuda
@without_mps
def test_auto_takes_the_cpu_where_nothing_is_faster(can_bfloat16):
    can_bfloat16(False)
    chosen = choose_hardware()
    assert (chosen.device, chosen.dtype) == ("cpu", "float32")
    assert chosen.reason.endswith("(the safe choice here)")
    assert choose_hardware(dtype="float32").reason.endswith("(dtype as asked)")


@without_cuda
def test_cuda_that_is_not_there():
    with pytest.raises(ConfigError, match="`device` is cuda, and no CUDA device is visible") as caught:
        choose_hardware(device="cuda")
    assert caught.value.hint == "use `--device auto`"


@without_mps
def test_mps_that_is_not_there():
    with pytest.raises(ConfigError, match="`device` is mps, and this machine has none") as caught:
        choose_hardware(device="mps")
    assert caught.value.hint == "use `--device auto`"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
def test_auto_takes_cuda_and_a_type_it_computes_in():
    chosen = choose_hardware()
    assert chosen.device == "cuda"
    can = torch.cuda.is_bf16_supported(including_emulation=False)
    assert chosen.dtype == ("bfloat16" if can else "float32")
    assert torch.cuda.get_device_name() in chosen.reason


def test_descriptions():
    assert re.fullmatch(r"cpu, [1-9]\d* threads", describe_device("cpu"))
    assert describe_device("mps") == "mps"


def test_peak_memory_is_in_bytes_and_covers_what_was_held():
    held = torch.ones(32_000_000)
    peak = peak_memory_bytes("cpu")
    assert held.nbytes < peak < 1 << 40
    assert peak_memory_bytes("cpu") >= peak


def test_free_memory_is_at_most_what_the_machine_has():
    free = free_memory_bytes("cpu")
    assert 0 < free <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [("3000000", "1000000", 2_000_000), ("1000", "5000", 0), ("max", "5000", None)],
)
def test_limit_of_a_container_counts(tmp_path, monkeypatch, limit, used, expected):
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    monkeypatch.setattr("tunesmith.hardware.CGROUP", tmp_path)
    free = free_memory_bytes("cpu")
    assert free == expected if expected is not None else free > 10_000_000


def test_peak_memory_is_this_process_own_and_not_that_of_its_parent():
    held = torch.ones(100_000_000)
    code = "from tunesmith.hardware import peak_memory_bytes; print(peak_memory_bytes('cpu'))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(child.stdout) < peak_memory_bytes("cpu") - 0.5 * held.nbytes
