"""Thresholds, corridors and variation of weight masks."""

import tracemalloc

import numpy as np
import pytest

from hwprune.config import Problem
from hwprune.experiments.workbench import Workbench
from hwprune.search.masks import Corridor, MaskSpace

N = 2000


@pytest.fixture
def generator():
    return np.random.default_rng(0)


@pytest.fixture
def corridor(generator):
    importance = generator.permutation(np.arange(1, N + 1, dtype=np.float32) / N)
    heavy, light = importance > 0.2, importance > 0.7
    light[0] = True  # a corridor need not be nested
    return Corridor(heavy, light, importance)


def test_individuals_stay_inside_the_corridor(corridor, generator):
    first, *_, last = corridor.sample(5, 0.1, generator)
    child = corridor.mutate(corridor.cross(first, last, 0.5, 0.05, generator), 50, 0.5, generator)
    for packed in (first, last, child):
        bits = corridor.bits(packed)
        assert np.array_equal(corridor.packed(bits), packed)
    outside = corridor.bits(first)
    outside[np.setdiff1d(np.arange(N), corridor.free)[0]] ^= True
    assert corridor.packed(outside) is None


def test_start_is_spread_from_the_light_end_to_the_heavy_one(corridor, generator):
    kept = np.array([corridor.kept(packed) for packed in corridor.sample(9, 0.1, generator)])
    wanted = np.linspace(1, len(corridor) - 1, 9)
    assert np.abs(kept - wanted).max() < 4 * np.sqrt(len(corridor))  # four standard deviations of a sum of coins


def test_start_keeps_important_bits_more_often(corridor, generator):
    packed = corridor.sample(3, 0.1, generator)[1]
    kept = corridor.bits(packed)[corridor.free]
    assert corridor.importance[kept].mean() > corridor.importance[~kept].mean() + 0.1


def test_start_can_be_denser_where_networks_are_sparse(generator):
    importance = np.arange(1, N + 1, dtype=np.float32) / N
    corridor = Corridor(importance > 0.0, importance > 0.96, importance)  # a core of 80 bits, 2,000 in all
    individuals = corridor.sample(5, 1e-3, generator, spacing="geometric")
    kept = np.array([corridor.bits(packed).sum() for packed in individuals])
    assert np.allclose(kept, np.geomspace(80, N, 5), rtol=0.05)


def test_without_a_core_the_ends_keep_their_sizes_and_any_of_the_corridors_weights_may_go(generator):
    importance = np.arange(1, N + 1, dtype=np.float32) / N
    heavy, light = importance > 0.1, importance < 0.3
    corridor = Corridor(heavy, light, importance, has_core=False)
    first, *_, last = corridor.sample(5, 1e-3, generator)
    assert len(corridor) == N
    assert corridor.kept(first) == pytest.approx(light.sum(), rel=0.05)
    assert corridor.kept(last) == pytest.approx(heavy.sum(), rel=0.05)
    assert not corridor.bits(first)[heavy & light].any()  # the least important of all


def test_several_importances_take_turns(generator):
    importance = np.arange(1, N + 1, dtype=np.float32) / N
    corridor = Corridor(importance > 0.0, importance > 1.0, importance, importance[::-1].copy())
    rising, falling = corridor.sample(4, 1e-3, generator)[1:3]
    by_rank = [importance[corridor.bits(packed)].mean() for packed in (falling, rising)]
    assert by_rank[0] > 0.6
    assert by_rank[1] < 0.4


def test_crossover_keeps_what_the_parents_share(corridor, generator):
    one, _, other = corridor.sample(3, 0.1, generator)
    a, b = corridor.bits(one), corridor.bits(other)
    child = corridor.bits(corridor.cross(one, other, 0.5, 0.05, generator))
    assert np.array_equal(child[a == b], a[a == b])
    assert (child != a).any()
    assert (child != b).any()


def test_a_child_of_two_sparse_parents_is_between_them_with_the_mean_of_what_differs(corridor, generator):
    one, other, *_ = corridor.sample(9, 1e-4, generator)
    ends = [corridor.kept(one), corridor.kept(other)]
    between = corridor.cross(one, other, 1000.0, 0.0, generator, mean_of="differing")
    denser = corridor.cross(one, other, 1000.0, 0.0, generator)
    assert abs(corridor.kept(between) - np.mean(ends)) < 0.2 * np.ptp(ends)
    assert abs(corridor.kept(denser) - max(ends)) < 0.2 * np.ptp(ends)


@pytest.mark.parametrize(("drop_share", "change"), [(1.0, -40), (0.0, 40)])
def test_mutation_flips_as_many_bits_as_it_is_told_and_spares_the_important(corridor, generator, drop_share, change):
    packed = corridor.sample(3, 0.1, generator)[1]
    mutant = corridor.mutate(packed, 40, drop_share, generator)
    before, after = corridor.bits(packed)[corridor.free], corridor.bits(mutant)[corridor.free]
    assert int(after.sum()) - int(before.sum()) == change
    flipped, candidates = before != after, before if drop_share else ~before
    mean = corridor.importance[candidates].mean()
    assert (corridor.importance[flipped].mean() < mean) == bool(drop_share)


def test_mutation_of_more_bits_than_there_are_flips_all(corridor, generator):
    packed = corridor.sample(3, 0.1, generator)[1]
    assert corridor.kept(corridor.mutate(packed, 10 * N, 1.0, generator)) == 0


def test_hundred_masks_of_resnet_110_need_a_tenth_of_a_gigabyte(generator):
    importance = generator.random(1_719_856, dtype=np.float32)
    tracemalloc.start()
    try:
        corridor = Corridor(importance > 0.2, importance > 0.8, importance)
        population = corridor.sample(100, 0.1, generator)
        corridor.mutate(corridor.cross(population[0], population[-1], 0.5, 0.05, generator), 5000, 0.5, generator)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(population) == 100
    assert peak_bytes < 100e6


@pytest.fixture(scope="module")
def space():
    problem = {"network": {"name": "resnet_cifar", "depth": 8}, "data": {"name": "digits", "size": 8, "channels": 3}}
    return MaskSpace(Workbench.open(Problem.model_validate(problem), with_weights=False))


def test_one_threshold_drops_the_smallest_of_all_weights(space):
    dropped = np.array([0.0, 0.3, 0.9])
    for share, quantiles in zip(dropped, space.one_threshold(dropped), strict=True):
        bits = space.decode(quantiles)
        assert bits.mean() == pytest.approx(1 - share, abs=0.001)
        if share:
            assert space.magnitudes[~bits].max() <= space.magnitudes[bits].min() * (1 + 1e-6)
    assert (space.equal(dropped)[1] == 0.3).all()
    assert np.ptp(space.one_threshold(dropped)[1]) > 0.1


def test_importance_by_lamp_is_that_of_its_definition(space):
    first = slice(0, 3 * 16 * 9)
    squares = space.magnitudes[first].astype(np.float64) ** 2
    scores = np.array([square / squares[squares >= square].sum() for square in squares])
    expected = np.argsort(space.magnitudes[first] * np.sqrt(scores))
    found = np.argsort(space.importance("lamp")[first])
    assert (expected == found).mean() > 0.99  # but for ties of rounding


def test_importance_by_magnitude_ranks_weights_in_their_layer_or_among_all(space):
    order = np.argsort(space.magnitudes, kind="stable")
    among_all, in_layer = space.importance("global_rank"), space.importance("magnitude_rank")
    assert np.allclose(among_all[order], np.arange(1, space.size + 1) / space.size)
    first = slice(0, 3 * 16 * 9)  # the first convolution's weights are larger than most
    assert in_layer[first].mean() == pytest.approx(0.5, abs=0.01)
    assert among_all[first].mean() > 0.6
