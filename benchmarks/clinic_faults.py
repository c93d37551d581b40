"""What makes a run of ours ill from outside: too little memory, and rows that come slowly.

All of it is real: the allocator refuses, the clock runs. Only where in the run it happens is chosen here.
"""

import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunesmith import pipeline
from tunesmith.data.render import Rendered

MEGABYTE = 1 << 20
# What a layer keeps of a token when its activations are computed again.
KEPT_WHEN_CHECKPOINTED = 0.2


@contextmanager
def planted(fault: str) -> Iterator[None]:
    """A fault of the run for as long as this lasts: `hungry:MB_A_TOKEN/ROOM_MB` or `slow_rows:MS`."""
    kind, _, argument = fault.partition(":")
    if kind == "hungry":
        need, room = map(float, argument.split("/"))
        yield from _replaced("prepare_model", lambda before: _hungry_model(before, need, room))
    elif kind == "slow_rows":
        yield from _replaced("Loop", lambda before: _slow_loop(before, float(argument) / 1000))
    elif kind:
        raise ValueError(f"no fault of our own runs is called {kind!r}")
    else:
        yield


def _replaced(name: str, made: Any) -> Iterator[None]:
    before = getattr(pipeline, name)
    setattr(pipeline, name, made(before))
    try:
        yield
    finally:
        setattr(pipeline, name, before)


def _hungry_model(prepare: Any, need: float, room: float) -> Any:
    def prepare_hungry(*arguments: Any) -> Any:
        tuned, parameters = prepare(*arguments)
        make_hungry(tuned.model, need_a_token=need * MEGABYTE, room=room * MEGABYTE)
        return tuned, parameters

    return prepare_hungry


def make_hungry(model: nn.Module, *, need_a_token: float, room: float) -> None:
    """The second layer wants scratch memory for each token it trains on, and little address space is left.

    Args:
        model: any causal model with layers.
        need_a_token: bytes.
        room: bytes that may be taken beyond what the process has.
    """

    def ask(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if not module.training:
            return
        tokens = arguments[0].shape[:2].numel()
        kept = KEPT_WHEN_CHECKPOINTED if getattr(module, "gradient_checkpointing", False) else 1.0
        with address_space_left(int(room)):
            torch.empty(int(tokens * need_a_token * kept), dtype=torch.uint8)

    layer = next(part for name, part in model.named_modules() if name.endswith("layers.1"))
    layer.register_forward_pre_hook(ask)


@contextmanager
def address_space_left(room: int) -> Iterator[None]:
    """This process may take so many bytes more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class SlowRow:
    """A row whose ids are fetched from somewhere slow each time they are asked for."""

    def __init__(self, row: Rendered, seconds: float) -> None:
        self._row, self._seconds = row, seconds

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids, after a wait."""
        time.sleep(self._seconds)
        return self._row.ids

    def __getattr__(self, name: str) -> Any:
        return getattr(self._row, name)


def _slow_loop(loop: Any, seconds: float) -> Any:
    def make(model: nn.Module, rows: Sequence[Rendered], *rest: Any, **named: Any) -> Any:
        return loop(model, [SlowRow(row, seconds) for row in rows], *rest, **named)

    return make
