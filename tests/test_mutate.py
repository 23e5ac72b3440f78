"""The sample of mutations: the copy that records which test runs what, and the mutations themselves."""
import ast

import mutate
import mutation_map
import pytest
from conftest import ROOT
from mutations import mutations_of

SOURCES = {file: (ROOT / file).read_text() for file in mutate.tracked()
           if file.endswith(".py") and not file.startswith(mutate.NOT_PRODUCTION)}


def test_every_source_can_report_its_functions():
    """Also after a docstring and imports from __future__, which must stand first."""
    for file, source in SOURCES.items():
        reporting, places = mutation_map.instrumented(source, file)
        compile(reporting, file, "exec")
        functions = sum(isinstance(node, ast.FunctionDef) for node in ast.walk(ast.parse(source)))
        assert len(places) == functions == reporting.count(f"_hit('{file}::"), file


def test_mutations_change_what_is_run():
    for file in ("losses/dismax.py", "data/sampling.py", "recipes.py"):
        plain = ast.dump(ast.parse(SOURCES[file]))
        found = list(mutations_of(SOURCES[file]))
        assert len(found) > 20
        assert all(ast.dump(ast.parse(mutation.apply(SOURCES[file]))) != plain for mutation in found[::10])


def test_a_suite_that_cannot_be_recorded_is_said(monkeypatch):
    monkeypatch.setattr(mutate, "copy_of_tree", lambda folder: folder)
    monkeypatch.setattr(mutate, "run_tests", lambda *words, **named: (2, "1 error during collection"))
    with pytest.raises(SystemExit, match="could not be recorded:\n1 error during collection"):
        mutate.record({}, 1)
