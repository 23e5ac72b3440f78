"""Errors of the system, put in where a script asks the system for something: run one of our scripts under them.

Each is code that runs, in the script's own process, before the script does.
"""
from pathlib import Path

import forked

ROOT = Path(__file__).resolve().parents[2]
RUN_IT = """
import runpy, sys
sys.argv, sys.path[0] = sys.argv[1:], "."
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def script(before, *words, **options):
    """The finished process of a script, like conftest.script, after the code `before`."""
    return forked.run(["-c", before + RUN_IT, *map(str, words)], ROOT, timeout=300, **options)


def failing(function, number, where="", after=0):
    """Code that lets `module.function` fail with OSError(number) for paths that hold `where`, from call `after` on."""
    module, name = function.rsplit(".", 1)
    return f"""
import builtins, errno, fcntl, io, os, pathlib
calls, true = [], {module}.{name}
def false(*arguments, **options):
    if any({where!r} in str(argument) for argument in arguments) or not {where!r}:
        calls.append(arguments)
        if len(calls) > {after}:
            path = next((argument for argument in arguments if isinstance(argument, (str, os.PathLike))), None)
            raise OSError(errno.{number}, os.strerror(errno.{number}), path)
    return true(*arguments, **options)
{module}.{name} = false
accessor = getattr(pathlib, "_NormalAccessor", None)  # Python 3.10 has references of its own
if accessor and getattr(accessor, {name!r}, None) is true:
    setattr(accessor, {name!r}, staticmethod(false))
"""

