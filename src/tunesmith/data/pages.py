"""Pages for a browser: self-contained HTML from a template, every text escaped, the file written whole."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from tunesmith.data.whole_file import refuse_taken, whole_file


def page_template(
    name: str,
    functions: Mapping[str, Callable[..., Any]],
    *,
    package: str = "tunesmith.data",
    finalize: Callable[[Any], Any] | None = None,
) -> Template:
    """A template that escapes all it shows.

    Args:
        name: of the file in the package's folder `templates`.
        functions: filters and globals in it.
        package: whose template it is.
        finalize: what becomes of every value before it is escaped.
    """
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
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
