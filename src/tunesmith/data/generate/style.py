"""Blunt notes and the polite messages they should become.

A note is put together from moves: a request, perhaps a reason, perhaps one thing more. Each move has blunt
and polite phrases that all say the same, so any of the one kind fits any of the other and no fact is lost.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tunesmith.data.generate.draw import Example, distinct

WHAT = "A blunt note between colleagues, and the same message in polite and formal words."
SYSTEM = "Rewrite the note as a polite, formal message. Keep every fact."

SHARE_WITH_TIME = 0.7
SHARE_WITH_REASON = 0.6
SHARE_WITH_EXTRA = 0.4


@dataclass(frozen=True, slots=True)
class Move:
    """Phrases that say the same thing. Slots: {thing}, {place}, and {by} for a time limit or nothing."""

    blunt: tuple[str, ...]
    polite: tuple[str, ...]


NAMES = (
    "Adele", "Boris", "Camille", "Diego", "Esther", "Fatima", "Greta", "Hassan", "Ingrid", "Jun", "Katya",
    "Leon", "Mei", "Noor", "Oscar", "Paula", "Rafael", "Selma", "Theo", "Ursula", "Vikram", "Wanda",
)  # fmt: skip
THINGS = (
    "budget report", "travel form", "sales contract", "price list", "floor plan", "test protocol", "survey",
    "training manual", "invoice", "project outline", "safety checklist", "meeting summary", "press release",
    "stock count", "staff roster", "tender", "grant proposal", "customs form",
)  # fmt: skip
PLACES = (
    "the main office", "the second floor", "the archive", "the front desk", "the design team",
    "the finance department", "the warehouse", "the Leeds branch", "the legal team", "the night shift",
)  # fmt: skip
TIMES = (
    "Monday morning", "Tuesday noon", "Wednesday evening", "Thursday", "Friday afternoon", "tomorrow",
    "the end of the week", "the end of the month", "3 o'clock", "the 15th", "next Monday",
)  # fmt: skip

BLUNT_OPENINGS = ("{name}:", "Hey {name}.", "{name}!", "Listen, {name}.", "Look, {name}.", "Hi {name}.")
POLITE_OPENINGS = ("Dear {name},", "Good morning, {name},", "Good afternoon, {name},", "Hello {name},")
POLITE_GREETINGS = (
    "I hope this message finds you well.",
    "I hope that you are having a good week.",
    "Thank you for all your work so far.",
)
POLITE_CLOSINGS = (
    "Kind regards", "With best regards", "Yours sincerely", "Thank you very much in advance",
    "Many thanks for your help",
)  # fmt: skip

REQUESTS = (
    Move(
        (
            "Send the {thing} to {place}{by}.",
            "Get the {thing} over to {place}{by}.",
            "{place} needs the {thing}{by}. Send it.",
        ),
        (
            "Could you kindly send the {thing} to {place}{by}?",
            "I would be grateful if you could have the {thing} sent to {place}{by}.",
            "May I ask you to forward the {thing} to {place}{by}?",
        ),
    ),
    Move(
        (
            "Fix the {thing}{by}. It's full of mistakes.",
            "The {thing} is full of errors. Correct it{by}.",
            "Your {thing} is riddled with mistakes. Clean it up{by}.",
        ),
        (
            "I noticed many errors in the {thing} and would appreciate it if you could correct them{by}.",
            "The {thing} still contains a large number of mistakes. Would you kindly correct it{by}?",
        ),
    ),
    Move(
        (
            "The {thing} is way too long. Cut it{by}.",
            "Nobody will read a {thing} that long. Shorten it{by}.",
            "Shorten the {thing}{by}. It goes on forever.",
        ),
        (
            "The {thing} has become rather long. Could I ask you to shorten it{by}?",
            "As the {thing} is somewhat lengthy, I would be thankful if you could shorten it{by}.",
        ),
    ),
    Move(
        (
            "Sign the {thing}{by}.",
            "I need your signature on the {thing}{by}.",
            "You still haven't signed the {thing}. Do it{by}.",
        ),
        (
            "Would you be so kind as to sign the {thing}{by}?",
            "Your signature on the {thing} is still needed, and I would be grateful to receive it{by}.",
        ),
    ),
    Move(
        ("Stop changing the {thing} without asking me.", "Ask me before you touch the {thing} again."),
        (
            "May I ask you to speak with me before you make further changes to the {thing}?",
            "In future, I would appreciate it if you could consult me before changing the {thing}.",
        ),
    ),
    Move(
        (
            "Where is the {thing}? {place} is still waiting for it.",
            "{place} still doesn't have the {thing}. Where is it?",
        ),
        (
            "Could you let me know where the {thing} is? {place} is still waiting to receive it.",
            "I am writing to ask about the {thing}, which has not yet reached {place}.",
        ),
    ),
    Move(
        (
            "I can't open your {thing}. Send it again{by}.",
            "Your {thing} won't open. Resend it{by}.",
            "Send me a {thing} I can actually open{by}. This one doesn't work.",
        ),
        (
            "Unfortunately, I am unable to open your {thing}. Could you send it once more{by}?",
            "I am afraid that your {thing} does not open on my side. Would you mind sending it again{by}?",
        ),
    ),
    Move(
        (
            "Tell {place}{by} whether the {thing} is done.",
            "Is the {thing} done or not? {place} wants an answer{by}.",
        ),
        (
            "Could you kindly let {place} know{by} whether the {thing} is finished?",
            "{place} would be glad to hear from you{by} whether the {thing} has been completed.",
        ),
    ),
    Move(
        (
            "Drop the {thing} and go help {place}{by}.",
            "Forget the {thing}. {place} needs you{by}.",
        ),
        (
            "Would it be possible for you to leave the {thing} aside and assist {place}{by}?",
            "I would be grateful if you could set the {thing} aside and support {place}{by}.",
        ),
    ),
    Move(
        (
            "Print the {thing} and take it to {place}{by}.",
            "{place} wants the {thing} on paper{by}. Bring it over.",
        ),
        (
            "May I ask you to print the {thing} and bring it to {place}{by}?",
            "Would you mind taking a printed copy of the {thing} to {place}{by}?",
        ),
    ),
)
REASONS = (
    Move(
        ("The client is waiting.", "The client won't wait."),
        (
            "Our client is already waiting.",
            "I ask because our client is waiting.",
        ),
    ),
    Move(
        ("I'm on leave soon.", "I'm gone soon."),
        ("I will be on leave soon.", "I mention this because I will be away soon."),
    ),
    Move(
        ("The auditors are coming.", "We've got auditors in the house."),
        ("The auditors will be visiting us.", "This matters because we are expecting the auditors."),
    ),
    Move(
        ("I won't ask twice.", "This is the last time I ask."),
        ("I hope that no further reminder will be necessary.", "I trust that I need not ask once more."),
    ),
    Move(
        ("The boss is asking about it.", "The boss keeps bugging me about it."),
        ("Our director has inquired about it.", "Our director has asked me about this matter."),
    ),
    Move(
        ("We already missed one deadline.", "We blew one deadline already."),
        (
            "Regrettably, one deadline has already passed.",
            "As you may know, we have already missed one deadline.",
        ),
    ),
    Move(
        ("This costs us money every day.", "We lose money every day."),
        (
            "Unfortunately, this costs us money every day.",
            "Every day of delay unfortunately costs us money.",
        ),
    ),
)
EXTRAS = (
    Move(
        ("And answer your phone.", "Pick up the phone when I call."),
        ("It would also help if you could take my calls.", "I would also be glad to reach you by telephone."),
    ),
    Move(
        ("Read your email for once.", "Also, check your inbox."),
        ("Might I also suggest a look at your inbox?", "I would also ask you to read your email."),
    ),
    Move(
        ("Don't be late to the meeting again.", "And be on time for the meeting."),
        (
            "I would also appreciate your being on time for our meeting.",
            "May I also ask you to arrive punctually for the meeting?",
        ),
    ),
    Move(
        ("Clear your stuff out of the meeting room.", "And get your things out of the meeting room."),
        (
            "Would you also kindly remove your belongings from the meeting room?",
            "I would also ask you to collect your belongings from the meeting room.",
        ),
    ),
    Move(
        ("Call me when it's done.", "Ring me once that's finished."),
        (
            "A short call once this is done would be most welcome.",
            "May I ask for a call once it is done?",
        ),
    ),
)


def rows(seed: int, count: int) -> Iterator[Example]:
    """Rows with `system`, `prompt` (the blunt note) and `completion` (the polite message).

    Args:
        seed: decides every row.
        count: number of rows, 0 or more.

    Raises:
        DataError: when there are no more different notes.
    """
    return distinct(draw, task="style", seed=seed, count=count)


def draw(random: Random) -> Example:
    """One note and its polite twin, with the same facts."""
    moves = [random.choice(REQUESTS)]
    if random.random() < SHARE_WITH_REASON:
        moves.append(random.choice(REASONS))
    if random.random() < SHARE_WITH_EXTRA:
        moves.append(random.choice(EXTRAS))
    slots = {
        "name": random.choice(NAMES),
        "thing": random.choice(THINGS),
        "place": random.choice(PLACES),
        "by": f" by {random.choice(TIMES)}" if random.random() < SHARE_WITH_TIME else "",
    }
    blunt = [BLUNT_OPENINGS, *(move.blunt for move in moves)]
    polite = [*_courtesy(random), *(move.polite for move in moves)]
    opening = random.choice(POLITE_OPENINGS).format(**slots)
    letter = (opening, _filled(random, polite, slots), random.choice(POLITE_CLOSINGS))
    return {"system": SYSTEM, "prompt": _filled(random, blunt, slots), "completion": "\n".join(letter)}


def _courtesy(random: Random) -> tuple[tuple[str, ...], ...]:
    """A greeting in half of the messages."""
    return random.choice(((), (POLITE_GREETINGS,)))


def _filled(random: Random, pools: list[tuple[str, ...]], slots: dict[str, str]) -> str:
    """One phrase of each pool, each sentence with a capital."""
    return " ".join(_sentences(random.choice(pool), slots) for pool in pools)


def _sentences(phrase: str, slots: dict[str, str]) -> str:
    """The phrase with its slots filled; a place that begins a sentence gets its capital."""
    place = slots["place"]
    capital = place[0].upper() + place[1:]
    head = phrase.replace("? {place}", f"? {capital}").replace(". {place}", f". {capital}")
    if head.startswith("{place}"):
        head = head.replace("{place}", capital, 1)
    return head.format(**slots)
