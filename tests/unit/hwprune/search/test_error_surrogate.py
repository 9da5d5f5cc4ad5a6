import numpy as np
import pytest
from scipy.stats import kendalltau

from hwprune.search.features import WidthFeatures
from hwprune.search.regressors import Kind
from hwprune.search.surrogate import Surrogate
from hwprune.search.synthetic import staircase_problem, width_plan
from latency_models.shapes import LayerShape, NetworkShapes

PROBLEM = staircase_problem(blocks_per_stage=3)


def sample(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    genomes = 0.9 * np.random.default_rng(seed).random((n, PROBLEM.space.n_var))
    widths = PROBLEM.space.decode(genomes)
    return widths, np.array([1 - PROBLEM.accuracy(width_plan(row)) for row in widths])


@pytest.mark.parametrize("kind", ["forest", "boosting", "gaussian_process", "ridge"])
def test_surrogate_ranks_candidates_that_it_never_saw(kind: Kind) -> None:
    surrogate = Surrogate(PROBLEM, "error", kind, forest_trees=50).fit(*sample(120, 0), np.random.default_rng(0))
    widths, errors = sample(200, 1)
    predicted = surrogate.predict(widths)
    middle = predicted[:, predicted.shape[1] // 2]
    assert kendalltau(middle, errors).statistic > 0.6
    assert surrogate.tau == pytest.approx(kendalltau(middle, errors).statistic, abs=0.15)
    assert surrogate.mean_absolute_error == pytest.approx(np.abs(middle - errors).mean(), rel=0.5)
    assert ((predicted > 0) & (predicted < 1)).all()
    assert (np.diff(predicted, axis=1) >= 0).all()


@pytest.mark.parametrize("kind", ["forest", "boosting", "gaussian_process", "ridge"])
def test_spread_is_that_of_what_comes_true(kind: Kind) -> None:
    surrogate = Surrogate(PROBLEM, "error", kind, forest_trees=50).fit(*sample(120, 0), np.random.default_rng(0))
    widths, errors = sample(300, 2)
    predicted = surrogate.predict(widths)
    inside = ((predicted[:, 0] < errors) & (errors < predicted[:, -1])).mean()  # the quantiles at 1/14 and 13/14
    assert 0.7 < inside <= 1.0


@pytest.mark.parametrize("kind", ["forest", "gaussian_process"])
def test_joint_prediction_is_the_single_one_until_something_is_assumed(kind: Kind) -> None:
    surrogate = Surrogate(PROBLEM, "error", kind, forest_trees=20).fit(*sample(60, 0), np.random.default_rng(0))
    widths, _ = sample(30, 1)
    joint = surrogate.joint(widths)
    assert joint.values == pytest.approx(surrogate.predict(widths), rel=1e-3)
    joint.assume(0)
    assert np.ptp(joint.values[0]) < 1e-2 * np.ptp(surrogate.predict(widths)[0])


def test_evaluations_beyond_interest_count_less() -> None:
    widths, errors = sample(60, 0)
    bad = errors > np.quantile(errors, 0.7)
    wrong = np.where(bad, 0.9, errors)
    new, true = sample(200, 1)
    good = true < np.median(true)

    def miss(limit: float) -> float:
        surrogate = Surrogate(PROBLEM).fit(widths, wrong, np.random.default_rng(0), limit)
        return float(np.abs(surrogate.predict(new[good])[:, 3] - true[good]).mean())

    assert miss(float(errors[~bad].max())) < miss(np.inf)


def test_noise_is_not_believed() -> None:
    widths, _ = sample(100, 0)
    noise = np.random.default_rng(5).uniform(0.1, 0.9, 100)
    assert abs(Surrogate(PROBLEM).fit(widths, noise, np.random.default_rng(0)).tau) < 0.3


def test_too_few_or_equal_errors_are_not_believed() -> None:
    surrogate = Surrogate(PROBLEM)
    widths, errors = sample(9, 0)
    assert surrogate.fit(widths, errors, np.random.default_rng(0)).tau == 0.0
    widths, _ = sample(20, 0)
    assert surrogate.fit(widths, np.full(20, 0.5), np.random.default_rng(0)).tau == 0.0


def test_errors_beyond_one_are_learnt_as_they_are() -> None:
    widths, errors = sample(120, 0)
    surrogate = Surrogate(PROBLEM).fit(widths, 40 * errors, np.random.default_rng(0))
    assert surrogate.predict(widths).max() > 1
    assert surrogate.tau > 0.6


def test_same_seed_same_predictions() -> None:
    widths, errors = sample(60, 0)
    first, second = (Surrogate(PROBLEM).fit(widths, errors, np.random.default_rng(3)).predict(widths) for _ in range(2))
    assert np.array_equal(first, second)


def test_gaussian_process_learns_from_no_more_rows_than_allowed_and_from_the_best() -> None:
    widths, errors = sample(100, 0)
    surrogate = Surrogate(PROBLEM, gaussian_process_max_rows=30)
    surrogate.fit(widths, errors, np.random.default_rng(0), limit=float(errors.min()) + 1e-6)
    best = np.argsort(errors)[:30]
    again = Surrogate(PROBLEM).fit(
        widths[np.sort(best)], errors[np.sort(best)], np.random.default_rng(0), float(errors.min()) + 1e-6
    )
    assert surrogate.predict(widths) == pytest.approx(again.predict(widths))


def chain(widths: np.ndarray) -> NetworkShapes:
    """Two convolutions with both sides of the second one pruned."""
    template = LayerShape("conv2d", 0, 0, 8, 8, (3, 3), padding=(1, 1))
    first = np.full(len(widths), 3)
    return NetworkShapes((template, template), np.column_stack([first, widths[:, 0]]), widths)


def test_features_say_everything_once() -> None:
    from dataclasses import replace

    from hwprune.search.space import SearchSpace

    space = SearchSpace.of([32, 32], round_to=1)
    problem = replace(PROBLEM, space=space, shapes=chain, channel_step=8)
    features = WidthFeatures(problem)(np.array([[9, 20], [16, 7]]))
    # widths, their steps and remainders, all multiply-adds, those of the second layer; the first layer's are its width.
    second, total = [9 * 64 * 180, 9 * 64 * 112], [9 * 64 * (27 + 180), 9 * 64 * (48 + 112)]
    assert features.tolist() == [
        [9, 20, 2, 3, 1, 4, total[0], second[0]],
        [16, 7, 2, 1, 0, 7, total[1], second[1]],
    ]
