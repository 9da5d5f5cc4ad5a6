import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from hwprune.search.gaussian_process import GaussianProcess


def sample(n: int, seed: int, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    random_state = np.random.default_rng(seed)
    Z = random_state.random((n, 3))
    return Z, np.sin(4 * Z[:, 0]) * Z[:, 1] + noise * random_state.normal(size=n)


def test_predictions_are_those_of_scikit_learn_with_the_same_hyperparameters() -> None:
    Z, y = sample(40, 0)
    ours = GaussianProcess().fit(Z, y, np.ones(40))
    kernel = ConstantKernel(ours.variance) * Matern(ours.length / ours.scales, nu=2.5)
    theirs = GaussianProcessRegressor(kernel, alpha=ours.variance * ours.noise, optimizer=None).fit(Z, y)
    new, _ = sample(20, 1)
    mean, std = theirs.predict(new, return_std=True)
    assert ours.predict(new)[0] == pytest.approx(mean, abs=1e-6)
    assert ours.predict(new)[1] == pytest.approx(std, abs=1e-4)
    _, covariance = theirs.predict(new, return_cov=True)
    assert ours.covariance(new) == pytest.approx(covariance, abs=1e-6)


def test_hyperparameters_follow_what_there_is_to_learn() -> None:
    smooth = GaussianProcess().fit(*sample(80, 0), np.ones(80))
    noisy = GaussianProcess().fit(*sample(80, 0, noise=0.5), np.ones(80))
    assert smooth.noise < 1e-2 < noisy.noise
    new, y = sample(100, 1)
    assert np.abs(smooth.predict(new)[0] - y).mean() < 0.03


def test_columns_that_matter_are_told_from_others() -> None:
    Z, y = sample(60, 0)
    process = GaussianProcess().fit(np.hstack([Z, Z[::-1]]), y, np.ones(60))
    assert process.scales[:2].min() > 3 * process.scales[2:].max()
    new, expected = sample(100, 1)
    assert np.abs(process.predict(np.hstack([new, new[::-1]]))[0] - expected).mean() < 0.02


def test_row_of_small_weight_says_little() -> None:
    Z, y = sample(30, 0)
    wrong = y.copy()
    wrong[0] += 5
    weights = np.ones(30)
    weights[0] = 1e-9
    like = GaussianProcess().fit(Z, y, np.ones(30))
    without = GaussianProcess(like).fit(Z[1:], y[1:], np.ones(29))
    assert GaussianProcess(like).fit(Z, wrong, weights).predict(Z)[0] == pytest.approx(without.predict(Z)[0], abs=1e-2)


def test_equal_rows_and_equal_values_are_no_trouble() -> None:
    process = GaussianProcess().fit(np.zeros((5, 2)), np.zeros(5), np.ones(5))
    mean, std = process.predict(np.ones((2, 2)))
    assert mean.tolist() == [0, 0]
    assert np.isfinite(std).all()
