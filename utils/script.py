"""How each of our scripts starts and ends: errors are sentences, Ctrl-C and closed pipes are no tracebacks."""
import os
import sys

from utils.io import UserError


def run_script(name, main, where=lambda: ""):
    """Call main() and exit.

    Args:
        name: of the script, for messages.
        where: added to the name in messages, for instance a rank.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows ? for what it does not know
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        sys.exit(f"{name}{where()}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{name}: stopped. What is finished stays; the same command continues")
    except BrokenPipeError:  # the reader of our output has closed it, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
