"""A few dozen kills in the suite; `make torture KILLS=600` does as many as are asked for."""
from . import campaign


def test_kills_lose_nothing_and_change_nothing(data_dir):
    counts = campaign.run(kills=24, seed=1, data_dir=data_dir)
    assert counts["let finish and compared, the same bits"] >= 2
    assert sum(number for what, number in counts.items() if "SIG" in what) >= 10
