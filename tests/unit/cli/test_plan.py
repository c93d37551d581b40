"""`tunesmith plan`: what it takes, what it prints, and what it hands to machines."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App

from tiny import tiny_model_folder
from tunesmith.cli.plan import plan
from tunesmith.cli.plan_text import BAR_WIDTH, bars, fit_lines, gigabytes, shown_seconds
from tunesmith.config import METHOD_NAMES, MethodConfig, TrainingConfig
from tunesmith.errors import ConfigError, ModelError, UserError
from tunesmith.planning.fit import COSTS, METHOD_COSTS, fit, parse_bytes
from tunesmith.planning.rehearse import Setup
from tunesmith.planning.shapes import known_config
from tunesmith.planning.table import TERMS, Column, Planned
from tunesmith.planning.terms import Memory
from tunesmith.resolve import resolve

SHAPE = known_config("smollm2-135m")
SMALL = ("--max-length", 64, "--max-new-tokens", 8, "--per-device-train-batch-size", 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    lines = [json.dumps({"instruction": "q" * (9 + i), "output": "a" * (1 + i)}) for i in range(12)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def run(*words: object) -> None:
    """As a user types it."""
    app = App(result_action="return_value")
    app.command(plan)
    app(["plan", *map(str, words)], exit_on_error=False)


def as_json(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    capsys.readouterr()
    run(*words, "--json")
    return dict(json.loads(capsys.readouterr().out))


def test_all_five_methods_are_planned_without_data(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "--model", model, *SMALL)
    assert list(found["methods"]) == list(METHOD_NAMES)
    assert (found["data"], found["chosen"], found["is_here"]) == (None, "lora", True)
    for method in found["methods"].values():
        assert method["training_peak_bytes"] == sum(method[field] for field in TERMS.values())
        setup = method["setup"]
        assert (setup["rows"], setup["length_tokens"], setup["scored_tokens"]) == (2, 64, 2 * 63)
        assert (setup["evaluation_rows"], setup["answer_tokens"]) == (16, 8)
        assert method["fits"] is True
        assert method["seconds_per_step"] > 0
        assert method["seconds"] is None


def test_with_data_rows_lengths_and_steps_are_real(
    model: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", model, "--data", rows, "--validation-size", 0, "--test-size", 0)
    found = as_json(capsys, *words, "--per-device-train-batch-size", 3, "--num-train-epochs", 2)
    lora = found["methods"]["lora"]
    assert found["data"] == str(rows)
    # The longest row: 20 and 12 bytes and the template's own.
    assert lora["setup"]["rows"] == 3
    assert 32 < lora["setup"]["length_tokens"] < 90
    assert (lora["setup"]["evaluation_rows"], lora["setup"]["answer_tokens"]) == (1, 0)
    assert lora["steps"] == 2
    assert lora["seconds"] == 2 * lora["seconds_per_step"]


def test_a_configuration_file_may_name_data_or_not(
    model: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    text = f"model: {{name: {model}}}\nmethod: {{rank: 4}}\ndata: {{max_length: 64}}\n"
    file.write_text(text, encoding="utf-8")
    found = as_json(capsys, file)
    assert found["data"] is None
    ranks = {name: one["setup"]["method"]["rank"] for name, one in found["methods"].items()}
    assert ranks == {"full": 16, "lora": 4, "qlora": 4, "prefix": 16, "adapter": 16}
    file.write_text(text.replace("max_length: 64", f"path: {rows}"), encoding="utf-8")
    assert as_json(capsys, file)["data"] == str(rows)


def test_what_is_printed(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--model", model, *SMALL, "--method", "adapter")
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0] == f"model    {model} (folder)"
    assert lines[1].startswith("device   float32 on cpu")
    assert lines[2] == "batch    2 x 64 tokens, 126 scored: every row of `max_length`, as no data are given"
    assert lines[4].split() == ["full", "lora", "qlora", "prefix", "▸", "adapter"]
    labels = [line[:17].strip() for line in lines]
    for label in (
        *TERMS,
        "loading peak",
        "training peak",
        "evaluation peak",
        "peak",
        "trainable",
        "checkpointing",
    ):
        assert label in labels
    assert max(len(line.rstrip()) for line in lines[4:26]) <= 80
    assert "\x1b" not in shown.out
    assert "the time of a whole run needs its steps: give `--data` or `--max-steps`" in shown.err


def test_a_probe_corrects_and_times_the_chosen_method(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = as_json(capsys, "--model", model, *SMALL, "--max-steps", 3, "--probe")["methods"]
    assert [name for name, method in found.items() if method["is_time_measured"]] == ["lora"]
    lora = found["lora"]
    assert lora["seconds"] == 3 * lora["seconds_per_step"] > 0
    assert lora["training_peak_bytes"] == sum(lora[field] for field in TERMS.values())


def test_a_model_of_seven_billion_is_planned_for_a_device_that_is_not_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run("--model", "llama-2-7b", "--device", "cuda", "--max-length", 64)
    shown = capsys.readouterr()
    assert "llama-2-7b (its published shape)" in shown.out
    assert "bfloat16 on cuda, which is not here" in shown.out
    assert re.search(r"weights +27.0 GB +13.5 GB +3.76 GB +13.5 GB +13.5 GB", shown.out)
    assert re.search(r"trainable +6.7 B +40.0 M", shown.out)
    assert "nothing was measured on this device" in shown.err
    assert "fits" not in shown.out


def test_fit_gives_lines_to_paste(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--model", model, *SMALL, "--gradient-checkpointing", "never")
    asked = as_json(capsys, *words)["methods"]["lora"]
    limit_kilobytes = (asked["peak_bytes"] - 1000) // 1000
    run(*words, "--fit", f"{limit_kilobytes}kB")
    shown = capsys.readouterr().out
    flags = next(line.split() for line in shown.splitlines() if line.startswith("    --"))
    chosen = resolve(None, {"data": "-"} | dict(zip([f[2:] for f in flags[::2]], flags[1::2], strict=True)))
    assert [origin for _, _, origin in chosen.rows() if origin.startswith("--")]
    assert "  · " in shown


def fitted(limit: str, method: str = "full") -> list[str]:
    """What `--fit` prints for a run of 9 GB as full and 5 GB as LoRA, half of it activations."""

    def memory_of(setup: Setup) -> Memory:
        weights = {"full": 5, "lora": 1}[setup.method.name] * 10**9
        activations = 62_500_000 * setup.length_tokens // (2 if setup.is_checkpointed else 1)
        return Memory(weights, 0, 0, 0, 0, activations, 0, 0, 0, 0, 0, 10, 1)

    setups = [
        Setup(SHAPE, MethodConfig(name=name), 1, 64 * 4, 255, "cpu", "float32", False, "adamw_8bit", 1, 1)
        for name in ("full", "lora")
        if method in (name, "full")
    ]
    found = fit(
        setups[0],
        limit_bytes=parse_bytes(limit),
        training=TrainingConfig(per_device_train_batch_size=1),
        memory_of=lambda setup: memory_of(replace(setup, length_tokens=setup.length_tokens // 4)),
        others=setups[1:],
    )
    return list(fit_lines(found))


def test_what_fits_is_told_with_its_costs() -> None:
    assert fitted("9GB") == ["fits into 9.00 GB as it is: 9.00 GB"]
    assert fitted("7GB") == [
        "fits into 7.00 GB: 7.00 GB with these changes",
        "",
        "    training:",
        "      gradient_checkpointing: always",
        "",
        "    --gradient-checkpointing always",
        "",
        f"  · {COSTS['training.gradient_checkpointing']}",
    ]


def test_another_method_is_proposed_beside_shorter_rows() -> None:
    lines = fitted("6GB")
    assert lines[0] == "fits into 6.00 GB: 5.00 GB with these changes"
    assert f"  · {METHOD_COSTS['lora']}" in lines
    kept = lines.index("or keep `full` with shorter rows, which changes the data: 6.00 GB with these changes")
    assert "    --gradient-checkpointing always --max-length 128" in lines[kept:]


def test_where_nothing_fits_the_least_is_told() -> None:
    lines = fitted("1MB")
    assert lines[0] == "nothing fits into 1 MB with these rows; the least is 3.00 GB"
    assert "    --method lora --gradient-checkpointing always" in lines


@pytest.mark.parametrize(
    ("words", "error", "message", "hint"),
    [
        (["--fit", "8"], ConfigError, "`8` is no amount of memory", "`8GB`"),
        (["--model", "lama-2-7b"], ModelError, "there is no folder `lama-2-7b`", "`llama-2-7b`"),
        (["--rnak", "8"], ConfigError, "--rnak: no such flag; nearest: --rank", "train --help"),
        (["--optim", "paged_adamw_8bit", "--device", "cpu"], ConfigError, "paging needs CUDA", "adamw_8bit"),
        (["--device", "cuda", "--probe"], ConfigError, "is not here: cuda", "leave out `--probe`"),
        (["--model", "llama-2-7b", "--probe"], ConfigError, "the weights of llama-2-7b", "`--probe`"),
        (["--data", "rows.jsonl"], ModelError, "counted with the model's tokenizer", "`--max-length`"),
    ],
)
def test_what_cannot_be_planned_is_said(
    words: list[str],
    error: type[UserError],
    message: str,
    hint: str,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    name = "llama-2-7b" if "--data" in words else str(model)
    chosen = words if "--model" in words else ["--model", name, *words]
    with pytest.raises(error, match=message) as refused:
        run(*chosen)
    assert hint in refused.value.hint


def column(method: str, *terms: int) -> Column:
    memory = Memory(*terms, 0, 0, 10, 1)
    setup = Setup(SHAPE, MethodConfig(), 1, 64, 63, "cpu", "float32", False, "adamw_torch", 1, 1)
    return Column(method, Planned(setup, memory, None, None))


def test_bars_are_to_one_scale() -> None:
    drawn = [
        line.plain
        for line in bars(
            [
                column("full", 100, 0, 0, 100, 200, 50, 30, 20, 100),
                column("lora", 50, 25, 25, 0, 0, 0, 0, 0, 200),
                Column("prefix", None, problem="not here"),
            ]
        )
    ]
    sixth = BAR_WIDTH // 6
    assert drawn[0] == "full     " + "█" * sixth * 1 + "▓" * sixth * 3 + "▒" * sixth + "░" * sixth + " 1 MB"
    assert drawn[1] == "lora     " + "█" * sixth + "░" * sixth * 2 + " 1 MB"
    said = "█ weights + quantization + adapter ▓ gradients + optimizer ▒ activations + logits + workspace"
    assert " ".join(drawn[2].split()) == f"{said} ░ runtime"


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "-"),
        (1, "1 MB"),
        (-15_400_000, "-15 MB"),
        (999_400_000, "999 MB"),
        (8 * 10**9, "8.00 GB"),
        (59_960_000_000, "60.0 GB"),
    ],
)
def test_amounts_are_shown_as_people_read_them(amount: int, shown: str) -> None:
    assert gigabytes(amount) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.424, "0.42 s"), (38.4, "38 s"), (720, "12 min"), (12_240, "3.4 h")]
)
def test_times_are_shown_as_people_read_them(seconds: float, shown: str) -> None:
    assert shown_seconds(seconds) == shown
