"""What raters are asked: the scales of a rating, and the guidelines where the user gives none."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """One question about an answer.

    Attributes:
        name: as results and exports call it.
        label: as the page calls it.
        help: the question to the rater.
        low: the worst value.
        high: the best value.
    """

    name: str
    label: str
    help: str
    low: int = 1
    high: int = 5


SCALES = (
    Scale("accuracy", "Accuracy", "Is what it says right, and nothing made up?"),
    Scale("relevance", "Relevance", "Does it answer what was asked, all of it and nothing else?"),
    Scale("fluency", "Fluency", "Does it read as if a person had written it well?"),
    Scale("format_compliance", "Format compliance", "Is it in the form that the prompt asks for?"),
)

AB_GUIDELINES = """\
Read the prompt, then both answers to the end. Choose the one you would rather have got.

Judge what is said before how it is said: a plain right answer is better than an elegant wrong one.
A longer answer is not better for its length.
Choose the tie where you would not care which you got. Skip what you cannot judge.
"""

RATE_GUIDELINES = """\
Read the prompt, then the answer to the end. Give each scale its own number, whatever the others got.

Accuracy is about truth, relevance about the question, fluency about the language, format compliance about
the form that was asked for. Where there is a reference, it is one good answer, not the only one.
Use the whole scale. Skip what you cannot judge.
"""
