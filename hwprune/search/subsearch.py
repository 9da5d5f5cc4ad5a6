"""Evolution inside a part of a network: many cheap evaluations, a front of local choices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import moocore
import numpy as np
import numpy.typing as npt

from hwprune.search.filters import Bits, Encoding
from hwprune.search.operators import binary_tournament
from hwprune.search.survival import OPERATORS

FloatArray = npt.NDArray[np.float64]
Rule = Literal["nsga2", "sms_emoa", "moea_d", "ibea"]

#: Objectives of rows of bits, ``(n, n_bits)`` to ``(n, n_obj)``.
Objectives = Callable[[Bits], FloatArray]

#: What to evaluate next: from all rows and objectives that are known, how many are wanted, and a source of randomness.
Propose = Callable[[Bits, FloatArray, int, np.random.Generator], Bits]

#: Generations without anything new after which a search ends.
IDLE_MAX = 20

#: How often proposals are asked for in a generation: each time they know more.
ASKED_AGAIN = 3


@dataclass(frozen=True, eq=False)
class LocalFront:
    """Non-dominated choices inside a part.

    Attributes:
        bits: ``(n, n_bits)`` kept units.
        F: ``(n, n_obj)`` objectives, minimized.
    """

    bits: Bits
    F: FloatArray

    def as_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        rows = [np.packbits(row).tobytes().hex() for row in self.bits]
        return {"n_bits": int(self.bits.shape[1]), "bits": rows, "F": self.F.tolist()}

    @classmethod
    def from_dict(cls, data: dict[str, object]) -> LocalFront:
        """Inverse of :meth:`as_dict`."""
        n_bits, rows = data["n_bits"], data["bits"]
        assert isinstance(n_bits, int)
        assert isinstance(rows, list)
        packed = [np.frombuffer(bytes.fromhex(row), np.uint8) for row in rows]
        return cls(
            np.array([np.unpackbits(row, count=n_bits) for row in packed], np.bool_), np.array(data["F"], np.float64)
        )


def evolve(
    encoding: Encoding,
    objectives: Objectives,
    *,
    pop_size: int,
    evaluations: int,
    random_state: np.random.Generator,
    rule: Rule = "nsga2",
    may_go_on: Callable[[], bool] = lambda: True,
    propose: Propose | None = None,
) -> LocalFront:
    """Search the front of a part.

    Args:
        encoding: genomes and their variation.
        objectives: called with rows that are distinct and were never asked for before.
        pop_size: individuals.
        evaluations: distinct rows that are evaluated, the start included.
        random_state: source of randomness.
        rule: who survives.
        may_go_on: asked before every generation.
        propose: where each generation comes from instead of variation; nothing where it knows nothing new.
    """
    select = OPERATORS[rule]
    known: dict[bytes, FloatArray] = {}
    rows: dict[bytes, Bits] = {}

    def evaluate(bits: Bits) -> FloatArray:
        keys = [row.tobytes() for row in bits]
        new = {key: row for key, row in zip(keys, bits, strict=True) if key not in known}
        if new:
            rows.update(new)
            known.update(zip(new, objectives(np.array(list(new.values()))), strict=True))
        return np.array([known[key] for key in keys])

    genomes = encoding.start(max(min(pop_size, evaluations), 1), random_state)
    F = evaluate(encoding.decode(genomes))
    order = select(F, len(F)).rows
    genomes, F = genomes[order], F[order]
    idle = 0
    while len(known) < evaluations and idle < IDLE_MAX and may_go_on():
        count = len(known)
        n = min(pop_size, evaluations - count)
        if propose is not None:
            n = -(-n // ASKED_AGAIN)
            evaluate(propose(np.array(list(rows.values())), np.array(list(known.values())), n, random_state))
            idle = idle + 1 if len(known) == count else 0
            continue
        parents = binary_tournament(len(genomes), 2 * -(-n // 2), random_state)
        A, B = np.split(genomes[parents], 2)
        children = encoding.vary(A, B, random_state)[:n]
        pool = np.concatenate([children, genomes])
        pool_F = np.concatenate([evaluate(encoding.decode(children)), F])
        # Of genomes that decode alike the newest is enough.
        first = np.sort(np.unique(encoding.decode(pool), axis=0, return_index=True)[1])
        survivors = first[select(pool_F[first], pop_size).rows]
        genomes, F = pool[survivors], pool_F[survivors]
        idle = idle + 1 if len(known) == count else 0
    all_F = np.array(list(known.values()))
    front = np.flatnonzero(moocore.is_nondominated(all_F))
    front = front[np.argsort(all_F[front, 0], kind="stable")]
    return LocalFront(np.array(list(rows.values()))[front], all_F[front])
