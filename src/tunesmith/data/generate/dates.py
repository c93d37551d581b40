"""Sentences that hold one date, in one of many spellings, and the date as ISO 8601.

The date is drawn first and then spelled, so the answer is right by construction.
"""

from collections.abc import Iterator
from datetime import date, timedelta
from random import Random

from tunesmith.data.generate import spellings
from tunesmith.data.generate.draw import Example, distinct

WHAT = "Free text with a date in any spelling, or told from a given today; the answer is YYYY-MM-DD."
SYSTEM = "Find the date that the text names and write it as YYYY-MM-DD, with nothing else."

FIRST_DAY = date(1995, 1, 1)
DAYS = (date(2040, 1, 1) - FIRST_DAY).days
MAX_DAYS_FROM_TODAY = 500
SHARE_RELATIVE = 0.4
SHARE_LABEL = 0.25
SHARE_WITH_TODAY = 0.15
SHARE_FROM_ANOTHER_DAY = 0.1

NAMES = (
    "Ada", "Bruno", "Chloe", "Deniz", "Emeka", "Freya", "Goran", "Hye-jin", "Ines", "Jonas", "Keiko", "Liam",
    "Maryam", "Nils", "Olga", "Pablo", "Ravi", "Sofia", "Tomas", "Yara",
)  # fmt: skip
TODAYS = (
    "Today is {today}.", "Today's date: {today}", "It is {today} today.", "Written on {today}:",
    "Sent: {today}", "[{today}]",
)  # fmt: skip
AHEAD = (
    "{name} will pick up the keys {when}.",
    "The next delivery comes {when} at {hour}:30.",
    "Could we meet {when}? I have room {room} from {hour}:00.",
    "My lease ends {when}, so I need a new place by then.",
    "The board votes {when}; {name} sends out the agenda.",
    "{when}, the pool closes for repairs.",
    "Reminder: the dentist expects you {when}, not a day later.",
    "We fly to Lisbon {when} with {room} other guests on the list.",
    "The offer of ${price} runs out {when}.",
    "{name} starts the new job {when} and is already nervous.",
    "Your parcel {room}-{price} should arrive {when}.",
    "Hand in the essay {when}. Late work loses {hour} points.",
    "The plumber promised to come back {when}, around {hour} o'clock.",
    "I can't make it this time, but {name} will stand in for me {when}.",
    "The concert was moved: it now takes place {when} in hall {room}.",
    "Rent of ${price} is due {when}.",
    "{name} asked whether the exam is really {when}. It is.",
    "They are going to switch off the old server {when}.",
    "{when} we celebrate {name}'s retirement; bring cake.",
    "Please note that office {room} moves {when}.",
    "The visa becomes valid {when}, said the clerk at desk {hour}.",
    "If all goes well, the bridge opens {when}.",
)
BACK = (
    "{name} paid the ${price} {when}.",
    "The meter was last read {when} and showed {price}.",
    "I ordered the shelf {when} and have heard nothing since.",
    "{when}, somebody broke into locker {room}.",
    "We signed the contract {when}, in the presence of {name}.",
    "The warranty began {when}, the day the washing machine came.",
    "{name} called {when} about ticket {room}.",
    "My first day at the hospital was {when}.",
    "According to the log, backup {room} failed {when} at {hour}:07.",
    "The cat had her shots {when}; the vet took ${price}.",
    "They met {when} on a night train to Vienna.",
    "Rain stopped the match {when} after {hour} minutes.",
    "The committee last changed rule {room} {when}.",
    "{name} finished the marathon {when} in bib number {price}.",
    "Our old neighbor moved out {when}.",
    "The museum bought the painting {when} for ${price},000.",
    "I remember it well: {when} the lights went out in all of district {hour}.",
    "{when} {name} handed in the notice.",
)
LABELS = (
    "Invoice date: {date}",
    "Due date: {date} (order {room})",
    "Date of birth: {date}",
    "{name}, admitted {date}, room {room}",
    "Expires: {date}",
    "Re: minutes of {date}",
    "Valid until {date}.",
    "Best before: {date}, lot {price}",
    "Deadline: {date}, {hour}:00 sharp",
    "Departure {date}, gate {hour}, seat {room}",
    "Photo taken by {name}, {date}",
    "The letter from {name} is dated {date}.",
    "It has been in force since {date}.",
    "The receipt says {date} and ${price}.",
    "From {date} onward the fee is ${price}.",
    "Reply needed before {date}, says {name}.",
)


def rows(seed: int, count: int) -> Iterator[Example]:
    """Rows with `system`, `prompt` (the text, in part with today's date above) and `completion` (ISO 8601).

    Args:
        seed: decides every row.
        count: number of rows, 0 or more.

    Raises:
        DataError: when there are no more different texts.
    """
    return distinct(draw, task="dates", seed=seed, count=count)


def draw(random: Random) -> Example:
    """One text with a date that is spelled out, or one that is told from today."""
    if random.random() < SHARE_RELATIVE:
        text, day = _relative(random)
    elif random.random() < SHARE_FROM_ANOTHER_DAY:
        phrase, day = spellings.after_a_day(random, _any_day(random))
        text = _filled(random, random.choice(random.choice((AHEAD, BACK))), when=phrase)
    else:
        text, day = _absolute(random)
    return {"system": SYSTEM, "prompt": text, "completion": day.isoformat()}


def _any_day(random: Random) -> date:
    return FIRST_DAY + timedelta(days=random.randrange(DAYS))


def _relative(random: Random) -> tuple[str, date]:
    today = _any_day(random)
    look, pool = random.choice(((spellings.ahead, AHEAD), (spellings.back, BACK)))
    phrase, day = look(random, today)
    return _with_today(random, today, _filled(random, random.choice(pool), when=phrase)), day


def _absolute(random: Random) -> tuple[str, date]:
    """A date that stands for itself; in part below a today that does not matter."""
    today = _any_day(random)
    day = today + timedelta(days=random.randint(-MAX_DAYS_FROM_TODAY, MAX_DAYS_FROM_TODAY))
    spelled = random.choice(random.choice((spellings.figures, spellings.words))(day))
    pool = LABELS if random.random() < SHARE_LABEL else AHEAD if day >= today else BACK
    text = _filled(random, random.choice(pool), when=f"on {spelled}", date=spelled)
    return (_with_today(random, today, text) if random.random() < SHARE_WITH_TODAY else text), day


def _with_today(random: Random, today: date, text: str) -> str:
    header = random.choice(TODAYS).format(today=random.choice(spellings.figures(today)))
    return f"{header}\n{text}"


def _filled(random: Random, template: str, **texts: str) -> str:
    """The template with the date and with other numbers and names, which are not to be taken for it."""
    text = template.format(
        name=random.choice(NAMES),
        hour=random.randint(2, 12),
        room=random.randint(101, 989),
        price=random.randint(100, 990),
        **texts,
    )
    return text[0].upper() + text[1:]
