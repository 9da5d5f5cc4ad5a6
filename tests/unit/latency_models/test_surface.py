import itertools

import numpy as np
import pytest

from latency_models.stairs import Stair, padded
from latency_models.surface import fit_surface

FEW = Stair.of(16)
STEPS = [(1, 16), (1, 1), (16, 1), (16, 16), (1, FEW)]


def stairs(c_in, c_out, in_step=1, out_step=16):
    u, v = padded(c_in, in_step), padded(c_out, out_step)
    return 1e-3 + 2e-5 * u + 3e-5 * v + 4e-6 * u * v


def grid(in_channels, out_channels):
    return np.array(list(itertools.product(in_channels, out_channels)))


def fitted(points, latency_ms, steps=STEPS, spread_ms=None):
    return fit_surface(points, latency_ms, np.zeros(len(points)) if spread_ms is None else spread_ms, steps)


POINTS = grid([4, 20, 37, 64], [3, 8, 16, 17, 40, 64])
ELSEWHERE = grid([8, 29, 50], [10, 33, 47, 60])


def test_a_bilinear_staircase_is_found_exactly_between_its_measurements():
    surface = fitted(POINTS, stairs(*POINTS.T))
    mean_ms, std_ms = surface.predict(*ELSEWHERE.T)
    np.testing.assert_allclose(mean_ms, stairs(*ELSEWHERE.T), rtol=2e-3)
    assert (std_ms > 0).all()


@pytest.mark.parametrize("truth", STEPS)
def test_the_rows_decide_the_channel_steps(truth):
    surface = fitted(POINTS, stairs(*POINTS.T, *truth))
    assert (surface.in_step, surface.out_step) == truth


def test_the_expected_steps_stand_where_the_rows_do_not_tell():
    aligned = grid([16, 32, 64], [16, 32, 48, 64])
    assert (fitted(aligned, stairs(*aligned.T)).in_step, fitted(aligned, stairs(*aligned.T)).out_step) == (1, 16)


def test_widths_on_one_tread_share_a_prediction():
    points = POINTS[POINTS[:, 1] != 40]
    surface = fitted(points, stairs(*points.T))
    mean_ms, _ = surface.predict(np.full(16, 25), np.arange(33, 49))
    assert np.ptp(mean_ms) < 1e-12


def test_a_measured_cliff_is_believed_where_it_was_measured_and_not_spread_over_its_neighbours():
    latency_ms = stairs(*POINTS.T)
    cliff = np.flatnonzero((POINTS == [37, 40]).all(axis=1))[0]
    latency_ms[cliff] *= 1.5
    surface = fitted(POINTS, latency_ms)
    mean_ms, _ = surface.predict(np.array([37, 37, 20]), np.array([40, 64, 40]))
    assert mean_ms[0] == pytest.approx(latency_ms[cliff], rel=0.03)
    np.testing.assert_allclose(mean_ms[1:], stairs(np.array([37, 20]), np.array([64, 40])), rtol=0.05)


def test_the_spread_grows_away_from_the_measurements():
    points = grid([32, 40, 48, 64], [32, 48, 64])
    generator = np.random.default_rng(0)
    latency_ms = stairs(*points.T) * np.exp(0.05 * generator.standard_normal(len(points)))
    mean_ms, std_ms = fitted(points, latency_ms).predict(np.array([44, 2]), np.array([48, 4]))
    assert std_ms[1] / mean_ms[1] > std_ms[0] / mean_ms[0]


def test_noisy_measurements_are_smoothed_by_their_neighbours():
    generator = np.random.default_rng(1)
    points = grid([4, 9, 16, 25, 36, 49, 64], [16, 32, 48, 64])
    truth = stairs(*points.T)
    noisy = truth * np.exp(0.05 * generator.standard_normal(len(points)))
    mean_ms, _ = fitted(points, noisy, spread_ms=0.05 * noisy).predict(*points.T)
    assert np.abs(mean_ms / truth - 1).mean() < 0.7 * np.abs(noisy / truth - 1).mean()


def test_a_given_mean_is_scaled_to_a_single_measurement():
    point = np.array([[32, 32]])
    surface = fit_surface(point, np.array([3.0]), np.zeros(1), STEPS[:1], lambda i, o: np.zeros(len(i)), prior_std=0.5)
    mean_ms, _ = surface.predict(np.array([32, 33]), np.array([32, 32]))
    np.testing.assert_allclose(mean_ms, 3.0, rtol=0.02)
