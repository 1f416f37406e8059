"""The LASSO finds the minimum that coordinate descent finds; activation is the error of a channel alone."""

from dataclasses import replace

import numpy as np
import pytest

from upscale_fx.masking.criteria.activation import Activation
from upscale_fx.masking.criteria.fista import Lasso
from upscale_fx.masking.criteria.lasso import LASSO, quadratics, selected, vanishing
from upscale_fx.masking.reconstruction.errors import Choice, ReconstructionError


def descend(quadratic, penalties, rounds=3000):
    """Coordinate descent on ``(b - 1)' A (b - 1) / 2 + sum of penalties |b|``: the oracle."""
    beta = np.zeros(len(quadratic))
    for _ in range(rounds):
        before = beta.copy()
        for u in range(len(beta)):
            slope = quadratic[u] @ (1 - beta) + quadratic[u, u] * beta[u]
            beta[u] = np.sign(slope) * max(abs(slope) - penalties[u], 0) / quadratic[u, u]
        if np.abs(beta - before).max() < 1e-12:
            break
    return beta


def correlated(seed, rows=80, units=24, outputs=6):
    """Contributions that resemble one another: a quadratic over factors."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((rows, units)) @ (np.eye(units) + 0.4 * draw.standard_normal((units, units)))
    x *= draw.uniform(0.3, 3, units)
    w = draw.standard_normal((units, outputs))
    return (x.T @ x) * (w @ w.T) / rows


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.02, 0.2, 0.6])
def test_fista_finds_the_minimum_that_coordinate_descent_finds(seed, share):
    quadratic = correlated(seed)
    norms = np.sqrt(quadratic.diagonal())
    problem = Lasso(quadratic / norms[:, None] / norms[None], norms, 1e-7)
    penalties = share * np.abs(quadratic.sum(axis=1)).max() * np.random.default_rng(seed).uniform(0.5, 1, len(norms))
    found = problem.solve(penalties / norms, np.zeros(len(norms))) / norms
    expected = descend(quadratic, penalties)
    assert ((found != 0) == (expected != 0)).all()
    assert np.abs(found - expected).max() < 1e-4
    slope = quadratic @ (1 - found)  # the Karush-Kuhn-Tucker conditions
    small = 1e-4 * penalties.max()
    assert (np.abs(slope) <= penalties + small).all()
    assert np.abs(slope - penalties * np.sign(found))[found != 0].max() < small
    warm = problem.solve(penalties / norms, 0.9 * norms * expected + 0.01) / norms
    assert np.abs(warm - expected).max() < 1e-4


def test_what_stays_is_the_support_at_some_penalty():
    for seed in range(6):
        quadratic = correlated(seed)
        norms = np.sqrt(quadratic.diagonal())
        problem = Lasso(quadratic / norms[:, None] / norms[None], norms, 1e-7)
        excess = selected(problem, np.zeros(24, dtype=np.int64), np.array([10]))
        low, high = 0.0, float(np.abs(quadratic.sum(axis=1)).max())
        for _ in range(60):
            middle = (low + high) / 2
            count = np.count_nonzero(descend(quadratic, np.full(24, middle)))
            low, high = (middle, high) if count > 10 else (low, middle)
            if count == 10:
                break
        assert count == 10
        assert set(np.argsort(excess)[-10:]) == set(np.flatnonzero(descend(quadratic, np.full(24, middle))))
        assert (excess > 0).sum() == 10


def test_blocks_of_one_problem_keep_what_each_is_to_keep():
    for seed in range(6):
        quadratic = correlated(seed)
        norms = np.sqrt(quadratic.diagonal())
        problem = Lasso(quadratic / norms[:, None] / norms[None], norms, 1e-7)
        blocks = np.repeat([0, 1, 2], 8)
        excess = selected(problem, blocks, np.array([2, 5, 8]))
        counts = [int((excess[blocks == b] > 0).sum()) for b in range(3)]
        assert np.abs(np.array(counts) - [2, 5, 8]).max() <= 1  # one penalty may jump over a number


def error_of(x, weight, variables, scale=1.0):
    gram = x.T @ x
    units = np.arange(len(variables), dtype=np.int64)
    left = gram + 1e-9 * np.eye(len(gram))
    return ReconstructionError(gram, left, weight, scale, units, np.array(variables), outputs=None, problem=0)


def test_channels_that_go_together_share_a_factor_and_the_rest_is_free():
    draw = np.random.default_rng(0)
    x, weight = draw.standard_normal((50, 7)) + 1.0, draw.standard_normal((7, 3))
    x[:, 6] = 1.0  # the bias, which belongs to no unit
    choice = Choice([error_of(x, weight, [[0, 3], [1, 4], [2, -1], [5, -1]], 2.0)], np.zeros(4, dtype=np.int64),
                    np.array([2]), np.zeros(4))  # fmt: skip
    ((units, found),) = quadratics(choice, 1e-12)
    centred = x - x.mean(axis=0)
    parts = [sum(np.outer(centred[:, v], weight[v]) for v in own) for own in ([0, 3], [1, 4], [2], [5])]
    expected = np.array([[float((a * b).sum()) / 2.0 for b in parts] for a in parts])
    assert units.tolist() == [0, 1, 2, 3]
    assert np.allclose(found, expected, atol=1e-8)


def test_errors_that_share_units_add_up_and_others_are_apart():
    draw = np.random.default_rng(1)
    first, second = (
        error_of(draw.standard_normal((40, 3)), draw.standard_normal((3, 2)), [[0], [1], [2]]) for _ in range(2)
    )
    later = replace(second, units=np.array([1, 3, 4]), problem=1)
    choice = Choice([first, later], np.zeros(6, dtype=np.int64), np.array([2]), np.full(6, 0.25))
    joined, alone = quadratics(choice, 1e-6)
    assert joined[0].tolist() == [0, 1, 2, 3, 4]
    own = [error.gram * (error.weight @ error.weight.T) for error in (first, later)]
    expected = np.zeros((5, 5))
    expected[:3, :3] += own[0]
    expected[np.ix_([1, 3, 4], [1, 3, 4])] += own[1]
    assert np.allclose(joined[1], expected)
    assert alone[0].tolist() == [5]
    assert alone[1].tolist() == [[0.25]]  # no error knows it: its weights alone do


def test_ranked_to_the_last_a_unit_scores_the_penalty_at_which_it_vanishes():
    quadratic = correlated(3)
    norms = np.sqrt(quadratic.diagonal())
    problem = Lasso(quadratic / norms[:, None] / norms[None], norms, 1e-7)
    largest = float(np.abs(quadratic.sum(axis=1)).max())
    scores = vanishing(problem, largest)
    assert scores.argmax() == np.abs(quadratic.sum(axis=1)).argmax()
    for penalty in largest * np.array([0.7, 0.3, 0.1]):
        alive = descend(quadratic, np.full(24, penalty)) != 0
        assert (scores[alive] >= penalty * 0.99).all()  # the first time it is not zero as the penalty falls


def test_a_channel_that_contributes_nothing_goes_first():
    draw = np.random.default_rng(2)
    x = draw.standard_normal((40, 6))
    x[:, 2] = 0.0
    weight = draw.standard_normal((6, 2))
    for quota in (1, 5):
        choice = Choice([error_of(x, weight, [[c] for c in range(6)])], np.zeros(6, dtype=np.int64),
                        np.array([quota]), np.zeros(6))  # fmt: skip
        for criterion in (LASSO(), Activation()):
            assert int(np.argmin(criterion.rank(choice))) == 2


def test_activation_is_the_error_of_a_channel_alone():
    draw = np.random.default_rng(3)
    x, weight = draw.standard_normal((30, 5)) * [1, 2, 3, 4, 5], draw.standard_normal((5, 4))
    choice = Choice([error_of(x, weight, [[0, 1], [2, -1], [3, -1]], 7.0)], np.zeros(3, dtype=np.int64),
                    np.array([1]), np.zeros(3))  # fmt: skip
    energy = [np.square(np.outer(x[:, c], weight[c])).sum() for c in range(5)]
    expected = np.sqrt(np.array([energy[0] + energy[1], energy[2], energy[3]]) / 7.0)
    assert np.allclose(Activation().rank(choice), expected)
