"""The page of a preview: one HTML file that opens anywhere, without scripts and without the network.

Whatever a data file holds is shown as text, never read as markup. Equal views give equal bytes.
Read next: `templates/preview.html.j2`.
"""

import os
import secrets
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from tunesmith.data.preview import RowView, Token, visible, visible_parts
from tunesmith.errors import DataError


def render_page(views: Sequence[RowView], *, title: str, facts: Sequence[tuple[str, str]]) -> str:
    """The whole page as HTML text.

    Args:
        views: the rows, in the order they are shown.
        title: what was looked at, such as the file's name.
        facts: names and values shown under the title: model, template, longest allowed row.
    """
    return _template().render(views=views, title=title, facts=facts)


def css_classes(token: Token, index: int) -> str:
    """Classes of a token's element; neighbours alternate, so that borders between tokens show."""
    names = (
        ("t", True),
        ("odd", index % 2 == 1),
        ("scored", token.is_scored),
        ("control", token.is_control),
        ("cut", token.is_cut),
    )
    return " ".join(name for name, holds in names if holds)


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


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("tunesmith.data"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(visible=visible, parts=visible_parts)
    environment.globals.update(css_classes=css_classes)
    return environment.get_template("preview.html.j2")
