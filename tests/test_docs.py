"""README, reference pages, changelog and examples say what is true."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tunesmith
from tunesmith.resolve import resolve

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def readme_commands() -> list[str]:
    """Lines of README's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def test_reference_pages_are_current() -> None:
    result = subprocess.run(
        [sys.executable, "docs/make_reference.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_changelog_names_this_version() -> None:
    assert f"## {tunesmith.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f'version = "{tunesmith.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_readme_begins_with_the_two_commands_and_ci_runs_the_second() -> None:
    assert readme_commands()[:2] == ["make demo", "make test"]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in script if line and not line.startswith(("#", "set ", "cd "))] == ["make test"]


def test_readme_has_no_placeholder() -> None:
    assert not re.search(r"\b(DEMO|TEST)_[A-Z]+", README)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_readme_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid_configurations_and_open_with_their_command(example: Path) -> None:
    assert resolve(example).config.data.path
    assert f"tunesmith train examples/{example.name}" in example.read_text(encoding="utf-8")


def test_constraints_pin_every_dependency_by_version_and_name_no_place() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!-]+", pin) for pin in pins)
    pinned = {pin.partition("==")[0].lower() for pin in pins}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = re.search(r"^dependencies = \[(.*?)^\]", project, flags=re.DOTALL | re.MULTILINE)
    assert dependencies
    assert set(re.findall(r'"([a-z0-9-]+)', dependencies.group(1))) <= pinned
