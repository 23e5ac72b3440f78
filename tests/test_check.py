"""analyze.py --check: which published rows are judged, what fails, and why others are not judged."""
import pytest
from conftest import script
from made_up import FAR, NEAR, OPENOOD_PAPER, ensemble, single


def checked(folder, *words):
    done = script("analyze.py", "--results-dir", folder, "--check", *words, check=False)
    assert not (folder / "tables").exists(), "it writes nothing"
    return done.returncode, done.stdout


def test_check_passes_what_is_reproduced(tmp_path):
    for seed in range(1, 6):
        single(tmp_path, "softmax", seed, 0.956)
        ensemble(tmp_path, "de", seed, **OPENOOD_PAPER)
    code, said = checked(tmp_path)
    assert code == 0 and "outside tolerance  " not in said and "not judged  " not in said
    assert "35 published rows: 2 judged, 0 cells outside their tolerance; 33 not judged (33 no run" in said
    code, said = checked(tmp_path, "--dataset", "cifar10")
    assert code == 0 and "14 published rows: 1 judged" in said, "3 networks × 3 rows and 5 ensembles"


def test_check_fails_and_names_every_cell_that_is_outside(tmp_path):
    for seed in range(1, 6):
        single(tmp_path, "softmax", seed, 0.90)
        ensemble(tmp_path, "de", seed, 0.97, OPENOOD_PAPER["far"])
    code, said = checked(tmp_path)
    off = [line for line in said.splitlines() if line.startswith("outside tolerance")]
    assert code == 1 and len(off) == 2 and "2 judged, 2 cells outside" in said
    assert "cifar10, ResNet34, SoftMax (baseline), ACC (%): ours 90 (n = 5), paper 95.6, Δ -5.6, tolerance 0.3" in said
    assert "mnist, LeNet, DE, near AUROC (%): ours 97 (n = 5), paper 92.45, Δ +4.55, tolerance 1" in said


@pytest.mark.parametrize("change, reason", [
    ({"seeds": (1, 2, 3)}, "n = 3, the paper has 5"),
    ({"sets": NEAR + FAR[:2]}, "missing sets or other images than the paper's in far AUROC (%)"),
    ({"notes": {"notmnist": "10,000 images in place of 17,723"}},
     "missing sets or other images than the paper's in near AUROC (%)"),
    ({"overrides": {"epochs": {"published": 50, "used": 1}}}, "changed recipe, epochs 1 (published 50)"),
])
def test_check_does_not_judge_what_is_not_the_papers_row(tmp_path, change, reason):
    """Far off, but incomplete: it is said why, and nothing fails."""
    for seed in change.get("seeds", range(1, 6)):
        ensemble(tmp_path, "de", seed, 0.5, 0.5, **{name: value for name, value in change.items() if name != "seeds"})
    code, said = checked(tmp_path)
    assert code == 0 and f"not judged  mnist, LeNet, DE: {reason}\n" in said and "outside tolerance  " not in said
    assert "35 published rows: 0 judged" in said


def test_check_names_a_missing_set_and_does_not_count_a_shortened_run_as_a_seed(tmp_path):
    for seed in range(1, 5):
        single(tmp_path, "softmax", seed, 0.1, sets=("cifar100", "svhn"))
    single(tmp_path, "softmax", 5, 0.1, overrides={"epochs": {"published": 300, "used": 1}})
    code, said = checked(tmp_path)
    assert code == 0 and (
        "SoftMax (baseline): n = 4, the paper has 5; no far: TinyImageNet-r AUROC (%), far: LSUN-r AUROC (%)\n" in said)


def test_a_set_that_one_seed_lacks_leaves_the_mean_over_sets_unjudged(tmp_path):
    for seed in range(1, 6):
        ensemble(tmp_path, "de", seed, 0.5, 0.5, sets=NEAR + FAR if seed > 1 else NEAR + FAR[:3])
    code, said = checked(tmp_path)
    assert code == 0 and "other images than the paper's in far AUROC (%)\n" in said


@pytest.mark.parametrize("model, seeds, ece, off", [
    ("resnet34", 5, 0.0120, True), ("resnet34", 5, 0.0030, True), ("resnet34", 5, 0.0063, False),
    ("wideresnet2810", 5, 0.0076, True), ("wideresnet2810", 5, 0.0019, True), ("wideresnet2810", 5, 0.0041, False)])
def test_an_ece_that_is_wrong_by_a_factor_of_two_fails(tmp_path, model, seeds, ece, off):
    """The paper's are 0.0060 and 0.0038: a tolerance of 0.005 took anything between 0 and twice that."""
    for seed in range(1, seeds + 1):
        single(tmp_path, "softmax", seed, {"resnet34": 0.956, "wideresnet2810": 0.962}[model], ece=ece, model=model)
    code, said = checked(tmp_path)
    assert (", ECE: ours" in said) == off
    assert not off or code == 1


def test_images_that_are_not_the_papers_are_not_judged(tmp_path):
    """300 of CIFAR-100's test images: everything is far off, and nothing can be said. The same of unverified ones."""
    for note in ("300 of its 10,000 images", "from files that no checksum covers"):
        folder = tmp_path / note[:3]
        for seed in range(1, 6):
            single(folder, "softmax", seed, 0.1, notes={"cifar100": note, "cifar10": note})
        code, said = checked(folder)
        assert code == 0 and "0 judged, 0 cells outside" in said
        assert ("SoftMax (baseline): missing sets or other images than the paper's in ACC (%), ECE, near: CIFAR-100 "
                "AUPR (%)\n") in said


def test_a_seed_that_the_release_drops_counts_as_one(tmp_path):
    for seed in range(1, 6):
        single(tmp_path, "softmax", seed, 0.956, ece=0.5 if seed == 5 else 0.0060, dropped="dropped" * (seed == 5))
    code, said = checked(tmp_path)
    assert code == 0 and "1 judged" in said, "4 of 5 seeds are within the tolerance, the fifth is dropped, as published"
    for seed in range(1, 6):
        single(tmp_path / "all", "softmax", seed, 0.956, dropped="dropped")
    assert "SoftMax (baseline): no ECE\n" in checked(tmp_path / "all")[1]


def test_runs_that_are_left_out_are_named(tmp_path):
    single(tmp_path, "softmax", 1, 0.956)
    (tmp_path / "cifar10/resnet34/softmax/seed1/config.json").write_text("{")
    code, said = checked(tmp_path)
    assert code == 0 and "0 judged" in said and "softmax/seed1: " in said and "is damaged" in said
