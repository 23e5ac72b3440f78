"""README and docs: every command exists with its flags, Python blocks run, links and table blocks are right."""
import ast
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from functools import cache
from io import StringIO

import pytest
import torch
from conftest import ROOT, script
from documents import BLOCK as FENCED
from documents import code_blocks, commands
from torch import nn

from reporting import status
from reporting.readme_tables import BLOCK, filled

FILES = ["README.md", "CONTRIBUTING.md", "benchmarks/README.md", "results/README.md",
         *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
BLOCKS = [block for name in FILES for block in code_blocks(name)]
SHELL = [block for block in BLOCKS if block.language == "sh"]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
WIDTH = 88  # columns of a code block that GitHub shows without scrolling


@cache
def help_of(name):
    """What a script says of its flags; those without an argument parser name them in their source."""
    done = script(name, "--help", check=False)
    return done.stdout if done.returncode == 0 else (ROOT / name).read_text()


@cache
def make_targets():
    return set(re.findall(r"^([a-z0-9-]+(?: [a-z0-9-]+)*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def make_variables():
    text = (ROOT / "Makefile").read_text() + (ROOT / "run_scripts/runs.mk").read_text()
    return set(re.findall(r"\$[({](\w+)", text))


def check_make(words):
    targets = {target for line in make_targets() for target in line.split()}
    for word in words:
        if re.fullmatch(r"[A-Z_]+=.*", word):
            assert word.split("=")[0] in make_variables(), f"make has no variable {word}"
        elif not word.startswith("-") and not word.isdigit():
            assert word in targets, f"make has no target {word}"


def check_flags(name, words):
    """The flags of a command are in the script's --help."""
    for word in words:
        if word.startswith("--"):  # only then: docs/picture.py would draw its picture anew
            assert re.search(rf"{re.escape(word.split('=')[0])}\b", help_of(name)), f"{name} has no {word}"


def check_script(name):
    assert (ROOT / name).is_file(), f"there is no {name}"
    text = (ROOT / name).read_text()
    assert 'if __name__ == "__main__":' in text or "def " not in text, f"{name} does nothing when it is run"


def check_shell(words):
    path = ROOT / words[0].removeprefix("./")
    assert path.is_file() and path.stat().st_mode & 0o100, f"{words[0]} is no executable file"
    text = path.read_text()
    if flags := [word for word in words[1:] if word.startswith("--")]:
        inner, = re.findall(r"\$root/([\w/]+\.py)", text)
        check_flags(inner, flags)


def check_command(words):
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):  # variables of the environment
        words = words[1:]
    if words[0] == "make":
        check_make(words[1:])
    elif words[0] in ("python", "torchrun"):
        words = [word for word in words[1:] if not word.startswith("--nproc")]
        if words[0] == "-m":
            return
        check_script(words[0])
        check_flags(words[0], words[1:])
    elif "/" in words[0]:
        check_shell(words)
    else:
        assert words[0] in ("source", "pip", "git", "docker", "conda", "jupyter", "cd"), f"unknown command {words[0]}"


@pytest.mark.parametrize("block", SHELL, ids=lambda block: f"{block.file}: {block.heading}")
def test_commands_exist_with_their_flags(block):
    for words in commands(block):
        check_command(words)


def test_commands_in_sentences_exist():
    """`python x.py …`, `make x …` and `./x.sh` between backticks, with names in capitals left open."""
    for name in FILES:
        for code in re.findall(r"`((?:python [\w./]+\.py|make [a-z]|\./\w+\.sh)[^`\n]*)`", (ROOT / name).read_text()):
            words = [word.strip('"') for word in code.split() if word != "…"]
            if words[0] == "make":
                check_make([word for word in words[1:2] if "<" not in word])
            else:
                check_command(words)


def test_commands_in_messages_and_help_exist():
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*/*.py"), *ROOT.glob("data/sources/*.py"), *ROOT.glob("*/*.sh")]:
        if path.parent.name != "tests":
            for name in re.findall(r"python ((?:\w+/)*\w+\.py)\b", path.read_text()):
                check_script(name)


@pytest.mark.parametrize("words", [
    ["make", "nothing"], ["make", "demo", "NOTHING=1"], ["python", "train.py", "--nothing"], ["python", "nothing.py"],
    ["python", "data/corruptions.py"],
    ["./nothing.sh"], ["./analyze.sh", "--nothing"], ["nothing"]])
def test_a_command_that_does_not_exist_is_noticed(words):
    with pytest.raises(AssertionError):
        check_command(words)


@pytest.mark.parametrize("words", [
    ["reproduce-cifar10", "MODELS=resnet34", "METHODS=softmax dismax_fpr", "SEEDS=1", "EPOCHS=1"],
    ["reproduce-mnist", "METHODS=de gradcam", "SEEDS=1"], ["demo"], ["report"], ["tables"], ["bench"],
    ["prepare-data"]])
def test_make_can_plan_what_is_documented(words):
    done = subprocess.run(["make", "-n", f"PY={sys.executable}", f"PYTHON={sys.executable}", *words], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def python_names():
    """What the README's Python blocks take for granted: a network, images, labels, two members' outputs."""
    torch.manual_seed(0)

    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, 512), nn.ReLU())
            self.fc = nn.Linear(512, 10)

        def forward(self, images):
            return self.fc(self.body(images))

    images, labels = torch.randn(40, 3, 16, 16), torch.arange(40) % 10
    maps = [torch.randn(40, 4, 6, 6, requires_grad=True) for _ in range(2)]
    z = torch.stack([m.relu().flatten(1) @ torch.randn(144, 10) for m in maps])
    return {"model": ResNet(), "images": images, "labels": labels, "val_images": images, "val_labels": labels,
            "new_images": images[:5], "maps": maps, "z": z, "y": labels}


def test_python_blocks_of_the_readme_run(monkeypatch):
    """One after the other, as a reader would, with the packages under the names that `pip install .` gives them."""
    import losses
    import losses.diversity

    monkeypatch.setitem(sys.modules, "dismax", losses)
    monkeypatch.setitem(sys.modules, "sdde", losses.diversity)
    names = python_names()
    blocks = [block for block in BLOCKS if block.file == "README.md" and block.language == "python"]
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(ast.parse(block.code), "README.md", "exec"), names)
    assert names["known"].dtype == torch.bool and len(names["known"]) == 5
    names["loss"].backward()
    assert names["model"].fc.prototypes.grad.abs().sum() > 0


def test_links_lead_to_files():
    for name in FILES:
        for target in LINK.findall(FENCED.sub("", (ROOT / name).read_text())):
            if not target.startswith(("http", "#")):
                assert ((ROOT / name).parent / target.split("#")[0]).exists(), f"{name}: {target}"


def test_the_readme_is_short_and_code_blocks_fit():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    for block in BLOCKS:
        for line in block.code.splitlines() if block.file != "benchmarks/README.md" else ():
            assert len(line) <= WIDTH, f"{block.file}: {line}"


@pytest.mark.parametrize("name", FILES)
def test_tables_are_those_of_the_committed_files(name):
    text = (ROOT / name).read_text()
    assert len(BLOCK.findall(text)) == text.count("<!-- table")
    assert filled(text) == text, "type `make tables`"


def test_every_table_has_a_place():
    shown = {match["source"].split("/")[-1] for name in FILES for match in BLOCK.finditer((ROOT / name).read_text())}
    assert shown >= {"status.py", "readme_table.py", *(f"{name}.md" for name in (
        "openood_mnist", "openood_mnist_paired", "openood_mnist_epochs", "openood_digits", "dismax_digits"))}


def test_tests_that_the_documents_name_exist():
    code = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    for name in FILES:
        for test in set(re.findall(r"`(test_\w+)`", (ROOT / name).read_text())):
            assert f"def {test}(" in code, f"{name}: {test}"


def test_the_status_table_counts_runs_and_says_why_none_is_judged():
    lines = {tuple(cell.strip() for cell in line.split("|")[1:3]): [cell.strip() for cell in line.split("|")[3:7]]
             for line in status.markdown().splitlines()[2:]}
    assert lines["ours, digits 0–6", "LeNet"] == ["18 of 18", "1 to 3 of 3", "done", "in neither paper"]
    assert lines["DisMax, CIFAR-10", "ResNet34"][2] == "needs a GPU"
    assert len(lines) == len(status.block_rows())


def test_the_picture_is_made_by_its_script():
    """That the script still runs is what examples/sdde.py and the tour show; here its parts are called once."""
    names = runpy.run_path(str(ROOT / "docs/picture.py"), run_name="picture")
    figure = names["plt"].figure(figsize=(3, 2))
    data = names["ensembles"].digits()
    with redirect_stdout(StringIO()):
        names["draw_saliency"](figure, "one epoch", names["ensembles"].train(0, *data[:2], epochs=1), data[2])
    names["plt"].close(figure)
    assert (ROOT / "docs/picture.png").stat().st_size < 200_000
