"""When a candidate may be given up before it has seen every image: exact tests on a growing part of the split.

Images come in an order drawn once, so that the first n are a random part of the split. That a candidate makes no more
errors on all N images than the one that costs no more (the bar) is refused where so many errors among the first n had a
probability below the level, even if it made exactly as many: the hypergeometric distribution, no approximation.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from scipy.stats import hypergeom

from hwprune.accuracy.scorer import Look

#: Probability that a candidate is given up whose error is no higher than the bar, over all looks at it together.
LEVEL = 1e-3

#: Images at the first look; each next look has twice as many.
FIRST_LOOK = 120


def look_sizes(batches: Sequence[int]) -> list[int]:
    """Images after which candidates are looked at, where the split comes in ``batches`` of so many images."""
    total, seen, sizes, wanted = sum(batches), 0, [], FIRST_LOOK
    for images in batches:
        seen += images
        if wanted <= seen <= total / 2:
            sizes.append(seen)
            wanted = 2 * seen
    return sizes


def looks(bar: float, batches: Sequence[int]) -> tuple[Look, ...]:
    """Looks at a candidate.

    Args:
        bar: error on the whole split, in [0, 1], that another candidate has at no higher cost; inf for none.
        batches: images of every batch of the split.
    """
    sizes = look_sizes(batches)
    if not sizes or not 0 <= bar < 1:
        return ()
    total = sum(batches)
    return _limits(round(bar * total), total, tuple(sizes))


@functools.lru_cache(maxsize=1024)
def _limits(errors: int, total: int, sizes: tuple[int, ...]) -> tuple[Look, ...]:
    """Looks after so many images, where the bar makes so many errors on all of them."""
    most = hypergeom.isf(LEVEL / len(sizes), total, errors, np.array(sizes))
    return tuple((seen, int(limit) + 1) for seen, limit in zip(sizes, most, strict=True))
