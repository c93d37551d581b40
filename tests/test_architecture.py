"""The house rules that a test can hold: floors, doors, sizes, a light start."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

import tunesmith
from tunesmith.config import RunConfig

PACKAGE = Path(tunesmith.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = [
    {"errors", "processor"},
    {"config", "run_lock"},
    {"resolve", "runs", "hardware", "progress", "tools"},
    {"data", "models"},
    {"methods"},
    {"training", "evaluation", "doctor", "identity"},
    {"planning"},
    {"pipeline", "use"},
    {"approaches", "people"},
    {"cli", "studio"},
]
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
# One door for each heavy library; a trailing slash means everything below.
DOORS = {
    "peft": ("models/", "methods/"),
    "bitsandbytes": ("models/", "training/optimizer.py"),
    "accelerate": ("training/",),
    "deepspeed": ("training/zero.py",),
    "transformers": (
        "models/",
        "methods/",
        "planning/",
        "data/render.py",
        "cli/terminal.py",
        "approaches/recommend.py",
    ),
    "cyclopts": ("cli/",),
    "rich": ("cli/",),
    "matplotlib": (
        "evaluation/curves.py",
        "evaluation/pareto.py",
        "evaluation/sweep_page.py",
        "evaluation/forecast_picture.py",
    ),
    "fastapi": ("people/",),
    "uvicorn": ("people/",),
    "bm25s": ("approaches/retrieval.py",),
    "jsonschema": ("evaluation/",),
    "optuna": ("approaches/",),
    "httpx": ("evaluation/judge.py",),
    "sacrebleu": ("evaluation/",),
    "yaml": ("resolve.py", "evaluation/card.py"),
    "pyarrow": ("data/tables.py", "data/write.py"),
    "datasketch": ("data/near.py",),
    "ftfy": ("data/",),
    "faker": ("data/generate/",),
}
FILE_LINES, FUNCTION_LINES, CLASS_LINES, PARAMETERS, FIELDS = 400, 75, 250, 10, 16
VAGUE_NAMES = {"utils.py", "helpers.py", "common.py", "misc.py", "other.py"}


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _definitions(path: Path) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node


def test_every_part_has_a_floor() -> None:
    parts = {_part(path) for path in FILES} - {"__init__", "__main__"}
    assert parts <= set(FLOOR_OF)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down_lazy_ones_too(path: Path) -> None:
    part = _part(path)
    upward = [
        f"{path.name}:{line} {part} -> {target}"
        for line, target in _imports(path)
        if target.startswith("tunesmith.")
        and (other := target.split(".")[1]) in FLOOR_OF
        and part in FLOOR_OF
        and other != part
        and FLOOR_OF[other] >= FLOOR_OF[part]
    ]
    assert upward == []


def test_no_cycle_between_modules() -> None:
    names = {
        ".".join(("tunesmith", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES
    }
    below = {
        name: {known for _, target in _imports(path) for known in names if target.startswith(f"{known}.")}
        for name, path in names.items()
    }
    settled: set[str] = set()
    while ready := {name for name in names if name not in settled and below[name] - {name} <= settled}:
        settled |= ready
    assert set(names) - settled == set()


@pytest.mark.parametrize("library", DOORS)
def test_a_heavy_library_has_one_door(library: str) -> None:
    users = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        for _, target in _imports(path)
        if target.split(".")[0] == library
    }
    assert users, f"{library} is a dependency that nothing uses"
    assert {user for user in users if not user.startswith(DOORS[library])} == set()


def test_sizes_stay_readable() -> None:
    too_big = [
        f"{path.name}: {lines} lines"
        for path in FILES
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > FILE_LINES
    ]
    for path in FILES:
        for node in _definitions(path):
            lines = (node.end_lineno or 0) - node.lineno + 1
            limit = CLASS_LINES if isinstance(node, ast.ClassDef) else FUNCTION_LINES
            if lines > limit:
                too_big.append(f"{path.name}:{node.lineno} {node.name}: {lines} lines")
            if isinstance(node, ast.FunctionDef):
                count = len(node.args.args) + len(node.args.kwonlyargs) + len(node.args.posonlyargs)
                # `self` is not counted.
                if count - (node.args.args[:1] != [] and node.args.args[0].arg == "self") > PARAMETERS:
                    too_big.append(f"{path.name}:{node.lineno} {node.name}: {count} parameters")
    assert too_big == []


def test_no_module_has_a_vague_name() -> None:
    assert {path.name for path in FILES} & VAGUE_NAMES == set()


def test_configuration_sections_stay_small_and_documented() -> None:
    sections = [
        RunConfig,
        *(f.annotation for f in RunConfig.model_fields.values() if _is_section(f.annotation)),
    ]
    for section in sections:
        assert len(section.model_fields) <= FIELDS
        for name, field in section.model_fields.items():
            assert _is_section(field.annotation) or field.description, f"{section.__name__}.{name}"


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


@pytest.mark.parametrize(
    "start",
    [
        ["-m", "tunesmith", "--help"],
        ["-m", "tunesmith", "train", "--help"],
        ["-m", "tunesmith", "data", "check", "--help"],
        ["-c", "import tunesmith.data.audit.check, tunesmith.data.clean.run, tunesmith.models.find"],
        ["-c", "import tunesmith.tools.text_diff"],
        ["-c", "import tunesmith.evaluation.metrics, tunesmith.evaluation.report"],
        ["-c", "import tunesmith.people.votes, tunesmith.people.server"],
        ["-m", "tunesmith", "advise", "--json"],
        ["-c", "import tunesmith.cli.doctor, tunesmith.doctor.fix, tunesmith.doctor.read_foreign"],
        ["-m", "tunesmith", "sweep", "--help"],
    ],
    ids=[
        "help",
        "train-help",
        "check-help",
        "data",
        "tools",
        "evaluation",
        "people",
        "advise",
        "doctor",
        "sweep",
    ],
)
def test_a_light_start_does_not_import_torch(start: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *start], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "tunesmith" in imported
    assert imported & {"torch", "transformers", "peft", "accelerate"} == set()


@pytest.mark.real_model
def test_data_is_checked_with_the_embedded_tokenizer_and_without_torch() -> None:
    rows = PACKAGE.parents[1] / "examples" / "tickets.jsonl"
    for command in ("check", "preview"):
        start = [sys.executable, "-X", "importtime", "-m", "tunesmith", "data", command, str(rows)]
        result = subprocess.run(start, capture_output=True, text=True, check=True)
        imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
        assert "transformers" in imported
        assert imported & {"torch", "peft", "accelerate"} == set()
        assert "tokens" in result.stdout


def test_nothing_runs_foreign_code() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for forbidden in (
            "torch.load(",
            "import pickle",
            "trust_remote_code=True",
            "shell=True",
            "yaml.load(",
        ):
            assert forbidden not in text, f"{path.name} holds {forbidden}"
