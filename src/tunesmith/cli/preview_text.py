"""A preview in the terminal: in colour, or with brackets where there is none."""

from collections.abc import Sequence
from itertools import groupby

from rich.text import Text

from tunesmith.data.preview import RowView, Token, visible, visible_parts

# Neighbours alternate, so that borders between tokens show.
_SCORED = ("grey93 on dark_green", "grey93 on green4")
_PLAIN = ("dim", "dim underline")
_CONTROL, _CONTROL_SCORED = "black on yellow3", "bold yellow1 on dark_green"
_CUT, _CUT_SCORED = "strike red", "strike grey93 on dark_red"
_HIDDEN = "bold grey93 on red3"


def coloured_preview(views: Sequence[RowView], *, max_length: int) -> Text:
    """Legend and rows with styles; tokens on green are scored.

    Args:
        views: the rows, in the order they are shown.
        max_length: longest allowed row in tokens.
    """
    page = _legend(max_length)
    for view in views:
        page.append("\n\n")
        page.append(headline(view, max_length=max_length), "bold red" if view.error else "bold")
        page.append("\n")
        if view.error:
            page.append(visible(f"{view.error}\nhint: {view.hint}"))
        for index, token in enumerate(view.tokens):
            _append(page, token, index)
        if page.plain.endswith("\n"):
            page.right_crop(1)
    return page


def plain_preview(views: Sequence[RowView], *, max_length: int) -> str:
    """Legend and rows as text alone: scored spans in ⟦ ⟧.

    Args:
        views: the rows, in the order they are shown.
        max_length: longest allowed row in tokens.
    """
    parts = [
        "⟦scored⟧  ⏎ line break  ⇥ tab  \\u200b character that cannot be seen  "
        f"✂ what follows is beyond {max_length:,} tokens"
    ]
    for view in views:
        parts.append(f"== {headline(view, max_length=max_length)}")
        parts.append(visible(f"{view.error}\nhint: {view.hint}") if view.error else _bracketed(view.tokens))
    return "\n\n".join(parts)


def headline(view: RowView, *, max_length: int) -> str:
    """The row's figures in one line."""
    start = f"row {view.number}  {visible(view.place)}  "
    if view.error:
        return f"{start}cannot be used"
    share = f"{view.scored_tokens:,} scored ({100 * view.scored_share:.1f} %)"
    beyond = view.token_count - max_length
    too_long = f"  too long: {beyond:,} beyond {max_length:,}" if view.is_too_long else ""
    lookalike = f"  `{visible(view.lookalike)}` is text here, no control token" if view.lookalike else ""
    return f"{start}{view.token_count:,} tokens  {share}{too_long}{lookalike}"


def _legend(max_length: int) -> Text:
    return Text.assemble(
        (" scored ", _SCORED[0]),
        "  ",
        ("tok", _PLAIN[0]),
        ("ens", _PLAIN[1]),
        (" not scored  ", "dim"),
        (" control ", _CONTROL),
        (" scored ", _CONTROL_SCORED),
        ("  ⏎ line break  ⇥ tab  ", "dim"),
        ("\\u200b", _HIDDEN),
        (" cannot be seen  ", "dim"),
        ("cut", _CUT),
        (f" beyond {max_length:,} tokens", "dim"),
    )


def _style(token: Token, index: int) -> str:
    if token.is_cut:
        return _CUT_SCORED if token.is_scored else _CUT
    if token.is_control:
        return _CONTROL_SCORED if token.is_scored else _CONTROL
    return (_SCORED if token.is_scored else _PLAIN)[index % 2]


def _append(page: Text, token: Token, index: int) -> None:
    style = _style(token, index)
    for kind, shown in visible_parts(token.text):
        if kind == "newline":
            for sign in shown:
                page.append(sign, style)
                page.append("\n")
        else:
            page.append(shown, _HIDDEN if kind == "hidden" else style)


def _bracketed(tokens: Sequence[Token]) -> str:
    spans: list[str] = []
    was_cut = False
    for (is_scored, is_cut), run in groupby(tokens, lambda token: (token.is_scored, token.is_cut)):
        text = "".join(map(_signed, run))
        scissors = "✂" if is_cut and not was_cut else ""
        spans.append(scissors + (f"⟦{text}⟧" if is_scored else text))
        was_cut = is_cut
    return "".join(spans).removesuffix("\n")


def _signed(token: Token) -> str:
    parts = visible_parts(token.text)
    return "".join(shown.replace("⏎", "⏎\n") if kind == "newline" else shown for kind, shown in parts)
