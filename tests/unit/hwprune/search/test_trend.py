import numpy as np
import pytest

from hwprune.search.trend import Trend


def sample(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    lost = np.random.default_rng(seed).random((n, 4))
    return lost, -2 + 3 * lost[:, 0] + 0.5 * lost[:, 1] ** 4


def test_monotone_trend_finds_curves_that_rise() -> None:
    trend = Trend(monotone=True).fit(*sample(60), np.ones(60))
    lost, y = sample(50, 1)
    assert trend.predict(lost) == pytest.approx(y, abs=0.05)


def test_monotone_trend_never_falls_whatever_the_evaluations_say() -> None:
    lost, y = sample(30)
    noisy = y - 2 * lost[:, 2] + np.random.default_rng(1).normal(size=30)
    trend = Trend(monotone=True).fit(lost, noisy, np.ones(30))
    less = np.random.default_rng(2).random((100, 4))
    more = less + (1 - less) * np.random.default_rng(3).random((100, 4))
    assert (trend.predict(more) >= trend.predict(less) - 1e-9).all()


def test_free_trend_follows_a_valley() -> None:
    lost, _ = sample(60)
    y = (lost[:, 0] - 0.5) ** 2
    trend = Trend(monotone=False).fit(lost, y, np.ones(60))
    assert trend.predict(lost) == pytest.approx(y, abs=0.01)


@pytest.mark.parametrize("monotone", [True, False])
def test_groups_that_matter_are_stretched_most(monotone: bool) -> None:
    trend = Trend(monotone=monotone).fit(*sample(60), np.ones(60))
    reach = np.ptp(trend.stretched(np.vstack([np.zeros(4), np.ones(4)])), axis=0)
    assert reach.argmax() == 0
    assert (reach > 0).all()
