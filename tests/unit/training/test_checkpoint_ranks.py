"""Two processes save and look for the newest checkpoint: rank 0 does, and both say the same."""

import json
import subprocess
import sys

import pytest

from tunesmith.training.checkpoint import newest_whole

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="children are forked")

CHILD = """
import json, os, sys
import torch
from torch import distributed
from pathlib import Path
from tunesmith.errors import RunFolderError
from tunesmith.training.checkpoint import newest_whole, save_checkpoint
from tunesmith.training.ranks import Ranks

store, folder, blocked, said_by = map(Path, sys.argv[1:])
other = os.fork()
rank = 0 if other else 1
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
ranks = Ranks(rank, 2)
torch.manual_seed(1)
model = torch.nn.Linear(2, 2)
parts = {"model": model, "optimizer": torch.optim.AdamW(model.parameters()), "state": {}, "ranks": ranks}
said = []
for where, step in ((folder, 3), (folder, 4), (blocked, 5)):
    try:
        said.append(str(save_checkpoint(where, step=step, **parts)))
    except RunFolderError as error:
        said.append([str(error), error.hint])
if ranks.is_main:
    (folder / "step-000004" / "state.json").unlink()
ranks.wait()
said.append([str(found) for found in newest_whole(folder, ranks=ranks)])
ranks.wait()
(said_by / str(rank)).write_text(json.dumps(said))
ranks.leave()
if other:
    sys.exit(os.waitpid(other, 0)[1])
"""


def test_refusal_and_newest_checkpoint_are_the_same_in_both_processes(tmp_path):
    folder, blocked = tmp_path / "checkpoints", tmp_path / "file" / "run" / "checkpoints"
    (tmp_path / "file").write_text("mine")
    said_by = tmp_path / "said"
    said_by.mkdir()
    subprocess.run(
        [sys.executable, "-c", CHILD, tmp_path / "store", folder, blocked, said_by], check=True, timeout=100
    )
    first, second = (json.loads((said_by / rank).read_text()) for rank in "01")
    assert first == second
    *paths, refusal, newest = first
    assert paths == [str(folder / "step-000003"), str(folder / "step-000004")]
    assert refusal == [
        f"checkpoint `{blocked / 'step-000005'}` cannot be written: Not a directory",
        f"make the folder writable, then go on with `tunesmith train --resume {blocked.parent}`",
    ]
    found, damaged = newest_whole(folder)
    assert found == folder / "step-000003"
    assert newest == [str(found), str(damaged)]
    assert len(damaged) == 1
