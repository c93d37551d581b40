"""`tunesmith`: commands by name, and one place where errors become messages and exit codes."""

import atexit
import errno
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from cyclopts import App, CycloptsError

import tunesmith
from tunesmith.cli import (
    adapters,
    advise,
    compare,
    data,
    diff,
    doctor,
    methods,
    people,
    plan,
    recommend,
    sweep,
    train,
    use,
)
from tunesmith.cli.terminal import messages, print_error, print_json
from tunesmith.errors import ConfigError, RunFailed, TunesmithError

EXIT_INTERRUPTED = 130
FULL = (errno.ENOSPC, errno.EDQUOT)

app = App(
    name="tunesmith",
    help="Fine-tune large language models on an ordinary machine, and prove the result.",
    version=tunesmith.__version__,
    help_epilogue="Add `--debug` to any command to see a traceback with an error.",
)
for command in (
    train.demo,
    train.train,
    plan.plan,
    methods.methods,
    advise.advise,
    recommend.recommend,
    sweep.sweep,
    doctor.doctor,
    compare.compare,
    use.evaluate,
    use.generate,
    use.chat,
    use.merge,
    diff.diff,
    people.rate,
    people.ab,
):
    app.command(command)
app.command(adapters.app)
app.command(data.app)


def program() -> None:
    """`main` as the whole of a process, which ends without taking apart a million objects that die anyway.

    That alone took a fifth of a short command's time. What is to happen at the end happens: exit functions
    are called, and what was written is flushed. Where a thread is to be waited for, Python ends by itself.
    """
    try:
        main()
    except SystemExit as ending:
        others = [each for each in threading.enumerate() if each is not threading.main_thread()]
        if not all(each.daemon for each in others):
            raise
        _leave(ending.code)


def _leave(code: object) -> None:
    """End the process; what cannot be written makes it a failure, told unless a reader went away."""
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = code or 1
    except OSError as error:
        code = code or 1
        print_error(_unwritten(error))
    os._exit(code if isinstance(code, int) else int(code is not None))


def _unwritten(error: OSError) -> RunFailed:
    what = f"`{error.filename}`" if error.filename else "the output"
    return RunFailed(
        f"{what} could not be written: {error.strerror}",
        hint="make room on the disk where it goes, or send it elsewhere",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 the run failed, 2 the user's input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    is_debug = "--debug" in given
    sys.exit(_run([word for word in given if word != "--debug"], is_debug=is_debug))


def _run(arguments: list[str], *, is_debug: bool) -> int:
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        return 0
    except KeyboardInterrupt:
        messages.print("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if is_debug:
            raise
        return _report(_as_ours(error), is_json="--json" in arguments)


def _as_ours(error: Exception) -> TunesmithError:
    if isinstance(error, TunesmithError):
        return error
    if isinstance(error, OSError) and error.errno in FULL:
        return _unwritten(error)
    if isinstance(error, CycloptsError):
        return ConfigError(
            str(error).strip(), hint="`tunesmith --help` and `tunesmith COMMAND --help` show usage"
        )
    return RunFailed(
        f"something unforeseen: {type(error).__name__}: {error}",
        hint="run it again with `--debug` and report what it prints",
    )


def _report(error: TunesmithError, *, is_json: bool) -> int:
    if is_json:
        with suppress(OSError):  # where stdout is what cannot be written, it is told on stderr alone
            print_json({"error": str(error), "hint": error.hint, "exit_code": error.exit_code})
    print_error(error)
    return error.exit_code
