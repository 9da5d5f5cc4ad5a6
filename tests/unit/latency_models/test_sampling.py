import numpy as np
from synthetic_device import conv, measured_table, resnet_networks, vgg_networks

from latency_models.network_model import LatencyModel
from latency_models.sampling import TemplateRange, next_networks, next_shapes, plan_profile, ranges_of
from latency_models.shapes import LayerShape, NetworkShapes

LARGE = TemplateRange(conv(0, 0, 32), (16, 64), (4, 64), count=9)
SMALL = TemplateRange(LayerShape("dense", 0, 0, 1, 1), (8, 64), (10, 10))
POOL = TemplateRange(LayerShape("max_pool", 0, 0, 8, 8, (2, 2), (2, 2)), (4, 64), (4, 64), tied=True)


def test_ranges_are_read_off_the_candidates():
    ranges = {each.template: each for each in ranges_of(resnet_networks(30))}
    first, second = ranges[conv(0, 0, 32)], ranges[conv(0, 0, 32, epilogue="add+relu")]
    assert (first.in_channels, first.out_channels, first.count) == ((3, 16), (2, 16), 4)
    assert (second.in_channels, second.out_channels, second.count) == ((2, 16), (16, 16), 3)
    assert ranges[LayerShape("global_pool", 0, 0, 8, 8)].tied


def test_the_corners_of_every_template_come_first():
    plan = plan_profile([SMALL, LARGE], 12)
    assert plan[0] == LARGE.template.with_channels(64, 64), "the costliest layer, dense"
    assert plan[1] == SMALL.template.with_channels(64, 10)
    corners = {(64, 64), (16, 4), (64, 4), (16, 64)}
    assert corners <= {(s.in_channels, s.out_channels) for s in plan if s.template == LARGE.template}


def test_both_sides_of_a_stair_are_measured():
    widths = {s.out_channels for s in plan_profile([LARGE], 8, lanes=16)}
    assert {32, 33} <= widths


def test_the_budget_is_kept_no_kernel_repeats_and_costly_layers_get_more():
    plan = plan_profile([SMALL, LARGE, POOL], 60)
    assert len(plan) == len(set(plan)) == 60
    count = {each: sum(s.template == each.template for s in plan) for each in (SMALL, LARGE, POOL)}
    assert count[LARGE] > count[POOL]
    assert count[LARGE] > count[SMALL]


def test_a_small_space_is_measured_whole_and_no_more():
    tiny = TemplateRange(conv(0, 0, 8), (4, 4), (1, 3))
    assert {s.out_channels for s in plan_profile([tiny], 50)} == {1, 2, 3}


def test_widths_stay_in_their_ranges_on_the_grid_and_tied_where_tied():
    for shape in plan_profile([LARGE, POOL], 80, channel_step=4):
        assert shape.in_channels % 4 == 0
        assert shape.out_channels % 4 == 0
        assert 4 <= shape.out_channels <= 64
        if shape.template == POOL.template:
            assert shape.in_channels == shape.out_channels
        else:
            assert 16 <= shape.in_channels <= 64


def test_one_seed_gives_one_plan_and_another_seed_another():
    assert plan_profile([LARGE], 40, seed=1) == plan_profile([LARGE], 40, seed=1)
    assert plan_profile([LARGE], 40, seed=1) != plan_profile([LARGE], 40, seed=2)


class SureOfTheSmall:
    """A model whose spread is a thousandth of the output channels, in ms."""

    def predict_kernels(self, shapes):
        return np.ones(len(shapes)), np.array([1e-3 * shape.out_channels for shape in shapes])


def test_the_most_uncertain_kernels_come_next_weighed_by_their_layers():
    chosen = next_shapes(SureOfTheSmall(), [], [LARGE, SMALL], 4)
    assert chosen[0].template == LARGE.template
    assert chosen[0].out_channels == 64


def test_measured_kernels_are_not_chosen_again_and_neighbours_wait():
    first = next_shapes(SureOfTheSmall(), [], [LARGE], 6)
    again = next_shapes(SureOfTheSmall(), first, [LARGE], 6)
    assert not set(first) & set(again)
    octaves = np.log2([[s.in_channels, s.out_channels] for s in first])
    assert np.linalg.norm(octaves[0] - octaves[1]) > 0.3


def test_nothing_is_chosen_where_nothing_is_left():
    only = TemplateRange(conv(0, 0, 8), (4, 4), (2, 2))
    assert next_shapes(SureOfTheSmall(), [conv(4, 2, 8)], [only], 3) == []


def test_what_a_model_asks_for_makes_it_surer():
    space = vgg_networks(100)
    ranges = ranges_of(space)
    plan = plan_profile(ranges, 80)
    model = LatencyModel.fit(measured_table(plan))
    more = next_shapes(model, plan, ranges, 40)
    refined = LatencyModel.fit(measured_table([*plan, *more]))
    before, after = (each.kernels for each in (model, refined))
    asked = sum(before.predict(s.template, np.array([s.in_channels]), np.array([s.out_channels]))[1][0] for s in more)
    known = sum(after.predict(s.template, np.array([s.in_channels]), np.array([s.out_channels]))[1][0] for s in more)
    assert known < asked


def test_the_most_doubtful_network_comes_first_and_its_likeness_waits():
    shapes = resnet_networks(12, seed=3)
    twin = NetworkShapes(
        shapes.templates,
        np.vstack([shapes.in_channels, shapes.in_channels[5]]),
        np.vstack([shapes.out_channels, shapes.out_channels[5]]),
    )
    doubt = np.full(13, 0.01)
    doubt[[5, 12]] = [0.03, 0.029]
    chosen = next_networks(doubt, twin, 12)
    assert chosen[0] == 5
    assert 12 not in chosen, "the twin tells nothing new"
    assert len(set(chosen)) == 12


def test_no_more_networks_are_chosen_than_there_are():
    assert sorted(next_networks(np.ones(3), resnet_networks(3), 10)) == [0, 1, 2]
