"""What others do on the same file: run by `data.py` with the Python of an environment of its own.

`datasets-lengths FILE` reads the file with `datasets` and maps over its rows a function that only measures
their lengths; `datasets-signs FILE` maps our own look at a row; `juicer FILE` filters the file with
data-juicer by five common operators.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tunesmith.data.audit.facts import Reading, examine
from tunesmith.data.records import Record

TEXTS = ("prompt", "completion")
OPERATORS = """
  - text_length_filter: {min_len: 10, max_len: 100000}
  - alphanumeric_filter: {min_ratio: 0.1}
  - special_characters_filter: {max_ratio: 0.9}
  - character_repetition_filter: {max_ratio: 0.9}
  - document_deduplicator: {}
"""


def lengths(row: dict[str, str]) -> dict[str, int]:
    """The least a check can do."""
    return {f"{name}_characters": len(row[name]) for name in TEXTS}


def signs(row: dict[str, str]) -> dict[str, int]:
    """What our check looks for in one row."""
    return {"signs": len(examine(Record(1, row), Reading()).hits)}


def with_datasets(file: str, function: Callable[[dict[str, str]], dict[str, int]]) -> None:
    """Read and map in two processes, without a cache of earlier runs."""
    import datasets

    with tempfile.TemporaryDirectory() as cache:
        rows = datasets.load_dataset("json", data_files=file, split="train", cache_dir=cache)
        print(len(rows.map(function, num_proc=2)))


def with_juicer(file: str) -> None:
    """Five operators in two processes."""
    from data_juicer.config import init_configs
    from data_juicer.core import DefaultExecutor

    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(
            f"dataset_path: {file}\nexport_path: {folder}/out.jsonl\nnp: 2\nopen_tracer: false\n"
            f"text_keys: completion\nuse_cache: false\nprocess:{OPERATORS}",
            encoding="utf-8",
        )
        DefaultExecutor(init_configs(["--config", str(config)])).run()


if __name__ == "__main__":
    {
        "datasets-lengths": lambda file: with_datasets(file, lengths),
        "datasets-signs": lambda file: with_datasets(file, signs),
        "juicer": with_juicer,
    }[sys.argv[1]](sys.argv[2])
