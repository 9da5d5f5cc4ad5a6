import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprune.errors import ConfigError
from hwprune.search.space import SearchSpace


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    sizes = draw(st.lists(st.integers(1, 70), min_size=1, max_size=6))
    steps = draw(st.lists(st.integers(1, 16), min_size=len(sizes), max_size=len(sizes)))
    ratio = draw(st.floats(0.1, 0.95))
    scores = [np.random.default_rng(index).permutation(np.arange(1.0, size + 1)) for index, size in enumerate(sizes)]
    return SearchSpace.of(sizes, round_to=steps, pruning_ratio_max=ratio, scores=scores)


@settings(max_examples=80, deadline=None)
@given(spaces(), st.sampled_from(["group_ratio", "layer_threshold"]), st.integers(0, 2**31))
def test_widths_survive_encoding(space: SearchSpace, encoding: str, seed: int) -> None:
    space = space.encoded(encoding)
    widths = space.decode(space.upper * np.random.default_rng(seed).random((20, space.n_var)))
    assert np.array_equal(space.decode(space.encode(widths)), widths)


@settings(max_examples=80, deadline=None)
@given(spaces(), st.integers(0, 2**31))
def test_every_width_is_a_level_of_its_group(space: SearchSpace, seed: int) -> None:
    widths = space.decode(space.upper * np.random.default_rng(seed).random((20, space.n_var)))
    multiple = widths % space.round_to == 0
    assert (multiple | (widths == space.sizes)).all()
    assert (widths >= np.minimum(space.round_to, space.sizes)).all()
    assert (widths <= space.sizes).all()


@settings(max_examples=50, deadline=None)
@given(spaces(), st.integers(0, 2**31))
def test_shifts_go_to_levels_inside_the_space_and_back(space: SearchSpace, seed: int) -> None:
    random_state = np.random.default_rng(seed)
    widths = space.decode(space.upper * random_state.random((20, space.n_var)))
    moved = space.shift(widths, random_state.integers(-4, 5, widths.shape))
    assert ((moved % space.round_to == 0) | (moved == space.sizes) | (moved == space.smallest)).all()
    assert (moved >= space.smallest).all()
    inside = (widths - 2 * space.round_to >= space.smallest).all(axis=1)
    down = space.shift(widths[inside], np.full(widths[inside].shape, -1))
    assert np.array_equal(space.shift(down, np.ones_like(down)), widths[inside])


def test_decoding_is_the_formula_of_the_specification() -> None:
    space = SearchSpace.of([64, 16, 10], round_to=[8, 2, 4], pruning_ratio_max=0.9)
    genomes = np.array([[0.0, 0.0, 0.0], [0.5, 0.3, 0.5], [0.9, 0.9, 0.9]])
    # 10 channels in steps of 4: the dense width is a level though it is no multiple; 5 rounds to 4.
    assert space.decode(genomes).tolist() == [[64, 16, 10], [32, 12, 4], [8, 2, 4]]


def test_threshold_keeps_the_channels_that_reach_it() -> None:
    space = SearchSpace.of([4], round_to=1, scores=[np.array([1.0, 4.0, 2.0, 3.0])]).encoded("layer_threshold")
    assert space.decode(np.array([[0.0], [0.25], [0.3], [0.75], [1.0]])).ravel().tolist() == [4, 4, 3, 2, 1]


def test_thresholds_respect_the_largest_pruning_ratio() -> None:
    space = SearchSpace.of([10], round_to=1, pruning_ratio_max=0.5, scores=[np.arange(10.0)]).encoded("layer_threshold")
    assert space.decode(np.array([[1.0]])).item() == 5


def test_automatic_steps_leave_narrow_groups_eight_levels() -> None:
    assert SearchSpace.of([4, 16, 32, 64, 512]).round_to.tolist() == [1, 2, 4, 8, 8]
    assert SearchSpace.of([16, 512], channel_step=16).round_to.tolist() == [2, 16]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": []}, "nothing to prune"),
        ({"sizes": [8], "pruning_ratio_max": 1.0}, "between 0 and 1"),
        ({"sizes": [8], "pruning_ratio_max": 0.0}, "between 0 and 1"),
        ({"sizes": [8], "round_to": 0}, "at least 1"),
    ],
)
def test_space_that_cannot_be_searched_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchSpace.of(**arguments)


def test_thresholds_without_scores_are_refused() -> None:
    with pytest.raises(ConfigError, match="group_ratio"):
        SearchSpace.of([8]).encoded("layer_threshold")
