"""One clean room for all tests: offline, one thread, a fixed seed, no settings of the user's."""

import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# For programs that tests start: threads of one that wait for each other beside another take thrice as long.
os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis
import pytest
import torch

# A shell that starts the tests in the background lets them ignore Ctrl-C, and so would every run they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)
# A busy machine is no reason to fail.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.load_profile("house")


@pytest.fixture(autouse=True)
def clean_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model cache stays the user's own, so that the embedded model is converted once."""
    for name in ("HF_TOKEN", "CUDA_VISIBLE_DEVICES", "COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def bench() -> Iterator[Callable[[str], ModuleType]]:
    """Loads a module of the benchmarks by name."""
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module
    sys.path.remove(folder)
