"""--plugin FILE: a Python file that adds entries to the registry in recipes.py before a script reads its arguments.

docs/extending.md has examples.
"""
import argparse
import importlib.util
import sys
import traceback
from pathlib import Path

from utils.io import UserError

_loaded = {}  # path, as tracebacks have it → as the user named it


def load_plugins(words=None):
    """Run the files that --plugin names on the command line; returns their paths.

    UserError when a file is missing or ends with an error.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_plugin_argument(parser)
    paths = parser.parse_known_args(words)[0].plugin
    for path in paths:
        load_plugin(path)
    return [str(path) for path in paths]


def add_plugin_argument(parser):
    parser.add_argument("--plugin", action="append", type=Path, default=[], metavar="FILE",
                        help="a Python file that registers networks, methods or scores; see docs/extending.md")


def load_plugin(path):
    name = f"plugin_{path.stem}"
    if not path.is_file():
        raise UserError(f"--plugin {path}: there is no such file")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise UserError(f"--plugin {path}: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that its classes can be pickled
    _loaded[spec.origin] = path
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise plugin_error(error) or UserError(
            f"--plugin {path} failed: {type(error).__name__}: {error}") from error


def plugin_error(error):
    """The UserError for an error that went through a line of a plugin, which it names; None for others."""
    places = [(line.filename, line.lineno) for line in traceback.extract_tb(error.__traceback__)]
    places += [(error.filename, error.lineno)] if isinstance(error, SyntaxError) else []
    for file, line in reversed(places):
        if file in _loaded:
            return UserError(f"--plugin {_loaded[file]} failed in {file}, line {line}: {type(error).__name__}: {error}")
    return None
