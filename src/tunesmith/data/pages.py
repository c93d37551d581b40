"""Pages for a browser: self-contained HTML from a template, every text escaped, the file written whole."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from tunesmith.data.whole_file import refuse_taken, whole_file


def page_template(name: str, functions: Mapping[str, Callable[..., Any]]) -> Template:
    """A template of `data/templates` that escapes all it shows; `functions` are filters and globals in it."""
    environment = Environment(
        loader=PackageLoader("tunesmith.data"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(functions)
    environment.globals.update(functions)
    return environment.get_template(name)


def write_page(path: Path, html: str) -> None:
    """Write the page, whole or not at all.

    Raises:
        DataError: if the path is taken or cannot be written.
    """
    refuse_taken(path)
    with whole_file(path) as file:
        # Names of files may hold bytes that are no UTF-8.
        file.write(html.encode("utf-8", "replace"))
