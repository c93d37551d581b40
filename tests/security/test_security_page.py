"""docs/security.md: every class has a promise, and every promise a test that exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
CLASSES = range(1, 35)
NAMED = re.findall(r"`([\w/]+\.py)::(test_\w+)`", PAGE)


def names_in(file: str) -> list[str]:
    return re.findall(
        r"^\s*def (test_\w+)\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.MULTILINE
    )


def test_every_class_has_a_line_with_a_promise_and_a_test() -> None:
    rows = re.findall(r"^\| (A\d+) \|([^|]+)\|([^|]+)\|([^|]+)\|$", PAGE, re.MULTILINE)
    assert [row[0] for row in rows] == [f"A{number}" for number in CLASSES]
    assert all(attack.strip() and promise.strip() and "::test_" in held for _, attack, promise, held in rows)


def test_every_test_that_is_named_exists() -> None:
    assert len(NAMED) > len(CLASSES)
    missing = [
        f"{file}::{name}" for file, name in NAMED if not any(n.startswith(name) for n in names_in(file))
    ]
    assert missing == []


def test_every_canary_is_named() -> None:
    """No canary may stand outside the page, and each carries the id of its class."""
    for path in sorted((ROOT / "tests/security").glob("test_*.py")):
        file = f"security/{path.name}"
        if path == Path(__file__):
            continue
        for name in names_in(file):
            assert any(f == file and name.startswith(start) for f, start in NAMED), f"{file}::{name}"
            assert re.match(r"test_a\d\d_", name), name
