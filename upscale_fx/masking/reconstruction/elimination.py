"""Greedy backward elimination with optimal compensation: Optimal Brain Surgeon on whole input channels.

Each step drops the channel after which the best weights on the remaining channels have the least error (Hassibi and
Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", NeurIPS 1992, equation 5, with several
outputs). For a quadratic error with Hessian ``A`` and minimum ``W``, dropping the variables ``S`` costs
``tr(W_S' (inv(A)_SS)^-1 W_S)``, moves the minimum by ``-inv(A)_:S (inv(A)_SS)^-1 W_S`` and downdates ``inv(A)``.

The order depends only on ``inv(A)`` and ``M = W W'``, for any number of outputs. Both change by low-rank terms, which
are gathered and applied together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from upscale_fx.channels.positions import Mask, Numbers, Positions
from upscale_fx.compiled.progress import advance, stage

#: Low-rank terms that are gathered before they are applied.
PENDING = 64
#: The matrices shrink when less than this share of their variables is left: copying them takes long.
CROWDED = 0.75


class QuadraticError:
    """One quadratic error over variables, from which units of variables are dropped.

    Args:
        left: ``[V, V]``, its Hessian, positive definite.
        right: ``[V, O]``, so that ``inv(left) @ right`` is its minimum.
        units: ``[U, S]``, the variables of each unit, padded with -1.
        scale: the divisor of all costs.
    """

    def __init__(self, left: Numbers, right: Numbers, units: Positions, scale: float = 1.0) -> None:
        # Scaled so that the diagonal of the Hessian is 1: the costs are the same, and rounding errors are least.
        unit: Numbers = np.sqrt(np.diagonal(left))
        self.inverse = _inverse(left / unit / unit[:, None])
        self.right: Numbers = right / unit[:, None]
        weight: Numbers = self.inverse @ self.right
        self.weights: Numbers = weight @ weight.T
        self.units = units
        self.scale = scale
        self._low = np.empty((3, len(left), PENDING))
        self._pending = 0
        self._place = np.arange(len(left))
        self._dropped = np.empty(0, dtype=np.int64)
        self._a = self._blocks(self.inverse, 1.0)
        self._m = self._blocks(self.weights, 0.0)

    def _blocks(self, matrix: Numbers, empty: float) -> Numbers:
        """``[U, S, S]``: the part of a matrix that belongs to each unit; ``empty`` on the diagonal where padded."""
        blocks: Numbers = matrix[self.units[:, :, None], self.units[:, None, :]]
        here = self.units >= 0
        blocks *= here[:, :, None] & here[:, None, :]
        axis = np.arange(self.units.shape[1])
        blocks[:, axis, axis] += np.where(here, 0.0, empty)
        return blocks

    def costs(self) -> Numbers:
        """``[U]``: the increase of the error if a unit is dropped and the others compensate."""
        if self.units.shape[1] == 1:
            costs: Numbers = self._m[:, 0, 0] / np.maximum(self._a[:, 0, 0], 1.0)  # 1: where nothing compensates
        else:
            costs = np.trace(np.linalg.solve(self._a, self._m), axis1=1, axis2=2)
        return np.maximum(costs, 0.0) / self.scale

    def drop(self, unit: int) -> None:
        """Drop a unit."""
        variables = self.units[unit][self.units[unit] >= 0]
        self._make_room(len(variables))
        at = self._place[variables]
        u, p, n = self._low[:, :, : self._pending]
        columns = self.inverse[:, at] - u @ u[at].T
        moments = self.weights[:, at] - p @ n[at].T - n @ p[at].T
        block = np.linalg.inv(columns[at])
        step = columns @ block
        self._change(columns @ np.linalg.cholesky((block + block.T) / 2), step, moments - 0.5 * step @ moments[at])
        # The cost of a dropped unit is never read again; these values keep its block regular.
        self._a[unit], self._m[unit] = np.eye(self.units.shape[1]), 0.0
        self._dropped = np.concatenate([self._dropped, variables])

    def drop_outputs(self, outputs: Positions) -> None:
        """Remove outputs from the error, when nothing reads them any more."""
        self._make_room(len(outputs))
        u = self._low[0, :, : self._pending]
        right = self.right[:, outputs]
        weight = self.inverse @ right - u @ (u.T @ right)
        self._change(np.zeros_like(weight), weight, 0.5 * weight)

    def _change(self, u: Numbers, p: Numbers, n: Numbers) -> None:
        """Subtract ``u u'`` from the inverse and ``p n' + n p'`` from the products of weights."""
        stop = self._pending + u.shape[1]
        self._low[:, :, self._pending : stop] = u, p, n
        self._pending = stop
        here = (self.units >= 0)[:, :, None]
        unit_u, unit_p, unit_n = (part[self._place[self.units]] * here for part in (u, p, n))
        self._a -= unit_u @ unit_u.transpose(0, 2, 1)
        crossed = unit_p @ unit_n.transpose(0, 2, 1)
        self._m -= crossed + crossed.transpose(0, 2, 1)

    def _make_room(self, terms: int) -> None:
        """Apply the pending low-rank terms if so many more have no room."""
        if self._pending + terms > self._low.shape[2]:
            self._apply()
        if terms > self._low.shape[2]:
            self._low = np.empty((3, len(self.inverse), terms))

    def _apply(self) -> None:
        u, p, n = self._low[:, :, : self._pending]
        _subtract(self.inverse, u, u)
        _subtract(self.weights, p, n)
        _subtract(self.weights, n, p)
        self._pending = 0
        stay = np.ones(len(self._place), dtype=bool)
        stay[self._dropped] = False
        if stay.sum() < CROWDED * len(self.inverse):
            self._shrink(stay)

    def _shrink(self, stay: Mask) -> None:
        """Take the dropped variables out of the matrices."""
        here = np.zeros(len(self.inverse), dtype=bool)
        here[self._place[stay]] = True
        self.inverse, self.weights = self.inverse[np.ix_(here, here)], self.weights[np.ix_(here, here)]
        self.right = self.right[here]
        self._place = np.where(stay, np.cumsum(here)[np.minimum(self._place, len(here) - 1)] - 1, 0)
        self._low = np.empty((3, len(self.inverse), self._low.shape[2]))


def _inverse(matrix: Numbers) -> Numbers:
    """The inverse of a symmetric matrix, in less time than the general one where it is positive definite."""
    lower, failed = torch.linalg.cholesky_ex(torch.from_numpy(matrix).double())
    inverse: Numbers = (torch.linalg.inv(torch.from_numpy(matrix)) if failed else torch.cholesky_inverse(lower)).numpy()
    return inverse


def _subtract(matrix: Numbers, a: Numbers, b: Numbers) -> None:
    """Subtract ``a b'`` in place. NumPy would make the product first, and first touches of memory are slow."""
    torch.from_numpy(matrix).addmm_(torch.from_numpy(a), torch.from_numpy(b).mT, alpha=-1)


@dataclass(frozen=True)
class Membership:
    """A quadratic error over some of the units: ``units[k]`` is the number of its unit ``k`` among all units."""

    error: QuadraticError
    units: Positions


def eliminate(
    problems: Sequence[Membership],
    pools: Positions,
    quotas: Positions,
    unseen: Numbers | None = None,
) -> list[tuple[int, float]]:
    """Drop units one by one, the cheapest first, until every pool has lost its quota.

    Args:
        problems: quadratic errors, each over some of the units; the cost of a unit is the sum of its costs in all.
        pools: ``[U]``, the pool of each unit; -1 for a unit that is kept.
        quotas: how many units of each pool are dropped.
        unseen: ``[U]``, constant costs that are added to those of the problems.

    Returns:
        The units in the order in which they were dropped, each with its cost at that step.
    """
    count = len(pools)
    own = [np.zeros(count) for _ in problems]
    where: list[list[int]] = [[] for _ in range(count)]
    for number, problem in enumerate(problems):
        own[number][problem.units] = problem.error.costs()
        for unit in problem.units.tolist():
            where[unit].append(number)
    total = (np.zeros(count) if unseen is None else unseen) + sum(own, start=np.zeros(count))
    left = quotas.copy()
    open_units: Mask = (pools >= 0) & (left[np.maximum(pools, 0)] > 0)
    places = [{unit: k for k, unit in enumerate(problem.units.tolist())} for problem in problems]
    order: list[tuple[int, float]] = []
    stage(
        "eliminating channels", total=int(np.minimum(np.bincount(pools[pools >= 0], minlength=len(left)), left).sum())
    )
    while open_units.any():
        unit = int(np.argmin(np.where(open_units, total, np.inf)))
        order.append((unit, float(total[unit])))
        advance()
        open_units[unit] = False
        left[pools[unit]] -= 1
        if not left[pools[unit]]:
            open_units &= pools != pools[unit]
        for number in where[unit]:
            problem = problems[number]
            problem.error.drop(places[number][unit])
            fresh = problem.error.costs()
            total[problem.units] += fresh - own[number][problem.units]
            own[number][problem.units] = fresh
    return order
