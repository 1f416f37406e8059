"""Greedy elimination with compensation against brute force: every candidate tried by solving its normal equations."""

from itertools import pairwise

import numpy as np
import pytest

from upscale_fx.masking.reconstruction import elimination
from upscale_fx.masking.reconstruction.elimination import Membership, QuadraticError, eliminate


class Problem:
    """A random quadratic error over units, and what removing some of them costs, solved from scratch."""

    def __init__(self, draw, sizes, members, outputs, rows=60):
        self.members = np.array(members)
        bounds = np.cumsum([0, *sizes])
        fixed = 2  # variables that belong to no unit
        count = bounds[-1] + fixed
        x = draw.normal(size=(rows, count)) @ draw.normal(size=(count, count))
        self.left = x.T @ x
        self.weight = draw.normal(size=(count, outputs))
        self.scale = float(draw.uniform(0.5, 2.0))
        places = draw.permutation(count)
        self.variables = [places[a:b] for a, b in pairwise(bounds)]
        self.outputs = np.arange(outputs)

    def surgeon(self):
        units = np.full((len(self.variables), max(map(len, self.variables))), -1)
        for row, own in zip(units, self.variables, strict=True):
            row[: len(own)] = own
        return QuadraticError(self.left.copy(), self.left @ self.weight, units, self.scale)

    def error(self, removed):
        """The least error without these units: the best weights on all other variables."""
        gone = np.zeros(len(self.left), dtype=bool)
        for unit, own in zip(self.members.tolist(), self.variables, strict=True):
            gone[own] |= unit in removed
        target = self.weight[:, self.outputs]
        change = -target.copy()
        change[~gone] = np.linalg.solve(
            self.left[np.ix_(~gone, ~gone)], self.left[np.ix_(~gone, gone)] @ target[gone]
        )  # the others make up for what is gone
        return float(np.einsum("vo,vw,wo->", change, self.left, change)) / self.scale


def brute_force(problems, pools, quotas, unseen):
    left, order, removed = list(quotas), [], set()
    while True:
        open_units = [u for u in range(len(pools)) if pools[u] >= 0 and left[pools[u]] > 0 and u not in removed]
        if not open_units:
            return order
        before = sum(problem.error(removed) for problem in problems)
        costs = [sum(p.error(removed | {u}) for p in problems) - before + unseen[u] for u in open_units]
        best = int(np.argmin(costs))
        removed.add(open_units[best])
        left[pools[open_units[best]]] -= 1
        order.append((open_units[best], costs[best]))


CASES = {
    "one problem": ([[1] * 9], [list(range(9))], [0] * 9, [6]),
    "units of 1 to 3 variables": ([[1, 2, 3, 1, 2, 3, 2, 1]], [list(range(8))], [0] * 8, [5]),
    "units in two problems": ([[1, 2, 1, 1, 3], [2, 1, 1, 2]], [[0, 1, 2, 3, 4], [4, 2, 0, 5]], [0] * 6, [4]),
    "several pools": ([[1] * 8, [2] * 8], [list(range(8)), list(range(8))], [0, 0, 0, 1, 1, 1, 2, -1], [2, 1, 0]),
    "units no problem knows": ([[1] * 4], [[0, 1, 2, 3]], [0] * 7, [5]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_the_order_is_that_of_brute_force(name, seed):
    sizes, members, pools, quotas = CASES[name]
    draw = np.random.default_rng(seed)
    problems = [Problem(draw, own, units, outputs=4) for own, units in zip(sizes, members, strict=True)]
    known = {unit for own in members for unit in own}
    unseen = np.array([0.0 if unit in known else draw.uniform(0, 400) for unit in range(len(pools))])
    given = [Membership(problem.surgeon(), problem.members) for problem in problems]
    found = eliminate(given, np.array(pools), np.array(quotas), unseen)
    expected = brute_force(problems, pools, quotas, unseen)
    assert [unit for unit, _ in found] == [unit for unit, _ in expected]
    np.testing.assert_allclose([cost for _, cost in found], [cost for _, cost in expected], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("pending", [1, 5, 64])
def test_gathered_changes_do_not_change_the_order(pending, monkeypatch):
    """Low-rank terms are applied every now and then, and what is gone leaves the matrices."""
    monkeypatch.setattr(elimination, "_PENDING", pending)
    draw = np.random.default_rng(7)
    problem = Problem(draw, [1, 2] * 20, list(range(40)), outputs=6, rows=400)
    found = eliminate([Membership(problem.surgeon(), problem.members)], np.zeros(40, dtype=np.int64), np.array([36]))
    removed = set()
    for unit, cost in found:
        before = problem.error(removed)
        removed.add(unit)
        assert cost == pytest.approx(problem.error(removed) - before, rel=1e-6, abs=1e-7)
    assert len(removed) == 36


def test_outputs_that_are_forgotten_cost_nothing():
    draw = np.random.default_rng(3)
    problem = Problem(draw, [1, 2, 1, 3, 1], [0, 1, 2, 3, 4], outputs=5)
    surgeon = problem.surgeon()
    surgeon.drop(1)
    surgeon.drop_outputs(np.array([0, 3]))
    problem.outputs = np.array([1, 2, 4])
    expected = [problem.error({1, unit}) - problem.error({1}) for unit in range(5)]
    np.testing.assert_allclose(surgeon.costs(), expected, rtol=1e-7, atol=1e-9)
    surgeon.drop_outputs(np.array([1, 2, 4]))
    np.testing.assert_allclose(surgeon.costs(), 0.0, atol=1e-8)


def test_dead_variables_and_equal_ones_are_found():
    """A ridge makes the Hessian regular; what is dead goes first, of two equal ones one goes, then the cost jumps."""
    draw = np.random.default_rng(4)
    x = draw.normal(size=(200, 6))
    x[:, 1] = 0.0
    x[:, 4] = x[:, 2]
    left = x.T @ x
    left += 1e-6 * np.trace(left) / 6 * np.eye(6)
    surgeon = QuadraticError(left, left @ draw.normal(size=(6, 3)), np.arange(6)[:, None])
    order = eliminate([Membership(surgeon, np.arange(6))], np.zeros(6, dtype=np.int64), np.array([5]))
    units, costs = [unit for unit, _ in order], [cost for _, cost in order]
    assert units[0] == 1
    assert units[1] in (2, 4)
    assert costs[1] < 1e-4 * costs[2]
