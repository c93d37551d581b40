"""Every error a user can meet, and what each process exits with.

    TunesmithError                exit 1   the base; never raised itself
    ├── UserError                 exit 2   something the user gave is wrong; nothing was changed
    │   ├── ConfigError                    the configuration: all its problems at once
    │   ├── DataError                      a data file: names file and line
    │   ├── TemplateError                  the prompt template cannot be trained on
    │   ├── ModelError                     the model cannot be found, read or used
    │   └── RunFolderError                 the run folder cannot be read or written
    ├── RunFailed                 exit 1   the run itself went wrong (non-finite loss, failed check)
    └── Interrupted               exit 130 the user stopped it; it can go on
        └── Terminated            exit 143 SIGTERM stopped it; it can go on

A message says the fact and its cause with the values in it; `hint` says the remedy. Both are required.
"""

import errno

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system calls a disk, a quota or a file that takes no more."""


class TunesmithError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: the fact and its cause, with the offending values.
        hint: what to do about it, with the exact flag, key or command.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class UserError(TunesmithError):
    """Something the user gave is wrong. Nothing was written."""

    exit_code = 2


class ConfigError(UserError):
    """The configuration has problems; the message lists all of them."""


class DataError(UserError):
    """A data file cannot be used; the message names file and line.

    Args:
        message: as in the base.
        hint: as in the base.
        kind: the kind of fault, for whoever counts them: `empty_answer`, `unknown_role`.
    """

    def __init__(self, message: str, *, hint: str, kind: str = "unusable") -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


class TemplateError(UserError):
    """The chat template does not allow a correct training row."""


class ModelError(UserError):
    """The model cannot be found, read or used for this."""


class RunFolderError(UserError):
    """The run folder cannot be read or written."""


class RunFailed(TunesmithError):
    """The run itself went wrong; what was finished before is kept."""


class Interrupted(TunesmithError):
    """The user stopped the run; what was saved before is kept."""

    exit_code = 130


class Terminated(Interrupted):
    """SIGTERM stopped the run, as batch systems and shutdowns do; what was saved before is kept."""

    exit_code = 143
