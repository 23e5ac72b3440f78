"""Signals from the user that stop a training, and lines that report its progress."""
import signal
import sys

from tqdm import tqdm

from engine import distributed
from utils import script


class StopSignals:
    """Ctrl-C and SIGTERM are noted in `signal`, to be obeyed between two steps; a second one is obeyed at once."""

    def __init__(self):
        self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.note)

    def note(self, number, frame):
        if self.signal:
            sys.exit(128 + number)
        self.signal = number


def say(text):
    """Print a line, on rank 0, above a progress bar. A closed or full output does not stop a training."""
    if distributed.is_main():
        with tqdm.external_write_mode(file=sys.stdout):
            script.say(text)


def is_watched():
    """Whether a progress bar has somebody to see it."""
    return distributed.is_main() and sys.stderr.isatty()
