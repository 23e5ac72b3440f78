"""Which tests run which functions: recorded once, by running all tests over a copy whose functions report themselves.

A function is reported under the test that ran it, also from the scripts that a test starts. What a fixture of a module
or of the session ran counts for every test that asks for that fixture. As a pytest plugin (`-p mutation_map`) this
module records tests, their fixtures and times; in the copy every function begins with a call of `hit`.
"""
import ast
import json
import os
import time
from functools import cache
from pathlib import Path

import pytest

_seen = set()


def hit(place):
    """Note, once, that the test under way has run a function."""
    log, test = os.environ.get("MUTATION_LOG"), os.environ.get("PYTEST_CURRENT_TEST", "")
    key = place, os.environ.get("MUTATION_FIXTURE") or test.rpartition(" (")[0]
    if log and key not in _seen:
        _seen.add(key)
        with open(f"{log}/{os.getpid()}.hits", "a") as file:
            file.write("\t".join(key) + "\n")


def instrumented(source, file):
    """The source with a call of `hit` at the begin of every function, and the places that these calls report."""
    tree, places = ast.parse(source), []

    def visit(node, scope):
        for part in ast.iter_child_nodes(node):
            inner = scope
            if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                inner = f"{scope}.{part.name}".lstrip(".")
            visit(part, inner)
            if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
                places.append(f"{file}::{inner}")
                start = int(ast.get_docstring(part) is not None)
                part.body[start:start] = ast.parse(f"_hit({places[-1]!r})").body

    visit(tree, "")
    start = int(ast.get_docstring(tree) is not None)
    start += sum(isinstance(part, ast.ImportFrom) and part.module == "__future__" for part in tree.body)
    tree.body[start:start] = ast.parse("from mutation_map import hit as _hit").body
    return ast.unparse(ast.fix_missing_locations(tree)), places


# ---- as a plugin of pytest ----

class Recorder:
    def __init__(self, log):
        self.log, self.tests, self.fixtures = Path(log), {}, {}

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        if fixturedef.scope == "function":
            return (yield)
        name, before = f"{fixturedef.baseid}::{fixturedef.argname}", os.environ.get("MUTATION_FIXTURE", "")
        os.environ["MUTATION_FIXTURE"], started = name, time.perf_counter()
        try:
            return (yield)
        finally:
            os.environ["MUTATION_FIXTURE"] = before
            self.fixtures[name] = time.perf_counter() - started

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        known = item._fixtureinfo.name2fixturedefs
        shared = [f"{d[-1].baseid}::{name}" for name, d in known.items() if d[-1].scope != "function"]
        self.tests[item.nodeid] = {"fixtures": shared, "seconds": 0.0, "passed": True}
        return (yield)

    def pytest_runtest_logreport(self, report):
        if report.nodeid in self.tests:  # with xdist, the main process hears of them, too
            test = self.tests[report.nodeid]
            test["seconds"] += report.duration if report.when == "call" else 0
            test["passed"] &= report.passed

    def pytest_sessionfinish(self):
        content = {"tests": self.tests, "fixtures": self.fixtures}
        (self.log / f"{os.getpid()}.json").write_text(json.dumps(content))


def pytest_configure(config):
    if log := os.environ.get("MUTATION_LOG"):
        config.pluginmanager.register(Recorder(log))


# ---- what was recorded ----

def collect(log):
    """One dict of the files in the folder `log`: tests, fixtures, and place → tests and fixtures that ran it."""
    found, places = {"tests": {}, "fixtures": {}}, {}
    for path in Path(log).glob("*.json"):
        part = json.loads(path.read_text())
        found["tests"] |= part["tests"]
        found["fixtures"] |= part["fixtures"]
    for path in Path(log).glob("*.hits"):
        for line in path.read_text().splitlines():
            place, by = line.split("\t", 1)
            places.setdefault(place, set()).add(by)
    return {**found, "places": {place: sorted(by) for place, by in sorted(places.items())}}


def joined(before, more):
    """One content of two: of `before`, and of more tests of the same sources."""
    places = {place: sorted({*before["places"].get(place, ()), *more["places"].get(place, ())})
              for place in sorted(before["places"].keys() | more["places"].keys())}
    return {"tests": before["tests"] | more["tests"], "fixtures": before["fixtures"] | more["fixtures"],
            "places": places, "functions": more["functions"]}


class Map:
    """What `collect` gives, asked."""

    def __init__(self, content, sources):
        self.tests = {name: test for name, test in content["tests"].items() if test["passed"]}
        self.fixtures, self.places, self.functions = content["fixtures"], content["places"], set(content["functions"])
        self.importers = {file: [other for other, source in sources.items() if _imports(source, file)]
                          for file in sources}

    def seconds(self, test):
        known = self.tests[test]
        return known["seconds"] + sum(self.fixtures.get(name, 0) for name in known["fixtures"])

    def running(self, file, scope):
        """Tests that run a function, the cheapest first; none where nothing runs it. What stands outside functions, or
        is not on the map yet, is run by what runs a function of its file or of a file that imports it."""
        place = f"{file}::{scope}"
        by = set(self.places.get(place, ())) - {""}
        if not by and (place not in self.functions or place in self.places):  # "": at import only
            files = {file, *self.importers.get(file, ())}
            by = by.union(*(tests for place, tests in self.places.items() if place.split("::")[0] in files))
        return sorted((name for name, test in self.tests.items() if name in by or not by.isdisjoint(test["fixtures"])),
                      key=self.seconds)


def _imports(source, file):
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    package, _, name = module.rpartition(".")
    for node in _import_statements(source):
        if isinstance(node, ast.Import) and any(alias.name == module for alias in node.names):
            return True
        if isinstance(node, ast.ImportFrom):
            if node.module == module or (node.level and node.module == name):
                return True
            if node.module == package and any(alias.name == name for alias in node.names):
                return True
    return False


@cache
def _import_statements(source):
    """Found once: each source is asked about every file."""
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
