"""The part of Faker that a described task may use: plain text and numbers that a seed decides.

Left out are providers that build Python objects or files, and all that count from today (dates, times,
cards): the same seed would give other rows tomorrow. A `date` field stands in for those.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from tunesmith.data.generate.templates import Complain
from tunesmith.data.records import kind_of, listed, nearest

if TYPE_CHECKING:
    from faker import Faker

PROVIDERS = (
    *("first_name", "first_name_female", "first_name_male", "last_name", "name", "name_female", "name_male"),
    *("prefix", "suffix", "job", "company", "company_suffix", "bs", "catch_phrase"),
    *("address", "street_address", "street_name", "building_number", "secondary_address", "city", "postcode"),
    *("state", "state_abbr", "country", "country_code", "timezone", "latitude", "longitude"),
    *("email", "company_email", "free_email", "ascii_email", "user_name", "domain_name", "domain_word"),
    *("hostname", "url", "uri", "slug", "tld", "ipv4", "ipv6", "mac_address", "port_number", "user_agent"),
    *("phone_number", "word", "sentence", "paragraph", "text"),
    *("color_name", "safe_color_name", "hex_color", "currency_code", "currency_name", "currency_symbol"),
    *("language_name", "isbn10", "isbn13", "ean13", "ean8", "license_plate", "vin", "iban", "swift"),
    *("file_name", "file_extension", "mime_type", "emoji"),
)
MAX_ARGUMENT = 1_000

_Argument = str | int | float | bool | list[str]


def new_faker(locale: object, complain: Complain) -> "Faker":
    """Faker for a locale such as `de_DE`; complains about one that it does not have."""
    from faker import Faker
    from faker.config import AVAILABLE_LOCALES

    if locale in AVAILABLE_LOCALES:
        return Faker(str(locale))
    close = nearest(str(locale), AVAILABLE_LOCALES)
    complain("locale", f"`{locale}` is no locale of Faker{f'; nearest: `{close}`' if close else ''}")
    return Faker("en_US")


def provider(
    key: str, spec: Mapping[str, object], *, complain: Complain, fake: "Faker"
) -> Callable[[], str | int] | None:
    """The provider that `faker` names, with its `arguments` bound; None after a complaint.

    Args:
        key: of the field, such as `fields.person`.
        spec: the field's description.
        complain: takes each problem.
        fake: what the provider belongs to.
    """
    name = spec["faker"]
    if name not in PROVIDERS:
        close = nearest(str(name), PROVIDERS)
        known = f"nearest: `{close}`" if close else f"known are {listed(PROVIDERS)}"
        complain(f"{key}.faker", f"`{name}` is no provider that can be used here; {known}")
        return None
    method = getattr(fake, str(name), None)
    if method is None:
        complain(f"{key}.faker", f"Faker has no `{name}` for this locale")
        return None
    arguments = _arguments(f"{key}.arguments", spec.get("arguments"), method, complain)
    if arguments is None:
        return None
    call = partial(_plain, method, arguments)
    try:
        call()
    # What a provider raises for a bad argument is not for us to foresee.
    except Exception as error:
        complain(f"{key}.arguments", f"`{name}` does not take them: {error}")
        return None
    return call


def _plain(method: Callable[..., object], arguments: Mapping[str, _Argument]) -> str | int:
    value = method(**arguments)
    return value if isinstance(value, str | int) else str(value)


def _arguments(
    key: str, given: object, method: Callable[..., object], complain: Complain
) -> dict[str, _Argument] | None:
    if given is None:
        return {}
    if not isinstance(given, dict):
        complain(key, f"{kind_of(given)}, not names with values such as `{{nb_words: 8}}`")
        return None
    known, good = list(inspect.signature(method).parameters), dict[str, _Argument]()
    for name, value in given.items():
        if name not in known:
            close = nearest(str(name), known)
            complain(
                f"{key}.{name}", f"unknown argument; {f'nearest: `{close}`' if close else _known(known)}"
            )
        elif not _is_plain(value):
            complain(
                f"{key}.{name}", f"{value!r} is not text, a number up to {MAX_ARGUMENT:,}, or a list of texts"
            )
        else:
            good[name] = value
    return good if len(good) == len(given) else None


def _known(names: list[str]) -> str:
    return f"known are {listed(names)}" if names else "it takes none"


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    if isinstance(value, int | float):
        return -MAX_ARGUMENT <= value <= MAX_ARGUMENT
    return isinstance(value, str)
