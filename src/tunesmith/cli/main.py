"""`tunesmith`: commands by name, and one place where errors become messages and exit codes."""

import atexit
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
from tunesmith.errors import NO_ROOM, ConfigError, RunFailed, TunesmithError

EXIT_INTERRUPTED = 130

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
    code = _code(sys.argv[1:])
    if all(each.daemon or each is threading.main_thread() for each in threading.enumerate()):
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> None:
    """End the process at once; what cannot be written has been told, and is in the code."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _unwritten(error: OSError) -> RunFailed:
    what = f"`{error.filename}`" if error.filename else "the output"
    return RunFailed(
        f"{what} could not be written: {error.strerror}",
        hint="make room on the disk where it goes, or send it elsewhere",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 the run failed, 2 the user's input."""
    sys.exit(_code(sys.argv[1:] if arguments is None else arguments))


def _code(arguments: Sequence[str]) -> int:
    is_debug = "--debug" in arguments
    return _run([word for word in arguments if word != "--debug"], is_debug=is_debug)


def _run(arguments: list[str], *, is_debug: bool) -> int:
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        # Here, where it is told if it cannot be written.
        sys.stdout.flush()
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
    if isinstance(error, OSError) and error.errno in NO_ROOM:
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
