"""Which mistakes would the tests notice? A seeded sample of mutations of the production code, each tried.

  python tests/mutate.py --seed 3                        40 mutations; a few minutes
  python tests/mutate.py --files losses metrics --count 20
  python tests/mutate.py --record                        which tests run which function, anew (the whole suite, once)
  python tests/mutate.py --record tests/test_new.py      the same of some tests, added to what is known
  python tests/mutate.py --try 'engine/batches.py:24:comparison'      the mutations of one place again

A mutation is made in a copy of the tree, and the tests that run its function are run there until one fails, the fastest
first, at most --limit seconds of them. What no test notices is printed as a diff: survived, or "suspect" where nothing
could be noticed on this machine (speed, looks, GPUs). The rate is caught / (caught + survived).
"""
import argparse
import contextlib
import difflib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import mutation_map
from mutations import mutations_of

ROOT = Path(__file__).resolve().parents[1]
MAP = ROOT / "build/mutation_map.json"
NOT_PRODUCTION = ("tests/", "benchmarks/", "run_scripts/", "docs/")
# changes that nobody sees but by a clock, on a screen or on a GPU
SUSPECT = re.compile(r"cuda|gpu\b|nccl|synchronize|mps\b.*device|non_blocking|pin_memory|persistent_workers|"
                     r"num_workers|prefetch|memory_format|channels_last|fused=|benchmark = |mininterval|leave=|"
                     r"position=|unit_scale|figsize|fontsize|linewidth|dpi=|markersize|alpha=0\.|bbox|layout=|ncols=",
                     re.I)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--files", nargs="+", default=[""], metavar="PREFIX", help="files and folders to mutate")
    parser.add_argument("--jobs", type=int, default=1, help="mutations at a time")
    parser.add_argument("--limit", type=float, default=120, help="seconds of tests for one mutation, as recorded")
    parser.add_argument("--record", nargs="*", metavar="TESTS")
    parser.add_argument("--try", dest="again", metavar="PLACE")
    args = parser.parse_args()
    sources = {file: (ROOT / file).read_text() for file in tracked() if file.endswith(".py")
               and not file.startswith(NOT_PRODUCTION)}
    if args.record is not None or not MAP.exists():
        record(sources, args.jobs, args.record or ())
    tests = mutation_map.Map(json.loads(MAP.read_text()), sources)
    chosen = again(sources, args.again) if args.again else sample(sources, args)
    results = []
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder, ThreadPoolExecutor(args.jobs) as pool:
        trees = [copy_of_tree(Path(folder) / str(k)) for k in range(args.jobs)]
        for file, mutation, outcome, detail in pool.map(lambda pair: tried(*pair, sources, tests, trees, args.limit),
                                                        chosen):
            results.append((file, outcome))
            print(f"{outcome:9} {file}:{mutation.line}:{mutation.kind}  {detail}", flush=True)
            if outcome != "caught":
                print(diff_of(sources[file], mutation), flush=True)
    print(summary(results))


def tracked():
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [file for file in sorted(files) if (ROOT / file).is_file()]


def sample(sources, args):
    """(file, Mutation) pairs. First a statement is drawn, then one of its mutations: a long table counts as one."""
    by_statement = {}
    for file, source in sources.items():
        if file.startswith(tuple(args.files)):
            for mutation in mutations_of(source):
                by_statement.setdefault((file, mutation.statement), []).append(mutation)
    rng = random.Random(args.seed)
    statements = rng.sample(sorted(by_statement), min(args.count, len(by_statement)))
    return [(file, rng.choice(by_statement[file, line])) for file, line in statements]


def again(sources, place):
    file, line, *kind = place.split(":")
    return [(file, m) for m in mutations_of(sources[file]) if m.line == int(line) and kind in ([], [m.kind])]


def diff_of(source, mutation):
    lines = difflib.unified_diff(source.splitlines(), mutation.apply(source).splitlines(), lineterm="", n=0)
    return "\n".join(f"    {line}" for line in list(lines)[3:])


def summary(results):
    rooms = {}
    for file, outcome in results:
        room = file.split("/")[0]
        rooms.setdefault(room, []).append(outcome)
    lines = [f"\n{'room':14} caught survived suspect  rate"]
    for room, outcomes in [*sorted(rooms.items()), ("all", [outcome for _, outcome in results])]:
        caught, survived, suspect = (outcomes.count(word) for word in ("caught", "survived", "suspect"))
        rate = f"{100 * caught / (caught + survived):4.0f} %" if caught + survived else "   –"
        lines.append(f"{room:14} {caught:6} {survived:8} {suspect:7} {rate}")
    return "\n".join(lines)


# ---- one mutation ----

def tried(file, mutation, sources, tests, trees, limit):
    """(file, mutation, outcome, in words by what)."""
    names = tests.running(file, mutation.scope)
    if not names:
        return file, mutation, judged(sources[file], mutation), "no test runs it"
    chosen, seconds, fixtures = [], 0, set()
    for name in names:
        new = set(tests.tests[name]["fixtures"]) - fixtures
        seconds += tests.tests[name]["seconds"] + sum(tests.fixtures.get(fixture, 0) for fixture in new)
        if chosen and seconds > limit:
            break
        chosen.append(name)
        fixtures |= new
    tree = trees.pop()
    try:
        (tree / file).write_text(mutation.apply(sources[file]))
        code, said = run_tests(tree, ["-x", *chosen], timeout=60 + 6 * min(seconds, limit))
    finally:
        (tree / file).write_text(sources[file])
        trees.append(tree)
    if code == 0:
        detail = f"{len(chosen)} of {len(names)} tests that run it passed"
        return file, mutation, judged(sources[file], mutation), detail
    failed = re.findall(r"^(?:FAILED|ERROR) (?:tests/)?(\S+)", said, re.M)
    by = "a hang" if code is None else failed[0] if failed else said.strip().splitlines()[-1]
    return file, mutation, "caught" if code in (None, 1, 2) or code < 0 else f"error {code}", f"by {by}"


def judged(source, mutation):
    lines = source.splitlines()[mutation.statement - 1 : mutation.end_line]
    return "suspect" if SUSPECT.search("\n".join(lines)) else "survived"


def run_tests(tree, words, timeout=None, options=(), **environment):
    """(exit status, output) of pytest in a copy of the tree; None when it took too long. Nothing is left running.

    words: go through a file, since they may be many; pytest loads no plugins from there, so those are `options`.
    """
    mark = f"mutate-{uuid.uuid4()}"
    temporary = tree.with_name(f"{tree.name}-tmp")  # not inside: some tests copy the tree
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "MUTATE_RUN": mark,
                   "PYTHONPATH": str(tree / "tests"), "TMPDIR": str(temporary), **environment}
    temporary.mkdir(exist_ok=True)
    arguments = temporary / "arguments"
    arguments.write_text("".join(f"{word}\n" for word in words))
    command = ["nice", "-n", "5", sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider",
               "--tb=no", *options, f"@{arguments}"]
    with open(temporary / "output", "w+") as output:
        process = subprocess.Popen(command, cwd=tree, env=environment, stdout=output, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:  # after Ctrl-C too
            end_all(process, mark)
        output.seek(0)
        said = output.read()
    shutil.rmtree(temporary, ignore_errors=True)
    return code, said


def end_all(process, mark):
    """Kill what a test run has left: its process group, and those of its processes that have a group of their own."""
    for _ in range(3):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        left = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if has_mark(path, mark)]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            break
        time.sleep(0.1)
    process.wait()


def has_mark(path, mark):
    try:
        return f"MUTATE_RUN={mark}".encode() in path.read_bytes()
    except OSError:
        return False


# ---- the copy and the map ----

def copy_of_tree(folder):
    for file in tracked():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, folder / file, follow_symlinks=False)
    return folder


def record(sources, jobs, names=()):
    """Run tests over functions that report themselves; those that mind are asked again as they are.

    names: files of tests, whose record is added to the map; all tests, whose record is the map, if there are none.
    """
    print(f"Recording which tests run which function: {' '.join(names) or 'the whole suite'}, once", flush=True)
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        tree, log = copy_of_tree(Path(folder) / "tree"), Path(folder) / "log"
        log.mkdir()
        functions = []
        for file, source in sources.items():
            reporting, places = mutation_map.instrumented(source, file)
            (tree / file).write_text(reporting)
            functions += places
        options = ["-p", "mutation_map", *(["-n", str(jobs)] if jobs > 1 else [])]
        code, said = run_tests(tree, names, options=options, MUTATION_LOG=str(log))
        if code not in (0, 1) or not list(log.glob("*.json")):
            sys.exit(f"the suite could not be recorded:\n{said[-3000:]}")
        content = {**mutation_map.collect(log), "functions": functions}
        for file, source in sources.items():
            (tree / file).write_text(source)
        failed = [name for name, test in content["tests"].items() if not test["passed"]]
        _, said = run_tests(tree, ["-rA", *failed]) if failed else (0, "")
        for name in re.findall(r"^PASSED (.*)$", said, re.M):
            content["tests"][name]["passed"] = True
    lost = [name for name, test in content["tests"].items() if not test["passed"]]
    print(f"{len(content['tests'])} tests run {len(content['places'])} of {len(functions)} functions; not used, as "
          f"they fail or are skipped: {', '.join(lost) or 'none'}", flush=True)
    if names:
        content = mutation_map.joined(json.loads(MAP.read_text()), content)
    MAP.parent.mkdir(exist_ok=True)
    MAP.write_text(json.dumps(content, indent=0))


if __name__ == "__main__":
    main()
