"""The user's mapping of our field names to the file's: read from pairs, held against both sides."""

from collections.abc import Iterable, Mapping

from tunesmith.data.records import listed, nearest
from tunesmith.data.shapes import FIELDS
from tunesmith.errors import ConfigError, DataError


def read_columns(pairs: Iterable[str]) -> dict[str, str]:
    """`ours=theirs` pairs as a mapping.

    Raises:
        ConfigError: for what is no pair, or names no field of ours.
    """
    columns = {}
    for pair in pairs:
        ours, _, theirs = pair.partition("=")
        if not (ours and theirs):
            raise ConfigError(
                f"`--columns {pair}` is not of the form OURS=THEIRS",
                hint="write `--columns instruction=question output=answer`",
            )
        columns[ours] = theirs
    refuse_unknown_fields(columns)
    return columns


def refuse_unknown_fields(columns: Mapping[str, str]) -> None:
    """Hold the mapping against our names.

    Raises:
        ConfigError: for the first name that is no field of a row.
    """
    for ours, theirs in columns.items():
        if ours not in FIELDS:
            close = nearest(ours, FIELDS)
            hint = f"did you mean `{close}={theirs}`?" if close else f"our fields are {listed(FIELDS)}"
            raise ConfigError(f"`columns` maps `{ours}`, which is no field of a row", hint=hint)


def refuse_unseen_columns(columns: Mapping[str, str], keys: Iterable[str], *, place: str) -> None:
    """Hold the mapping against all keys of the file.

    Args:
        columns: the mapping.
        keys: every key that some record has.
        place: file, or file and line, for the message.

    Raises:
        DataError: for the first mapped column that is in no record.
    """
    known = dict.fromkeys(keys)
    for ours, theirs in columns.items():
        if theirs not in known:
            close = nearest(theirs, known)
            raise DataError(
                f"{place}: there is no column `{theirs}`; the columns are {listed(known)}",
                hint=f"did you mean `--columns {ours}={close}`?" if close else f"`--columns {ours}=COLUMN`",
            )
