"""Started by a launcher in each process: tiny runs whose outcome the journey compares with one process.

accelerate launch --config_file examples/devices/ddp.yaml tests/two_processes.py OUT
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

from tiny_run import make_loop, random_rows, tiny_full, tiny_lora
from tunesmith.training.ranks import this_process
from tunesmith.training.shards import whole_weights

# 17 rows in windows of 8: two whole ones, and one of a single row, with none for the second process.
ROWS, VALIDATION = random_rows(17), random_rows(5, seed=9)
SETTINGS = {"num_train_epochs": 2, "eval_steps": 2, "save_steps": 1, "save_total_limit": 9}
PROMPT = torch.tensor([[5, 9, 2, 7]])


def loop_of(model, folder, record, *, accumulation):
    """A loop of 6 steps that validates at every second one and keeps every checkpoint."""
    return make_loop(
        model,
        folder / "checkpoints",
        record,
        rows=ROWS,
        validation=VALIDATION,
        gradient_accumulation_steps=accumulation,
        **SETTINGS,
    )


def run(model, folder, *, accumulation, resume=None):
    """Train, answer one prompt and save, all processes together; leaves files in `folder`."""
    ranks, lines = this_process(), []
    folder.mkdir(parents=True, exist_ok=True)
    loop = loop_of(model, folder, lambda **line: lines.append(line), accumulation=accumulation)
    held = sum(getattr(p, "_local_tensor", p).numel() for p in model.parameters())
    if resume:
        loop.resume(resume)
    trained = loop.run()
    answer = model.generate(input_ids=PROMPT, max_new_tokens=5, do_sample=False, pad_token_id=0).tolist()
    outcome = {"lines": lines, "steps": trained.steps, "tokens": trained.tokens, "best": trained.best_step}
    (folder / f"rank{ranks.rank}.json").write_text(json.dumps(outcome | {"answer": answer, "held": held}))
    with whole_weights(model, ranks):
        if ranks.is_main:
            learned = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
            save_file(learned, folder / "weights.safetensors")
            model.save_pretrained(folder / "saved")
    ranks.wait()


def step_of(folder, step):
    return folder / "checkpoints" / f"step-{step:06d}"


def main():
    warnings.simplefilter("error")
    # peft 0.21 reads an attribute that transformers 5.23 renamed; gone with the next peft.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    torch.set_num_threads(1)
    ranks = this_process()
    alone, out = map(Path, ranks.share(sys.argv[1:3]))
    run(tiny_lora(), out / "lora", accumulation=2)
    run(tiny_full(), out / "full", accumulation=2)
    # As its configuration said it for one process: the rows of a step stay those of the checkpoint.
    run(tiny_lora(), out / "resumed", accumulation=4, resume=step_of(alone / "lora", 3))
    run(tiny_lora(dropout=0.1), out / "dropout", accumulation=2)
    dropped = step_of(out / "dropout", 3)
    run(tiny_lora(dropout=0.1), out / "dropout-resumed", accumulation=2, resume=dropped)
    ranks.leave()


if __name__ == "__main__":
    main()
