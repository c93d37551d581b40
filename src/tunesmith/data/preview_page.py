"""The page of a preview: one HTML file that opens anywhere, without scripts and without the network.

Whatever a data file holds is shown as text, never read as markup. Equal views give equal bytes.
Read next: `templates/preview.html.j2`.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

from jinja2 import Template

from tunesmith.data.pages import page_template
from tunesmith.data.preview import RowView, Token, visible, visible_parts


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


@lru_cache(maxsize=1)
def _template() -> Template:
    names: dict[str, Callable[..., object]] = {
        "visible": visible,
        "parts": visible_parts,
        "css_classes": css_classes,
    }
    return page_template("preview.html.j2", names)
