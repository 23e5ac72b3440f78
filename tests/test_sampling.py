"""Random numbers come from named streams: no two share a state, each is a function of its name and place."""
from itertools import product

import numpy as np
import pytest
import torch

from data.sampling import STREAMS, stream, stream_seed


def test_no_two_streams_start_alike():
    """Of NumPy's streams the first 64 bits; of PyTorch's seeds the 32 bits that its CPU generator uses."""
    numpy_places = [{"epoch": e, "member": m, "step": s} for e, m, s in product(range(1, 61), range(5), range(3))]
    firsts = [stream(seed, name, **place).integers(2**63) for seed, name, place in
              product((0, 1, 2, 3), ("shuffle", "augment", "auxiliary", "outliers"), numpy_places)]
    assert len(set(firsts)) == len(firsts)
    seeds = [stream_seed(seed, "init") for seed in range(20)]
    seeds += [stream_seed(seed, "mix", epoch=e, rank=r) for seed, e, r in product(range(1, 6), range(1, 301), range(4))]
    seeds += [stream_seed(seed, "resume", epoch=e, rank=r, step=s)
              for seed, e, r, s in product((1, 2), range(1, 21), range(4), range(1, 11))]
    assert len({seed & 0xFFFFFFFF for seed in seeds}) == len(seeds)
    draws = {tuple(torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()) for seed in seeds[:2000]}
    assert len(draws) == 2000


def test_a_shorter_address_is_no_longer_one_with_zeros():
    """NumPy's SeedSequence does not tell (1, 2) from (1, 2, 0); these were the same stream once."""
    alike = [stream_seed(1, "mix", epoch=2), stream_seed(1, "mix", epoch=2, rank=1),
             stream_seed(1, "mix", epoch=2, step=1),
             stream_seed(1, "shuffle", epoch=2), stream_seed(1, "shuffle", epoch=2, member=1), stream_seed(2, "init")]
    assert len(set(alike)) == len(alike)


def test_a_stream_is_a_function_of_its_name_and_place():
    for name in STREAMS:
        again = [stream(3, name, epoch=4).random(5) for _ in range(2)]
        assert np.array_equal(*again)
    with pytest.raises(ValueError, match="unknown random stream 'shufle': choose from init, shuffle"):
        stream(1, "shufle")
    with pytest.raises(ValueError):
        stream(-1, "init")
