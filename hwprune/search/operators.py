"""Variation, parent selection and sampling, on whole populations at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


def simulated_binary_crossover(
    A: FloatArray,
    B: FloatArray,
    upper: float,
    random_state: np.random.Generator,
    *,
    prob: float = 0.9,
    eta: float = 15.0,
) -> FloatArray:
    """Two children of every pair of parents (SBX, Deb and Agrawal 1995, with bounds).

    Args:
        A: ``(n, n_var)`` first parents, genes in [0, upper].
        B: ``(n, n_var)`` second parents.
        upper: upper bound of every gene.
        random_state: source of randomness.
        prob: share of the pairs that cross over; in those every gene does with probability 0.5.
        eta: distribution index; larger keeps children nearer to their parents.

    Returns:
        ``(2 n, n_var)`` children, first those nearer to ``A``'s side.
    """
    low, high = np.minimum(A, B), np.maximum(A, B)
    distance = high - low
    crossing = (random_state.random((len(A), 1)) < prob) & (random_state.random(A.shape) < 0.5) & (distance > 1e-14)
    spread = np.where(crossing, distance, 1.0)
    u = random_state.random(A.shape)

    def factor(room: FloatArray) -> FloatArray:
        alpha = 2 - (1 + 2 * room / spread) ** -(eta + 1)
        inside = np.where(u <= 1 / alpha, u * alpha, 1 / np.maximum(2 - u * alpha, 1e-300))
        return np.asarray(inside ** (1 / (eta + 1)))

    first = np.clip((low + high - factor(low) * distance) / 2, 0, upper)
    second = np.clip((low + high + factor(upper - high) * distance) / 2, 0, upper)
    swap = random_state.random(A.shape) < 0.5
    first, second = np.where(swap, second, first), np.where(swap, first, second)
    return np.vstack([np.where(crossing, first, A), np.where(crossing, second, B)])


def polynomial_mutation(
    X: FloatArray, upper: float, random_state: np.random.Generator, *, prob: float, eta: float = 20.0
) -> FloatArray:
    """Mutants of ``(n, n_var)`` genomes in [0, upper] (Deb and Goyal 1996, with bounds).

    Args:
        X: genomes.
        upper: upper bound of every gene.
        random_state: source of randomness.
        prob: probability that a gene mutates.
        eta: distribution index; larger makes smaller steps.
    """
    mutating = random_state.random(X.shape) < prob
    u = random_state.random(X.shape)
    down, up = X / upper, (upper - X) / upper
    power = 1 / (eta + 1)
    left = (2 * u + (1 - 2 * u) * (1 - down) ** (eta + 1)) ** power - 1
    right = 1 - (2 * (1 - u) + 2 * (u - 0.5) * (1 - up) ** (eta + 1)) ** power
    return np.where(mutating, np.clip(X + np.where(u < 0.5, left, right) * upper, 0, upper), X)


def stochastic_universal_sampling(shares: FloatArray, n: int, random_state: np.random.Generator) -> IntArray:
    """``(n,)`` rows drawn in proportion to ``shares``, by n equally spaced pointers (Baker 1987), in random order.

    Negative shares count as 0; where all are 0, every row is as likely as any other.
    """
    positive = np.maximum(shares, 0)
    if positive.sum() <= 0:
        positive = np.ones_like(positive)
    edges = np.cumsum(positive / positive.sum())
    pointers = (random_state.random() + np.arange(n)) / n
    rows = np.minimum(np.searchsorted(edges, pointers, side="right"), len(shares) - 1)
    return random_state.permutation(rows)


def binary_tournament(n_pop: int, n: int, random_state: np.random.Generator) -> IntArray:
    """``(n,)`` winners of pairs of a population of ``n_pop`` that is sorted from best to worst."""
    pairs: IntArray = random_state.integers(n_pop, size=(n, 2))
    return np.asarray(pairs.min(axis=1))


def latin_hypercube(n: int, n_var: int, random_state: np.random.Generator) -> FloatArray:
    """``(n, n_var)`` points in [0, 1), one in each of n equal slices of every axis."""
    slices = random_state.permuted(np.tile(np.arange(n), (n_var, 1)), axis=1).T
    return (slices + random_state.random((n, n_var))) / max(n, 1)
