"""How long work tells of itself. The pipeline speaks to this; a skin decides what to show."""

from typing import Protocol


class Progress(Protocol):
    """What a skin offers to whoever works long."""

    def say(self, text: str) -> None:
        """Show one line that stays."""

    def begin(self, label: str, total: int) -> None:
        """Start a bar of `total` units; ends the bar before it."""

    def advance(self, amount: int = 1, figures: str = "") -> None:
        """Move the bar and replace the figures beside it."""

    def end(self) -> None:
        """Close the bar."""


class Silent:
    """Shows nothing: for use as a library."""

    def say(self, text: str) -> None:
        """Drop the line."""

    def begin(self, label: str, total: int) -> None:
        """Show no bar."""

    def advance(self, amount: int = 1, figures: str = "") -> None:
        """Show no bar."""

    def end(self) -> None:
        """Show no bar."""
