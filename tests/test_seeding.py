import hashlib

import pytest
import torch

from clbench.seeding import RandomStreams


def test_a_derived_seed_is_the_first_63_bits_of_the_sha_256_of_its_path():
    digest = hashlib.sha256(b"3/batches/7").hexdigest()
    assert RandomStreams(3).derive("batches", 7) == int(digest[:16], 16) // 2


def test_derived_seeds_are_the_same_on_every_machine_and_in_every_version():
    assert RandomStreams(0).derive("weights") == 133441691874178746
    assert RandomStreams(1).derive("permutation", 2) == 4811465234097014127


def test_seed_purpose_and_every_index_change_the_derived_seed():
    seeds = {
        RandomStreams(seed).derive(purpose, *indices)
        for seed in (0, 1, 11)
        for purpose in ("weights", "batches")
        for indices in ((), (0,), (1,), (11,), (1, 1))
    }
    assert len(seeds) == 3 * 2 * 5


def test_a_derived_seed_fits_a_torch_generator():
    for task in range(200):
        assert 0 <= RandomStreams(0).derive("batches", task) < 2**63


def test_drawing_more_for_one_purpose_changes_nothing_for_another():
    seeds = RandomStreams(0)
    expected = torch.rand(5, generator=seeds.generator("weights"))
    torch.rand(1000, generator=seeds.generator("batches", 0))
    assert torch.equal(torch.rand(5, generator=seeds.generator("weights")), expected)


def test_a_generator_always_begins_in_the_same_state():
    seeds = RandomStreams(0)
    first, second = seeds.generator("batches", 1), seeds.generator("batches", 1)
    torch.rand(10, generator=first)
    assert torch.equal(torch.rand(3, generator=second), torch.rand(3, generator=seeds.generator("batches", 1)))


def test_the_global_generator_is_neither_read_nor_moved():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    drawn = torch.rand(4, generator=RandomStreams(0).generator("weights"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(torch.rand(4, generator=RandomStreams(0).generator("weights")), drawn)


def test_random_streams_cannot_be_changed():
    with pytest.raises(AttributeError):
        RandomStreams(0).seed = 1
