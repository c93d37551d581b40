"""What decides a run's result, as a flat record, and how it differs from the record a run began with.

A run that goes on ends in the bytes it would have reached only where all of this is what it was. Left out is
what changes nothing in the weights: paths (the contents count), when checkpoints are written and how many are
kept, and the whole `evaluation` section: it is measured at the end, from the weights, and may be chosen anew.

Threads are recorded and only warned of: sums cut up between more cores round otherwise in their last bits,
but the run is the same one, and a machine with other cores must be able to go on with it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from tunesmith.config import RunConfig
from tunesmith.data.conversation import Row
from tunesmith.data.prepare import Prepared
from tunesmith.data.render import Template
from tunesmith.errors import RunFolderError
from tunesmith.hardware import Hardware
from tunesmith.models.find import ModelSource

Identity = dict[str, Any]

LIBRARIES = ("tunesmith", "torch", "transformers", "tokenizers", "peft", "accelerate", "bitsandbytes")
FILES = ("path", "validation_file", "test_file")
_WITHOUT_EFFECT = {"training.save_steps", "training.save_total_limit"}
_WARNED_OF = {"threads"}
# What is trained, or the optimizer's state of it, has another shape, so a checkpoint cannot be taken up.
_SHAPES = {
    "method.name",
    "method.rank",
    "method.variant",
    "method.target_modules",
    "method.num_virtual_tokens",
    "method.placement",
    "method.reduction_factor",
    "training.optim",
}

# Prints of single rows up to this many; above it, of blocks of rows.
MOST_PRINTS = 1024
_PRINT_BYTES, _SHOWN_HEX = 4, 12


@dataclass(frozen=True, slots=True)
class Drift:
    """One field that is not what the run began with.

    Attributes:
        field: its name, such as `training.seed`.
        then: value on record; None where the run had none.
        now: value that going on would have.
        detail: more about where they differ, such as the row of a file; may be empty.
    """

    field: str
    then: Any
    now: Any
    detail: str = ""

    @property
    def is_shape(self) -> bool:
        """Whether the run's checkpoints do not fit any more."""
        return self.field in _SHAPES

    @property
    def is_warning(self) -> bool:
        """Whether it changes rounding only."""
        return self.field in _WARNED_OF

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.field}: {_shown(self.then)} then, {_shown(self.now)} now{detail}"


def identity_of(
    config: RunConfig, *, data: Prepared, template: Template, source: ModelSource, hardware: Hardware
) -> Identity:
    """All that decides a run's result, JSON-ready, by field.

    Args:
        config: of the run; its `training`, `method` and `data` sections count.
        data: rows as they are now.
        template: that renders them.
        source: the pretrained model.
        hardware: where it is computed.
    """
    return {
        **_options(config),
        **_files(config, data),
        "template.sha256": template.sha256,
        "model.fingerprint": source.fingerprint,
        "device": hardware.device,
        "dtype": hardware.dtype,
        "threads": torch.get_num_threads(),
        **{f"versions.{name}": version(name) for name in LIBRARIES},
    }


def _options(config: RunConfig) -> Identity:
    values = config.model_dump(mode="json", include={"training", "method", "data"})
    paths = {f"data.{name}" for name in (*FILES, "template")}
    found = {f"{part}.{name}": value for part, of in values.items() for name, value in of.items()}
    return {key: value for key, value in found.items() if key not in paths | _WITHOUT_EFFECT}


def _files(config: RunConfig, data: Prepared) -> Identity:
    """Of each data file its sha256 and the prints of the rows the run uses."""
    found: Identity = {}
    for name in FILES:
        path = getattr(config.data, name)
        if path:
            found[f"data.{name}"] = {
                "sha256": data.account["files"][path],
                **fingerprint_rows(rows_of(data, path)),
            }
    return found


def rows_of(data: Prepared, path: str) -> list[Row]:
    """The rows a run uses of one file, in the file's order."""
    used = (rendered.row for part in (data.train, data.validation, data.test) for rendered in part)
    return sorted((row for row in used if row.path == path), key=lambda row: row.line)


def fingerprint_rows(rows: Iterable[Row]) -> dict[str, Any]:
    """Number of rows, and a print of each row or, of many, of each block of `block_rows`."""
    texts = [json.dumps([[m.role, m.content, m.input] for m in row.messages]).encode() for row in rows]
    block_rows = max(1, -(-len(texts) // MOST_PRINTS))
    prints = []
    for start in range(0, len(texts), block_rows):
        digest = blake2b(digest_size=_PRINT_BYTES)
        for text in texts[start : start + block_rows]:
            digest.update(blake2b(text).digest())
        prints.append(digest.hexdigest())
    return {"rows": len(texts), "block_rows": block_rows, "prints": prints}


def drifts(
    then: Mapping[str, Any], now: Mapping[str, Any], *, data: Prepared, config: RunConfig
) -> list[Drift]:
    """Every field that differs, in the order of the record.

    Args:
        then: identity the run began with.
        now: identity it would go on with.
        data: rows as they are now, to name those that changed.
        config: names their files.
    """
    fields = [*now, *(field for field in then if field not in now)]
    found = []
    for field in fields:
        before, after = then.get(field), now.get(field)
        if before == after:
            continue
        part, _, name = field.partition(".")
        is_file = part == "data" and name in FILES
        path = getattr(config.data, name) if is_file else None
        detail = _changed_rows(before, after, rows_of(data, path)) if before and after and path else ""
        found.append(Drift(field, _file_sum(before), _file_sum(after), detail))
    return found


def _file_sum(value: Any) -> Any:
    """Of a file's record what a person can compare."""
    if isinstance(value, Mapping) and "sha256" in value:
        return f"sha256 {value['sha256'][:_SHOWN_HEX]}"
    return value


def _changed_rows(then: Mapping[str, Any], now: Mapping[str, Any], rows: list[Row]) -> str:
    """Where the rows of a file that changed differ first."""
    counts = f"{then['rows']} rows then, {now['rows']} now" if then["rows"] != now["rows"] else ""
    if then["block_rows"] != now["block_rows"]:
        return counts
    pairs = zip_longest(then["prints"], now["prints"])
    changed = [at for at, (before, after) in enumerate(pairs) if before != after]
    if not changed:
        return "the rows that the run uses are the same"
    block = rows[changed[0] * now["block_rows"] : (changed[0] + 1) * now["block_rows"]]
    places = [part for part in (counts, _place(block), _further(changed, counts)) if part]
    return "; ".join(places)


def _place(block: list[Row]) -> str:
    if not block:
        return "rows at the end are gone"
    first, last = block[0], block[-1]
    if first is last:
        return f"{first.place} is another row"
    return f"{first.place} to line {last.line} hold another row"


def _further(changed: list[int], counts: str) -> str:
    """How much more changed; where rows came or went, all behind them moved, which says nothing."""
    more = len(changed) - 1
    return f"and {more} more" if more and not counts else ""


def check_identity(found: list[Drift], run: Path, *, accept_drift: bool) -> tuple[str, ...]:
    """What to tell the user before a run goes on in spite of its drifts.

    Args:
        found: from `drifts`.
        run: the run's folder.
        accept_drift: go on wherever the checkpoints still fit.

    Raises:
        RunFolderError: lists every drift, unless they are accepted and can be.
    """
    warned = tuple(
        f"note: {drift}; the last bits of the result may differ" for drift in found if drift.is_warning
    )
    grave = [drift for drift in found if not drift.is_warning]
    shapes = [drift.field for drift in grave if drift.is_shape]
    if not grave:
        return warned
    listed = "\n".join(f"  {drift}" for drift in grave)
    if accept_drift and not shapes:
        return (*warned, f"going on although the run began otherwise:\n{listed}")
    raise RunFolderError(
        f"run `{run}` began otherwise, so going on would not end where it would have ended:\n{listed}",
        hint=_remedy(run, shapes),
    )


def _remedy(run: Path, shapes: list[str]) -> str:
    new = f"start a new run from `{run / 'config.yaml'}`"
    if shapes:
        named = ", ".join(f"`{field}`" for field in shapes)
        return (
            f"put it back or {new}; with another {named} the checkpoints do not fit, so it cannot be accepted"
        )
    return (
        f"put it back, or {new}; `tunesmith train --resume {run} --accept-drift` goes on all the same, "
        "to a result that neither gives alone"
    )


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)
