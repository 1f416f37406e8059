"""The channel LASSO of GCNP: factors on channels; channels whose factor is zero are removed."""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx
import numpy as np

from upscale_fx.channels.positions import Numbers, Positions
from upscale_fx.masking.criteria.fista import Lasso
from upscale_fx.masking.reconstruction.errors import Choice, ReconstructionError

#: Bisection ends when two penalties are this close, relatively.
_CLOSE = 1e-3
_ROUNDS = 60
#: To rank blocks to the last unit: the smallest penalty, as a share of the largest, and the number of penalties.
_PATH = (1e-4, 60)
#: The path ends when this share of the units is nonzero.
_MOST = 0.95


@dataclass(frozen=True)
class LASSO:
    """Drop the channels whose factors an L1 penalty makes zero.

    After Zhou et al., "Accelerating large scale real-time GNN inference using channel pruning" (GCNP, VLDB 2021,
    arXiv:2105.04528), jointly over all branches whose sum is one target: factors ``beta`` minimise::

        |Y - sum over c of beta_c X_c W_c|^2 / (2 scale) + sum over blocks b of lambda_b |beta_b|_1,     Y = X W

    with the moments ``A_cd = (X_c' X_d) (W_c W_d')`` for the quadratic. Channels that are removed together share one
    factor. Inputs of no unit (biases, channels that must be kept) have no penalty, and their weights are free, because
    they are refitted, like the intercept of a regression: ``X_c`` above is the residual after a fit on these inputs.

    The penalties of all blocks are bisected together until each block has as many nonzero factors as it keeps. Where
    no penalty gives that number, the size of contributions decides, ``|beta_c| |X_c W_c|``, and among zeros the
    distance to becoming nonzero. Where all blocks are ranked to the last unit (``scope="global"``) there is one penalty
    for all: errors are shares of their outputs' energy, so it means the same everywhere. A unit's score is then the
    penalty at which its factor becomes zero.

    Attributes:
        ridge: added to the moments of inputs of no unit, as a share of their diagonal.
    """

    ridge: float = 1e-6

    def rank(self, choice: Choice) -> Numbers:
        """Scores ``[U]``; the ``quotas`` lowest of every block are those whose factors are zero.

        They are sizes of contributions minus the threshold (negative for zeros), or, if all blocks are ranked to the
        last unit, the penalties at which units become zero.
        """
        counts = np.bincount(choice.pools, minlength=len(choice.quotas))
        asked = choice.quotas > 0
        if not asked.any():
            return np.zeros(len(choice.pools))
        parts = quadratics(choice, self.ridge)
        to_the_end = bool((choice.quotas[asked] == counts[asked] - 1).all())
        scores = np.full(len(choice.pools), 0.0 if to_the_end else -np.inf)
        largest = max((float(np.abs(a.sum(axis=1)).max(initial=0.0)) for _, a in parts), default=0.0)
        for units, quadratic in parts:
            norms = np.sqrt(np.maximum(quadratic.diagonal(), 0.0))
            alive = norms > 1e-10 * norms.max(initial=0.0)
            if not alive.any():
                continue
            units, norms = units[alive], norms[alive]  # noqa: PLW2901 (a channel that contributes nothing has no factor)
            problem = Lasso(quadratic[np.ix_(alive, alive)] / norms[:, None] / norms[None], norms)
            if to_the_end:
                scores[units] = vanishing(problem, largest)
            else:
                scores[units] = selected(problem, choice.pools[units], counts - choice.quotas)
        return scores


def quadratics(choice: Choice, ridge: float) -> list[tuple[Positions, Numbers]]:
    """Groups of units that share errors ``[U]``, with the quadratic ``A [U, U]`` of their factors."""
    own = [_factors(error, ridge) for error in choice.errors]
    tied: nx.Graph[int] = nx.Graph()
    tied.add_nodes_from(range(len(choice.pools)))
    for error in choice.errors:
        nx.add_path(tied, error.units.tolist())
    parts = []
    place = np.zeros(len(choice.pools), dtype=np.int64)
    group = place.copy()
    for number, members in enumerate(nx.connected_components(tied)):
        units = np.array(sorted(members), dtype=np.int64)
        place[units], group[units] = np.arange(len(units)), number
        parts.append((units, np.diag(choice.unseen[units])))
    for error, quadratic in zip(choice.errors, own, strict=True):
        at = place[error.units]
        parts[group[error.units[0]]][1][np.ix_(at, at)] += quadratic
    return parts


def _factors(error: ReconstructionError, ridge: float) -> Numbers:
    """``[U, U]``: the error of one problem as a quadratic in one factor per unit, as a share of its outputs' energy."""
    own = error.variables[error.variables >= 0]
    starts = np.concatenate([[0], np.cumsum((error.variables >= 0).sum(axis=1))[:-1]])
    fixed = np.ones(len(error.gram), dtype=bool)
    fixed[own] = False
    gram = error.gram[np.ix_(own, own)]
    live = fixed & (error.gram.diagonal() > 0)
    if live.any():
        size = np.sqrt(error.gram.diagonal()[live])
        inner = error.gram[np.ix_(live, live)] / size[:, None] / size[None] + ridge * np.eye(len(size))
        across = error.gram[np.ix_(live, own)] / size[:, None]
        half = np.linalg.solve(np.linalg.cholesky(inner), across)
        gram = gram - half.T @ half
    weight = error.weight[own]
    pairs = gram * (weight @ weight.T) / error.scale
    summed: Numbers = np.add.reduceat(np.add.reduceat(pairs, starts, axis=0), starts, axis=1)
    return summed


def selected(problem: Lasso, pools: Positions, kept: Positions) -> Numbers:
    """``[U]``: how far units exceed the threshold, at penalties at which ``kept[b]`` units of each block ``b`` do."""
    live = np.bincount(pools, minlength=len(kept))
    wanted = np.minimum(kept, live)
    penalty = np.zeros(len(kept))
    np.maximum.at(penalty, pools, np.abs(problem.correlations(np.zeros(len(pools)))) * problem.norms)
    free = wanted == live
    penalty[free] = 0.0
    low, high = np.zeros(len(kept)), penalty.copy()
    solution = np.zeros(len(pools))
    for _ in range(_ROUNDS):
        solution = problem.solve(penalty[pools] / problem.norms, solution)
        count = np.bincount(pools[solution != 0], minlength=len(kept))
        more, less = (count > wanted) & ~free, (count < wanted) & ~free
        low, high = np.where(more, penalty, low), np.where(less, penalty, high)
        # The other blocks' penalties have changed as well, so a bound may no longer hold: then it is reset.
        high = np.where(more & (high <= penalty), np.inf, high)
        low = np.where(less & (low >= penalty), 0.0, low)
        if not ((more | less) & (high > low * (1 + _CLOSE)) & (penalty > 0)).any():
            break
        between = np.sqrt(np.maximum(low, 0.0) * np.where(np.isinf(high), 0.0, high))
        step = np.where(np.isinf(high), penalty * 2, np.where(low == 0, penalty / 2, between))
        penalty = np.where(more | less, step, penalty)
    return problem.excess(solution, penalty[pools] / problem.norms)


def vanishing(problem: Lasso, largest: float) -> Numbers:
    """``[U]``: the penalty at which each unit becomes zero as one penalty for all grows, up to ``largest``."""
    least, steps = _PATH
    path = largest * np.geomspace(1.0, least, steps)
    scores = np.zeros(len(problem.norms))
    solution = np.zeros_like(scores)
    above = np.abs(problem.correlations(solution)) * problem.norms - largest
    before = largest
    for penalty in path.tolist():
        solution = problem.solve(penalty / problem.norms, solution)
        excess = problem.excess(solution, penalty / problem.norms) * problem.norms
        new = (solution != 0) & (scores == 0)
        below, over = np.minimum(above[new], 0.0), np.maximum(excess[new], np.finfo(float).tiny)
        scores[new] = before + (penalty - before) * below / (below - over)
        above, before = excess, penalty
        if np.count_nonzero(scores) >= _MOST * len(scores):
            break
    rest = scores == 0
    scores[rest] = np.clip(above + before, 0.0, before)[rest]
    return scores
