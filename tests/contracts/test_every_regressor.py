"""One suite over every regressor: a file dropped into the folder is picked up here."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from latency_models.errors import UnknownRegressorError
from latency_models.regressors import build, names, predict_with_spread


@pytest.fixture(params=names())
def regressor(request):
    return build(request.param)


def staircase(n=120, seed=0):
    X = np.random.default_rng(seed).uniform(1, 64, (n, 2))
    features = np.column_stack([X, np.ceil(X / 16), np.log(X)])
    return features, np.log(1 + 2 * np.ceil(X[:, 0] / 16) + X[:, 1])


def test_a_staircase_is_learned(regressor):
    regressor.fit(*staircase())
    X, y = staircase(seed=1)
    assert np.abs(regressor.predict(X) - y).mean() < 0.1


def test_the_spread_is_finite_never_negative_and_one_a_row(regressor):
    X, y = staircase()
    regressor.fit(X, y)
    mean, std = predict_with_spread(regressor, X[:7])
    assert mean.shape == std.shape == (7,)
    assert np.isfinite(std).all()
    assert (std >= 0).all()
    np.testing.assert_allclose(mean, regressor.predict(X[:7]))


def test_one_seed_gives_one_model(regressor):
    X, y = staircase()
    twice = [clone(regressor).fit(X, y).predict(X) for _ in range(2)]
    np.testing.assert_array_equal(*twice)


def test_eight_rows_are_enough(regressor):
    X, y = staircase(8)
    assert np.isfinite(regressor.fit(X, y).predict(X)).all()


def test_scikit_learn_conventions_hold(regressor):
    X, y = staircase()
    with pytest.raises(NotFittedError):
        regressor.predict(X)
    assert regressor.fit(X, y) is regressor
    assert regressor.n_features_in_ == X.shape[1]
    assert str(clone(regressor)) == str(regressor)
    with pytest.raises(ValueError, match="features"):
        regressor.predict(X[:, :-1])


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(UnknownRegressorError, match="did you mean 'boosting'"):
        build("bosting")
