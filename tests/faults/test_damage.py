"""A part of the damage matrix in the suite; `make torture` does all of it."""
from . import damage


def test_damaged_files_give_the_same_result_or_a_sentence():
    broken, count = damage.run(sample=24, seed=3)
    assert count == 24 and not broken
