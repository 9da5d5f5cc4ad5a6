import numpy as np
import pytest
from synthetic_device import conv, kernel_ms, measured_table, resnet_networks

from latency_models.evaluation import mape
from latency_models.features import widths
from latency_models.kernel_regressor import KernelRegressor, choose_regressor, leave_templates_out
from latency_models.sampling import plan_profile, ranges_of
from latency_models.shapes import LayerShape


@pytest.fixture(scope="module")
def table():
    return measured_table(plan_profile(ranges_of(resnet_networks(40)), 60))


def test_a_template_left_out_is_predicted_better_than_by_multiply_adds_alone(table):
    log_mean, log_std = leave_templates_out(table, "forest", 16)
    assert mape(table.latency_ms, np.exp(log_mean)) < 20
    assert (log_std >= 0).all()


def test_the_spread_is_on_the_scale_of_the_errors(table):
    new = [conv(c_in, c_out, 24) for c_in in (5, 20, 60) for c_out in (7, 16, 40)]
    log_mean, log_std = KernelRegressor(table, "forest", 16).predict_log(new[0].template, *widths(new))
    off = np.log([kernel_ms(shape) for shape in new]) - log_mean
    assert np.sqrt(np.mean((off / log_std) ** 2)) < 3


def test_a_layer_unlike_all_that_was_measured_gets_a_wide_spread(table):
    regressor = KernelRegressor(table, "forest", 16)
    like, unlike = conv(0, 0, 24), LayerShape("conv2d", 0, 0, 24, 24, (11, 11), padding=(5, 5))
    at = np.array([32]), np.array([32])
    assert regressor.predict_log(unlike, *at)[1] > 0.5 > regressor.predict_log(like, *at)[1]


def test_a_handful_of_kernels_is_carried_by_the_roofline_alone():
    few = measured_table([conv(16, 16, 32), conv(16, 32, 32), conv(32, 32, 32)], noise=0.0)
    log_mean, log_std = KernelRegressor(few, "forest", 16).predict_log(conv(0, 0, 32), np.array([24]), np.array([32]))
    assert np.exp(log_mean[0]) == pytest.approx(kernel_ms(conv(24, 32, 32)), rel=0.1)
    assert log_std[0] == 0.5


def test_the_best_regressor_is_chosen_by_templates_left_out(table):
    name, scores = choose_regressor(table, 16)
    assert {"forest", "boosting", "gaussian_process", "ridge"} <= set(scores)
    assert scores[name]["mape"] <= 1.2 * min(each["mape"] for each in scores.values())


def test_with_one_template_there_is_nothing_to_choose_by():
    assert choose_regressor(measured_table([conv(16, c, 8) for c in range(1, 20)]), 16) == ("forest", {})
