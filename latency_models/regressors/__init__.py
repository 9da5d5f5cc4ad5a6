"""Regressors for kernels nobody measured, one file each: ``build(seed) -> scikit-learn regressor``.

The file's name is the name in recipes. A regressor is fitted on features and any real target, and its
``predict(X, return_std=True)`` gives a mean and a spread, two ``(n,)`` arrays; which target (the logarithm of the
latency over a roofline) is the business of :mod:`latency_models.kernel_model`.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy.typing as npt

from latency_models.errors import UnknownRegressorError
from latency_models.features import FloatArray


class Regressor(Protocol):
    """A scikit-learn regressor whose predictions have a spread."""

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Any:
        """Fit on ``(n, n_features)`` and ``(n,)`` arrays; gives itself back."""
        ...

    def predict(self, X: npt.ArrayLike, return_std: bool = False) -> Any:
        """Mean, or mean and standard deviation, of each row."""
        ...


def names() -> list[str]:
    """Names of all regressors, listed without importing any."""
    own = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted({*own, *(point.name for point in entry_points(group=__name__))})


def check_name(name: str) -> None:
    """Make sure that there is such a regressor, importing none.

    Raises:
        UnknownRegressorError: neither a file here nor an entry point has this name.
    """
    if name not in names():
        raise UnknownRegressorError(name, names())


def build(name: str, seed: int = 0) -> Regressor:
    """A fresh regressor.

    Raises:
        UnknownRegressorError: neither a file here nor an entry point has this name.
    """
    check_name(name)
    points = list(entry_points(group=__name__, name=name))
    module = points[0].load() if points else importlib.import_module(f"{__name__}.{name}")
    regressor: Regressor = module.build(seed)
    return regressor


def predict_with_spread(regressor: Regressor, X: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of each row, two ``(n,)`` arrays."""
    mean, std = regressor.predict(X, return_std=True)
    return mean, std
