"""The start and end of each script: errors become sentences, and Ctrl-C or a closed output gives no traceback."""
import argparse
import contextlib
import os
import signal
import sys

from utils.io import UserError, memory_error, system_error
from utils.plugins import plugin_error

STOPPED = 128 + signal.SIGINT  # the exit status that shells expect after Ctrl-C


def run_script(name, main, where=lambda: ""):
    """Call main() and exit.

    Exit status: 0, 1 with a sentence on standard error when something is wrong, 130 after Ctrl-C.

    Args:
        name: of the script, for messages.
        where: added to the name in messages, for instance a rank.
    """
    _open_outputs()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        _leave(f"{name}{where()}: {error}", 1)
    except KeyboardInterrupt:
        _leave(f"{name}: stopped. What is finished stays; the same command continues", STOPPED)
    except BrokenPipeError:  # the reader of our output has closed it, as `| head` does
        _discard(sys.stdout)
        sys.exit(0)
    except Exception as error:
        where_to = getattr(error, "filename", None) or "a file or output"
        found = memory_error(error) or system_error(error, where_to, "use") or plugin_error(error)
        if found is None:
            raise
        _leave(f"{name}{where()}: {found}", 1)


def count(text):
    """A whole number of 0 or more, as the type of an argument."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {number}")
    return number


def not_negative(text):
    """A number of 0 or more, as the type of an argument."""
    number = float(text)
    if not number >= 0:  # NaN, too
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}")
    return number


def named_folder(text):
    """(name, folder) of NAME=DIR, as the type of an argument."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR")
    return name, path


def say(text):
    """Print a line, for people. A closed or full standard output does not stop the work of the script."""
    try:
        print(f"{text}\n", end="", flush=True)  # in one piece: several threads may print
    except (OSError, ValueError):
        _discard(sys.stdout)


def _open_outputs():
    """Have three standard streams. A terminal that is not UTF-8 shows ? for what it does not know."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:  # closed ones (`>&-`): no file of ours may take their number
        pass
    os.close(handle)
    for number, stream in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        if hasattr(getattr(sys, stream), "reconfigure"):
            with contextlib.suppress(OSError):
                getattr(sys, stream).reconfigure(errors="replace")


def _discard(stream):
    """Send to nowhere what the stream still holds and is given."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _leave(message, status):
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _discard(sys.stdout)
    with contextlib.suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)
    sys.exit(status)
