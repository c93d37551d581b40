"""How our time a step grows with rows, length and model: `python -m speed_growth MODEL WORK`.

Two steps of made-up rows each, as `speed_ours` trains them; the second counts.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from peers import task
from speed_ours import configuration, train
from speed_page import Point
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

from tunesmith.data.conversation import Row
from tunesmith.data.prepare import Prepared
from tunesmith.data.render import Rendered
from tunesmith.models.find import find_model

ROWS, LENGTHS = (2, 4, 8), (64, 128, 256, 512)
FEW_ROWS, SHORT_LENGTH = 2, 128
# Width and blocks of random models; the width is that of whole heads.
MODELS = ((192, 10), (384, 20), (576, 30))
MODEL_ROWS, MODEL_LENGTH = 4, 256


def made_up(rows: int, length_tokens: int) -> Prepared:
    """Rows of random ids, the second half scored."""
    generator = torch.Generator().manual_seed(task.SEED)
    half = length_tokens // 2
    scored = (False,) * half + (True,) * (length_tokens - half)
    found = []
    for line in range(rows):
        ids = torch.randint(3, 10_000, (length_tokens,), generator=generator).tolist()
        found.append(Rendered(tuple(ids), scored, Row((), "made up", line, "messages")))
    return Prepared(tuple(found), (), (), {}, (), None)


def step_seconds(model: str, rows: int, length_tokens: int) -> float:
    """Seconds of the second step."""
    config = configuration(
        model, Path("made-up.jsonl"), max_steps=2, gradient_accumulation_steps=-(-rows // 4)
    )
    data = made_up(rows, length_tokens)
    _, lines = train(config, find_model(model), data, on_ready=lambda model: None)
    return float(rows * length_tokens / lines[-1]["tokens_per_second"])


def random_model(like: str, folder: Path, width: int, blocks: int) -> int:
    """Write a random Llama with the same vocabulary; its number of parameters."""
    config = AutoConfig.from_pretrained(like)
    heads = width // config.head_dim
    config.hidden_size, config.intermediate_size = width, width * 8 // 3
    config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads = (
        blocks,
        heads,
        heads // 3,
    )
    torch.manual_seed(task.SEED)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(like).save_pretrained(folder)
    return int(model.num_parameters())


def points(model: str, work: Path) -> Iterator[Point]:
    """All of them."""
    for rows in ROWS:
        yield Point("rows", rows, rows * SHORT_LENGTH, step_seconds(model, rows, SHORT_LENGTH))
    for length in LENGTHS:
        yield Point("length", length, FEW_ROWS * length, step_seconds(model, FEW_ROWS, length))
    for width, blocks in MODELS:
        folder = work / f"random-{width}"
        parameters = random_model(model, folder, width, blocks)
        seconds = step_seconds(str(folder), MODEL_ROWS, MODEL_LENGTH)
        yield Point("parameters", parameters, MODEL_ROWS * MODEL_LENGTH, seconds)


def main() -> None:
    """Measure and tell, as one line."""
    found = [asdict(point) for point in points(sys.argv[1], Path(sys.argv[2]))]
    print(task.MARK + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
