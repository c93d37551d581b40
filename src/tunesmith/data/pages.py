"""Pages for a browser: self-contained HTML from a template, every text escaped, the file written whole."""

import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from tunesmith.errors import DataError


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


def refuse_unwritable_page(path: Path) -> None:
    """Say before any work why the page could not be written.

    Raises:
        DataError: if the file exists, or its folder does not.
    """
    if os.path.lexists(path):
        raise DataError(f"{path}: the output exists already", hint="name another output, or remove this one")
    if not path.parent.is_dir():
        raise DataError(f"{path}: there is no folder `{path.parent}`", hint=f"`mkdir -p {path.parent}`")


def write_page(path: Path, html: str) -> None:
    """Write the page, whole or not at all.

    Raises:
        DataError: if the path is taken or cannot be written.
    """
    refuse_unwritable_page(path)
    staging = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        # Names of files may hold bytes that are no UTF-8.
        staging.write_bytes(html.encode("utf-8", "replace"))
        os.replace(staging, path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written: {error.strerror or error}",
            hint="check the folder's permissions and the space on its disk",
        ) from None
    finally:
        staging.unlink(missing_ok=True)
