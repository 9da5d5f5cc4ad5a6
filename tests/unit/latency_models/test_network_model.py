import json

import numpy as np
import pytest
from synthetic_device import conv, kernel_ms, measured_networks, measured_table, resnet_networks, vgg_networks

from latency_models.errors import KernelTableError, ModelFileError, UnknownRegressorError
from latency_models.evaluation import held_out_error, scores
from latency_models.features import macs, widths
from latency_models.kernel_table import KernelTable
from latency_models.network_model import LatencyModel
from latency_models.sampling import plan_profile, ranges_of
from latency_models.shapes import LayerShape, NetworkShapes


@pytest.fixture(scope="module")
def table():
    return measured_table(plan_profile(ranges_of(resnet_networks(100)), 120))


@pytest.fixture(scope="module")
def networks():
    return measured_networks(resnet_networks(8, seed=1))


@pytest.fixture(scope="module")
def model(table, networks):
    return LatencyModel.fit(table, networks)


def test_held_out_networks_are_predicted_far_better_than_by_multiply_adds(model):
    shapes = resnet_networks(150, seed=7)
    actual_ms = [latency_ms for _, latency_ms in measured_networks(shapes, seed=8)]
    ours = scores(actual_ms, model.predict(shapes)[0])
    assert ours["mape"] < 1.5
    assert ours["within_5"] >= 97
    assert ours["spearman"] >= 0.99
    columns = zip(shapes.templates, shapes.in_channels.T, shapes.out_channels.T, strict=True)
    work = sum(macs(template, c_in, c_out) for template, c_in, c_out in columns)
    assert ours["mape"] < scores(actual_ms, work * np.mean(actual_ms) / np.mean(work))["mape"] / 3


def test_intervals_of_models_calibrated_on_ten_networks_cover_what_they_say(model):
    shapes = resnet_networks(60, seed=7)
    actual_ms = np.array([latency_ms for _, latency_ms in measured_networks(shapes, seed=8)])
    covered = []
    for seed in range(12):
        calibrated = model.recalibrate(measured_networks(resnet_networks(10, seed=20 + seed), seed=seed))
        mean_ms, std_ms = calibrated.predict(shapes)
        covered.append(np.mean(np.abs(actual_ms - mean_ms) <= calibrated.interval_factor(0.9) * std_ms))
    # Ten networks tell their spread to a quarter: one calibration covers 50 %, another all.
    assert 0.8 <= np.mean(covered) <= 0.95


def test_pairs_of_widths_nobody_could_tabulate_are_carried_by_the_surfaces():
    table = measured_table(plan_profile(ranges_of(vgg_networks(100)), 200))
    model = LatencyModel.fit(table, measured_networks(vgg_networks(10, seed=1)))
    shapes = vgg_networks(100, seed=7)
    actual_ms = [latency_ms for _, latency_ms in measured_networks(shapes, seed=8)]
    ours = scores(actual_ms, model.predict(shapes)[0])
    assert ours["mape"] < 2.5
    assert ours["spearman"] >= 0.99


def test_a_measured_kernel_is_predicted_as_measured(table, model):
    mean_ms, std_ms = model.predict_kernels(table.shapes)
    np.testing.assert_allclose(mean_ms, table.latency_ms, rtol=0.05)
    assert (std_ms < 0.05 * mean_ms).all()


def test_many_candidates_at_once_equal_each_alone(model):
    shapes = resnet_networks(20, seed=3)
    mean_ms, std_ms = model.predict(shapes)
    singly = [model.predict_networks([shapes.row(index)]) for index in range(20)]
    np.testing.assert_allclose(mean_ms, [each[0][0] for each in singly], rtol=1e-9)
    np.testing.assert_allclose(std_ms, [each[1][0] for each in singly], rtol=1e-9)


def test_networks_of_mixed_families_come_back_in_their_order(model):
    resnet, deeper = resnet_networks(3, seed=2), resnet_networks(2, depth=26, seed=2)
    mixed = [resnet.row(0), deeper.row(1), resnet.row(2)]
    expected = [model.predict(resnet)[0][0], model.predict(deeper)[0][1], model.predict(resnet)[0][2]]
    np.testing.assert_allclose(model.predict_networks(mixed)[0], expected)


def test_no_candidates_give_no_predictions(model):
    none = resnet_networks(2)
    none = NetworkShapes(none.templates, none.in_channels[:0], none.out_channels[:0])
    assert [len(values) for values in model.predict(none)] == [0, 0]


def test_widths_beyond_the_grid_are_predicted_the_same_way():
    template = LayerShape("dense", 0, 0, 1, 1)
    rows = [template.with_channels(i, o) for i in (64, 1024, 8192) for o in (64, 1024, 4096)]
    model = LatencyModel.fit(measured_table(rows, noise=0.0))
    layers = template.with_channels(8000, 4000)
    mean_ms, _ = model.predict_networks([(layers,)])
    assert mean_ms[0] == pytest.approx(kernel_ms(layers), rel=0.1)


def test_recalibrating_moves_the_networks_and_not_the_kernels(table, model):
    slower = [(layers, 1.5 * latency_ms) for layers, latency_ms in model.networks]
    moved = model.recalibrate(slower)
    shapes = resnet_networks(10, seed=4)
    np.testing.assert_allclose(moved.predict(shapes)[0], 1.5 * model.predict(shapes)[0], rtol=0.03)
    np.testing.assert_array_equal(
        moved.predict_kernels(table.shapes[:5])[0], model.predict_kernels(table.shapes[:5])[0]
    )


def test_more_networks_make_a_surer_model(model):
    few = model.recalibrate(model.networks[:2])
    shapes = resnet_networks(10, seed=4)
    many = model.recalibrate(measured_networks(resnet_networks(40, seed=5)))
    assert (many.predict(shapes)[1] < few.predict(shapes)[1]).all()


def test_an_uncalibrated_model_says_so_and_is_unsure(table):
    model = LatencyModel.fit(table)
    assert any("not calibrated" in note for note in model.notes(table.shapes))
    mean_ms, std_ms = model.predict(resnet_networks(5))
    assert (std_ms > 0.2 * mean_ms).all()


def test_layers_outside_the_profile_are_named_and_get_a_wide_spread(model):
    strange = LayerShape("conv2d", 32, 32, 20, 20, (7, 7), padding=(3, 3))
    (note,) = model.notes([conv(16, 16, 32), strange])
    assert "conv2d 7x7 at 20x20" in note
    layers = resnet_networks(1).row(0)
    mean_ms, std_ms = model.predict_networks([layers, (strange, *layers[1:])])
    assert std_ms[1] / mean_ms[1] > 3 * std_ms[0] / mean_ms[0]


def test_the_staircase_of_the_device_is_found(model):
    steps = model.channel_steps()
    assert steps[conv(0, 0, 32)][1] == 16 or steps[conv(0, 0, 16)][1] == 16
    assert set(steps) == {shape.template for shape in model.table}


def test_the_same_rows_give_the_same_model_whatever_their_order(table, networks):
    shuffled = KernelTable({shape: table[shape] for shape in reversed(table.shapes)})
    one, other = LatencyModel.fit(table, networks), LatencyModel.fit(shuffled, networks)
    shapes = resnet_networks(10, seed=4)
    np.testing.assert_array_equal(one.predict(shapes)[0], other.predict(shapes)[0])
    assert one.data_digest == other.data_digest


def test_the_regressor_can_be_left_to_cross_validation(table):
    model = LatencyModel.fit(table.take(np.arange(0, len(table), 3)), regressor="auto")
    assert model.recipe.regressor == model.card()["regressor"]
    assert model.recipe.regressor in {"forest", "boosting", "gaussian_process", "ridge"}


def test_the_card_tells_what_the_model_is_made_of_and_how_good_it_is(model, networks):
    card = json.loads(json.dumps(model.card()))
    assert (card["kernels"], card["networks"]) == (len(model.table), len(networks))
    assert card["data_digest"] == model.data_digest
    assert card["scores"]["networks"]["mape"] < 3
    assert card["scores"]["new_templates"]["mape"] > card["scores"]["networks"]["mape"]
    assert card["scores"]["networks"] == held_out_error(model.recalibrate, model.networks)


def test_a_saved_model_predicts_the_same_after_loading(model):
    loaded = LatencyModel.from_json(model.to_json())
    shapes = resnet_networks(10, seed=4)
    for before, after in zip(model.predict(shapes), loaded.predict(shapes), strict=True):
        np.testing.assert_array_equal(before, after)
    assert loaded.recipe == model.recipe
    assert loaded.data_digest == model.data_digest


def test_a_single_measurement_has_what_averaging_took_from_the_networks(table, networks, model):
    shapes = resnet_networks(50, seed=5)
    averaged = LatencyModel.fit(table, networks, averaged_std=0.05)
    mean_ms, std_ms = model.predict(shapes)
    np.testing.assert_array_equal(averaged.predict(shapes)[0], mean_ms)
    np.testing.assert_allclose(averaged.predict(shapes)[1] ** 2, std_ms**2 + (0.05 * mean_ms) ** 2)
    loaded = LatencyModel.from_json(averaged.recalibrate(networks[:5]).to_json())
    assert loaded.recipe.averaged_std == 0.05


def test_a_model_of_another_version_is_refitted_and_its_card_says_so(model):
    saved = {**json.loads(model.to_json()), "features_version": 0, "scikit_learn": "0.1"}
    loaded = LatencyModel.from_json(json.dumps(saved))
    card = loaded.card()
    assert card["written_by"]["features_version"] == 0
    assert card["features_version"] != 0
    np.testing.assert_array_equal(loaded.predict(resnet_networks(3))[0], model.predict(resnet_networks(3))[0])


def test_text_that_is_no_model_is_refused():
    for text in ("", "[]", "{}", '{"kernels": 1}'):
        with pytest.raises(ModelFileError, match="profile the device again"):
            LatencyModel.from_json(text)


def test_a_model_of_a_newer_schema_is_refused(model):
    newer = {**json.loads(model.to_json()), "schema_version": 99}
    with pytest.raises(ModelFileError, match="update this program"):
        LatencyModel.from_json(json.dumps(newer))


def test_a_model_whose_rows_were_changed_is_refused(model):
    changed = json.loads(model.to_json())
    changed["kernels"]["rows"][0][3] *= 2
    with pytest.raises(ModelFileError, match="digest"):
        LatencyModel.from_json(json.dumps(changed))


def test_a_model_with_a_part_missing_is_refused(model):
    for part in ("kernels", "recipe", "data_digest"):
        damaged = json.loads(model.to_json())
        del damaged[part]
        with pytest.raises(ModelFileError, match="damaged"):
            LatencyModel.from_json(json.dumps(damaged))


def test_an_empty_table_is_refused():
    with pytest.raises(KernelTableError, match="profile the device first"):
        LatencyModel.fit(KernelTable())


def test_an_unknown_regressor_is_refused_with_the_nearest_one(table):
    with pytest.raises(UnknownRegressorError, match="did you mean 'forest'"):
        LatencyModel.fit(table, regressor="forrest")
    assert UnknownRegressorError("x", ["forest"]).exit_code == 2


def test_a_kernel_costs_no_less_with_more_channels_of_output(model):
    shapes = [conv(16, c, 32) for c in range(1, 17)]
    mean_ms, _ = model.predict_kernels(shapes)
    assert widths(shapes)[1].tolist() == list(range(1, 17))
    assert mean_ms[-1] >= 0.97 * mean_ms[0]
