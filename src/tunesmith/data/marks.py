"""Marks around what people and the assistant wrote, while a chat template runs over it.

They tell afterwards which stretches of the rendered text are content and which are the template's own.
"""

import re
from dataclasses import dataclass

# Private-use characters put around what people and the assistant wrote while the template runs.
PERSON, ASSISTANT, CLOSE = "\uf8f0", "\uf8f1", "\uf8f2"


@dataclass(frozen=True, slots=True)
class Mark:
    """A stretch of rendered text (characters `start` to `end`) that a person or the assistant wrote."""

    start: int
    end: int
    is_answer: bool

    def bars(self, match: re.Match[str], is_control: bool) -> bool:
        """Whether a token found at `match` must stay text here."""
        overlaps = match.start() < self.end and self.start < match.end()
        return overlaps and (is_control or not self.is_answer)


def wrapped(text: str, role: str, mark: bool) -> str:
    """Marks around the text but not its outer blanks, so that a template may trim them."""
    core = text.strip()
    if not (mark and core):
        return text
    opening = ASSISTANT if role == "assistant" else PERSON
    return text.replace(core, f"{opening}{core}{CLOSE}", 1)


def unmarked(marked: str) -> tuple[str, list[Mark]]:
    """The text without marks, and where each marked stretch lies in it."""
    plain: list[str] = []
    marks: list[Mark] = []
    length = 0
    for piece in re.split(f"([{PERSON}{ASSISTANT}].*?{CLOSE})", marked, flags=re.DOTALL):
        text = piece[1:-1] if piece.startswith((PERSON, ASSISTANT)) else piece
        if text is not piece:
            marks.append(Mark(length, length + len(text), piece.startswith(ASSISTANT)))
        plain.append(text)
        length += len(text)
    return "".join(plain), marks
