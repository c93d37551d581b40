"""`adapters list` and `adapters switch`, and `chat` with several adapters, on tiny models."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny import tiny_model, tiny_model_folder, tiny_tokenizer
from tunesmith.cli import adapters, use
from tunesmith.config import MethodConfig
from tunesmith.errors import ConfigError, DataError, ModelError
from tunesmith.methods import adapter, lora
from tunesmith.models.adapter import save_adapter, save_whole

SHORT = use.Asking(max_new_tokens=6)
NAMES = ("formal", "friendly")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two LoRA runs and a fully tuned one, and a bottleneck adapter, on one base."""
    home = tmp_path_factory.mktemp("home")
    base = tiny_model_folder(home / "base")
    note: dict[str, Any] = {"base_model": str(base), "system": None, "four_bit": False}
    for seed, name in enumerate(NAMES):
        model = lora.prepare(tiny_model(), MethodConfig(rank=4))
        torch.manual_seed(seed)
        with torch.no_grad():
            for path, weight in model.named_parameters():
                if "lora_B" in path:
                    weight.normal_(std=0.5)
        (home / "runs" / name).mkdir(parents=True)
        (home / "runs" / name / "manifest.json").write_text("{}")
        save_adapter(
            model,
            home / "runs" / name / "adapter",
            tokenizer=tiny_tokenizer(),
            note=note | {"method": "lora", "system": f"Be {name}."},
        )
    save_whole(
        tiny_model(), home / "runs/whole/model", tokenizer=tiny_tokenizer(), note=note | {"method": "full"}
    )
    bottleneck = adapter.prepare(tiny_model(), MethodConfig(name="adapter", reduction_factor=8))
    save_adapter(bottleneck, home / "runs/small/adapter", tokenizer=tiny_tokenizer(), note=note)
    return home


def runs(home: Path) -> list[str]:
    return [str(home / "runs" / name) for name in NAMES]


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return dict(json.loads(capsys.readouterr().out))


def test_list_names_each_adapter_and_whole_model(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapters.list_([home / "runs"], json=True)
    found = {Path(entry["path"]).parent.name: entry for entry in told(capsys)["adapters"]}
    assert [(name, entry["method"], entry["size"]) for name, entry in found.items()] == [
        ("formal", "lora", "rank 4"),
        ("friendly", "lora", "rank 4"),
        ("small", "adapter", "reduced 8 times, houlsby"),
        ("whole", "full", "all weights"),
    ]
    learned = lora.prepare(tiny_model(), MethodConfig(rank=4)).get_nb_trainable_parameters()[0]
    assert found["formal"]["parameters"] == learned
    assert found["whole"]["parameters"] == sum(p.numel() for p in tiny_model().parameters())
    files = (home / "runs/formal/adapter").iterdir()
    assert found["formal"]["file_bytes"] == sum(file.stat().st_size for file in files)
    assert {entry["base"] for entry in found.values()} == {str(home / "base")}


def test_list_shows_what_is_below_runs_by_default(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(home)
    adapters.list_()
    shown = capsys.readouterr().out.splitlines()
    assert shown[::2] == [
        f"runs/{name}" for name in ("formal/adapter", "friendly/adapter", "small/adapter", "whole/model")
    ]
    assert re.fullmatch(r"  lora, rank 4: 4,096 parameters, 0\.\d MB on disk, on the base .*/base", shown[1])
    assert shown[5].startswith("  adapter, reduced 8 times, houlsby: ")
    adapters.list_([tmp_path])
    assert capsys.readouterr().err == "no adapter there; `tunesmith train` makes one\n"


def test_list_of_what_is_no_folder_or_damaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere` is no folder$"):
        adapters.list_([tmp_path / "nowhere"])
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"12")
    with pytest.raises(ModelError, match=r"adapter_model.safetensors` cannot be read: ") as caught:
        adapters.list_([tmp_path])
    assert caught.value.hint == "copy the folder again from where it came"


def test_each_adapter_answers_each_prompt_as_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapters.switch(*runs(home), prompt="Hello", asking=SHORT, json=True)
    found = {entry["adapter"]: entry for entry in told(capsys)["adapters"]}
    assert list(found) == list(NAMES)
    for name, run in zip(NAMES, runs(home), strict=True):
        use.generate(run, prompt="Hello", asking=SHORT, json=True)
        assert found[name]["answers"] == told(capsys)["answers"]
        assert found[name]["switch_milliseconds"] >= 0
    assert found["formal"]["answers"] != found["friendly"]["answers"]


def test_lines_go_to_their_own_adapters(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = [("friendly", "Hello"), ("formal", "Hello"), ("base", "Hello"), ("formal", "Is it late?")]
    lines = [json.dumps({"adapter": name, "prompt": text}) + "\n" for name, text in requests]
    (tmp_path / "requests.jsonl").write_text("\n".join(lines), encoding="utf-8")
    adapters.switch(*runs(home), file=tmp_path / "requests.jsonl", asking=SHORT, json=True)
    found = told(capsys)
    assert found["shared_batches"] is True
    assert [(row["adapter"], row["prompt"]) for row in found["answers"]] == requests
    places = {"base": home / "base"} | {name: home / "runs" / name for name in NAMES}
    for row in found["answers"]:
        use.generate(str(places[row["adapter"]]), prompt=row["prompt"], asking=SHORT, json=True)
        assert told(capsys)["answers"][0]["answer"] == row["answer"]
    adapters.switch(*runs(home), file=tmp_path / "requests.jsonl", asking=SHORT)
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == ["friendly", "> Hello"]


def test_prompts_of_a_text_file_are_shown_by_adapter(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("Hello\nIs it late?\n", encoding="utf-8")
    adapters.switch(*runs(home), file=tmp_path / "prompts.txt", asking=SHORT)
    shown = capsys.readouterr().out
    assert shown.index("formal (switched in ") < shown.index("friendly (switched in ")
    assert shown.count("> Is it late?") == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"adapter": "formal", "prompt": "a"}\n{broken\n', r"requests.jsonl:2: not JSON: "),
        ('{"adapter": "formal"}\n', r"requests.jsonl:1: no `adapter` and `prompt` as texts$"),
        ('["formal", "a"]\n', r"requests.jsonl:1: no `adapter` and `prompt` as texts$"),
        ("\n", r"requests.jsonl` holds no request$"),
        (None, r"requests.jsonl` cannot be read: No such file"),
    ],
    ids=["broken", "no-prompt", "list", "empty", "missing"],
)
def test_unusable_requests_name_their_line(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "requests.jsonl"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        adapters.switch("anything", file=file)
    assert caught.value.hint == 'write {"adapter": "NAME", "prompt": "TEXT"} in each line'


def test_two_sources_of_prompts_are_refused(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.txt"):
        with pytest.raises(ConfigError, match=r"^`--prompt` and `--file` are both given$"):
            adapters.switch("anything", prompt="a", file=tmp_path / name)


def talk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, targets: list[str], *lines: str) -> None:
    (tmp_path / "lines.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with (tmp_path / "lines.txt").open(encoding="utf-8") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        use.chat(*targets, asking=SHORT)


def test_chat_switches_adapters_and_goes_on(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ("Hello", "/reset", "/adapter friendly", "Hello", "/adapters", "/adapter nobody", "/adapter base")
    talk(monkeypatch, tmp_path, runs(home), *lines)
    heard = capsys.readouterr()
    expected = []
    for run in runs(home):
        use.generate(run, prompt="Hello", asking=SHORT)
        expected.append(capsys.readouterr().out)
    assert heard.out == "".join(expected)
    notes = heard.err.splitlines()
    assert "/adapter NAME switches" in notes[0]
    assert notes[1:] == [
        "now answering: friendly",
        "formal, [friendly], base",
        "no adapter is called `nobody`; there are: formal, friendly, base",
        "now answering: base",
    ]


def test_chat_with_one_model_has_nothing_to_switch(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    talk(monkeypatch, tmp_path, runs(home)[:1], "/adapters")
    assert "give `chat` several adapters to switch" in capsys.readouterr().err


def test_two_adapters_of_one_name_are_refused(home: Path) -> None:
    run = runs(home)[0]
    message = f"`{run}` and `{run}/adapter` are both called `formal`"
    with pytest.raises(ModelError) as caught:
        adapters.switch(run, f"{run}/adapter", prompt="Hello")
    assert str(caught.value) == message
    assert caught.value.hint.startswith("rename one of the folders")
