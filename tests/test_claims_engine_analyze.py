"""Claims about the parts of analyze.py."""
from types import SimpleNamespace

import analyze
from utils.io import UserError


def test_saliency_is_made_once_for_the_first_seed_of_each_ensemble(monkeypatch):
    from engine import saliency

    def run(seed, members=5, method="de", **other):
        return SimpleNamespace(seed=seed, members=members, method=method, id_dataset="d", model="m", changed="",
                               folder=f"{method}{seed}", **other)

    def write(folder, data_dir):
        assert data_dir == "DD"
        if folder == "adp1":
            raise UserError("two\nlines")
        return folder == "de1"
    monkeypatch.setattr(saliency, "write_saliency", write)
    runs = [run(2), run(1), run(1, 1, "softmax"), run(3, 2, "ncl"), run(1, method="adp"), run(2, method="adp")]
    made = list(analyze.compute_saliency(runs, "DD"))
    assert made == ["Saliency maps of de1: made", "No saliency maps of adp1: two lines",
                    "Saliency maps of ncl3: there already"]


def test_a_row_of_a_run_is_of_its_last_session():
    run = SimpleNamespace(id_dataset="d", model="m", method="x", seed=2, folder="F", changed="lr", epochs=3, config={
        "parameters": 5, "best_epoch": 2, "sessions": [{"device": "old"}, {"device": "new", "torch": "2"}]})
    row = analyze.run_row(run)
    assert [row[name] for name in ("device", "torch", "commit", "parameters", "best_epoch")] == ["new", "2", None, 5, 2]
    assert row["last_accuracy"] is None and row["folder"] == "F" and len(row) == 17
