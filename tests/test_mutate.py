"""The sample of mutations: the copy that records which test runs what, and the mutations themselves."""
import ast
import json

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
    for file in ("losses/dismax.py", "data/sampling.py"):
        plain = ast.dump(ast.parse(SOURCES[file]))
        found = list(mutations_of(SOURCES[file]))
        assert len(found) > 20
        assert all(ast.dump(ast.parse(mutation.apply(SOURCES[file]))) != plain for mutation in found[::10])


def test_what_runs_which_function_is_recorded(monkeypatch, tmp_path):
    """A suite of two files, in a process of its own; one test runs a function, one a fixture of the session."""
    (tmp_path / "tests").mkdir()
    for name, text in {
            "code_.py": "from __future__ import annotations\ndef first():\n    return 1\ndef second():\n    return 2\n"
                       "def third():\n    return 3\n",
            "tests/mutation_map.py": (ROOT / "tests/mutation_map.py").read_text(),
            "tests/test_code.py": "import sys\nsys.path.insert(0, '.')\nimport code_ as code\nimport pytest\n"
                                  "@pytest.fixture(scope='session')\ndef two():\n    return code.second()\n"
                                  "def test_first():\n    assert code.first() == 1\n"
                                  "def test_second(two):\n    assert two == 2\n"}.items():
        (tmp_path / name).write_text(text)
    source = (tmp_path / "code_.py").read_text()
    monkeypatch.setattr(mutate, "ROOT", tmp_path)
    monkeypatch.setattr(mutate, "MAP", tmp_path / "build/map.json")
    monkeypatch.setattr(mutate, "tracked", lambda: ["code_.py", "tests/mutation_map.py", "tests/test_code.py"])
    mutate.record({"code_.py": source}, 1)
    found = mutation_map.Map(json.loads((tmp_path / "build/map.json").read_text()), {"code_.py": source})
    tests = "tests/test_code.py::test_first", "tests/test_code.py::test_second"
    assert set(found.tests) == set(tests)
    assert [found.running("code_.py", name) for name in ("first", "second", "third")] == [[tests[0]], [tests[1]], []]

    (tmp_path / "tests/test_more.py").write_text("import sys\nsys.path.insert(0, '.')\nimport code_ as code\n"
                                                 "def test_third():\n    assert code.third() + code.first() == 4\n")
    monkeypatch.setattr(mutate, "tracked", lambda: [
        "code_.py", "tests/mutation_map.py", "tests/test_code.py", "tests/test_more.py"])
    mutate.record({"code_.py": source}, 1, ["tests/test_more.py"])
    found = mutation_map.Map(json.loads((tmp_path / "build/map.json").read_text()), {"code_.py": source})
    assert found.running("code_.py", "third") == ["tests/test_more.py::test_third"]
    assert set(found.running("code_.py", "first")) == {tests[0], "tests/test_more.py::test_third"}


def test_a_suite_that_cannot_be_recorded_is_said(monkeypatch):
    monkeypatch.setattr(mutate, "copy_of_tree", lambda folder: folder)
    monkeypatch.setattr(mutate, "run_tests", lambda *words, **named: (2, "1 error during collection"))
    with pytest.raises(SystemExit, match="could not be recorded:\n1 error during collection"):
        mutate.record({}, 1)
