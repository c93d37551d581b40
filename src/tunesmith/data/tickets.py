"""The demo's data: made-up customer messages and the JSON ticket each should become.

Each message is put together from phrases of `ticket_phrases.json`. No phrase of a test message occurs
in training, so learning sentences by heart does not help; the cue words in them, such as "invoice" or "rush",
mostly do occur, as they do between real customers. Products are the same, and about half of the names.
"""

import json
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

SYSTEM = "Turn messages into JSON tickets: category, product, order, urgency, customer."
KEYS = ("category", "product", "order", "urgency", "customer")

# Shares of messages, chosen so that each case is common enough to be learned from a few hundred rows.
_WITHOUT_ORDER = 0.2
_WITHOUT_REQUEST = 0.5
_INTRODUCED = 0.4
_FIRST_NAME_ONLY = 0.3
_SEEN_NAME_IN_TEST = 0.5

Ticket = dict[str, str | None]
Example = dict[str, str]


def generate_tickets(*, seed: int, train_rows: int, test_rows: int) -> tuple[list[Example], list[Example]]:
    """Training and test rows with `system`, `prompt` (the message) and `completion` (the ticket).

    The same arguments give the same rows. No message occurs twice, in either part. The ticket is compact JSON
    with `KEYS` in order. `order` is null where the message names none, and `urgency` is "normal" where the
    message speaks of no hurry and of no leisure. Category and urgency are of a fixed set, all else is text
    from the message.

    Args:
        seed: decides everything random.
        train_rows: number of training rows, 0 or more.
        test_rows: number of test rows, 0 or more.
    """
    random, seen = Random(seed), set[str]()  # noqa: S311  nothing secret is drawn
    train = [_example(random, "train", seen) for _ in range(train_rows)]
    test = [_example(random, "test", seen) for _ in range(test_rows)]
    return train, test


@cache
def phrases() -> dict[str, Any]:
    """The phrase pools, `train` and `test` apart; placeholders are {product}, {order} and {customer}."""
    text = files("tunesmith.data").joinpath("ticket_phrases.json").read_text(encoding="utf-8")
    pools: dict[str, Any] = json.loads(text)
    return pools


def _example(random: Random, part: str, seen: set[str]) -> Example:
    """A row whose message is new."""
    while True:
        ticket = _ticket(random, part)
        message = _message(random, part, ticket)
        key = message.casefold()
        if key not in seen:
            seen.add(key)
            output = json.dumps(ticket, ensure_ascii=False, separators=(",", ":"))
            return {"system": SYSTEM, "prompt": message, "completion": output}


def _ticket(random: Random, part: str) -> Ticket:
    pools = phrases()
    number = random.randint(1_000, 9_999)
    order = random.choice((f"{random.choice('ABCDEFGH')}-{number}", str(number)))
    return {
        "category": random.choice(list(pools["problems"])),
        "product": random.choice(pools["products"]),
        "order": None if random.random() < _WITHOUT_ORDER else order,
        "urgency": random.choice(list(pools["urgency"])),
        "customer": _customer(random, part),
    }


def _customer(random: Random, part: str) -> str:
    first, last = (
        random.choice(phrases()[names]["train" if random.random() < _SEEN_NAME_IN_TEST else part])
        for names in ("first_names", "last_names")
    )
    return first if random.random() < _FIRST_NAME_ONLY else f"{first} {last}"


def _message(random: Random, part: str, ticket: Ticket) -> str:
    pools = phrases()
    first, last = (
        ("introductions", "closings") if random.random() < _INTRODUCED else ("openings", "sign_offs")
    )
    body = " ".join(_body(random, part, ticket))
    text = "\n".join([random.choice(pools[first][part]), body, random.choice(pools[last][part])])
    return text.format(**ticket)


def _body(random: Random, part: str, ticket: Ticket) -> list[str]:
    """Templates of the problem, the order if there is one, and the urgency, in any order."""
    pools = phrases()
    templates = [random.choice(pools["problems"][ticket["category"]][part])]
    if ticket["order"]:
        templates.append(random.choice(pools["orders"][part]))
    if ticket["urgency"] != "normal" or random.random() >= _WITHOUT_REQUEST:
        templates.append(random.choice(pools["urgency"][ticket["urgency"]][part]))
    random.shuffle(templates)
    return templates
