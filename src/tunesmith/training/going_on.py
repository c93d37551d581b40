"""Which checkpoint a stopped run goes on from."""

import json
from pathlib import Path

from tunesmith.errors import RunFolderError
from tunesmith.training.checkpoint import STATE, check_checkpoint, checkpoints_in, newest_whole
from tunesmith.training.ranks import ALONE, Ranks


def checkpoint_to_go_on_from(folder: Path, *, ranks: Ranks = ALONE) -> tuple[Path | None, tuple[str, ...]]:
    """The newest checkpoint that is whole and whose best one is too, and why newer ones are passed over.

    At its end a run takes the best weights seen, so a checkpoint that points to damaged ones would end in
    an error; an earlier one, or the first step, makes them again.

    Args:
        folder: the run's `checkpoints/`; it may be absent.
        ranks: the processes of the run; all must call it, and all get the same answer.

    Returns:
        The checkpoint, or None; sentences that name checkpoint and file, newest first.

    Raises:
        RunFolderError: if the disk refuses.
    """
    newest, damaged = newest_whole(folder, ranks=ranks)
    found, passed = ranks.share(_with_whole_best(folder, newest) if ranks.is_main else (None, []))
    return Path(found) if found else None, (*damaged, *passed)


def _with_whole_best(folder: Path, newest: Path | None) -> tuple[str | None, list[str]]:
    """Path as text, and sentences: what one process can send to the others."""
    passed: list[str] = []
    older = checkpoints_in(folder)
    older = older[: older.index(newest) + 1] if newest else []
    for path in reversed(older):
        damage = _damage(path)
        if damage is None and (best := _best(path)) != path and (damage := _damage(best)):
            damage += f"; `{path.name}` needs it"
        if damage is None:
            return str(path), passed
        passed.append(damage)
    return None, passed


def _best(path: Path) -> Path:
    """The checkpoint with the best weights when `path` was written; itself where there is no other."""
    best = json.loads((path / STATE).read_text(encoding="utf-8")).get("best_step")
    return path if best is None else path.with_name(f"step-{best:06d}")


def _damage(path: Path) -> str | None:
    try:
        check_checkpoint(path)
    except RunFolderError as error:
        return str(error)
    return None
