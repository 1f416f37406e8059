"""The LASSO with a penalty per unit: minimises ``(g - n)' Q (g - n) / 2 + sum of p_u |g_u|``.

``Q [U, U]`` has a unit diagonal and ``n [U]`` are norms. That is the LASSO over factors ``beta`` with the quadratic
``A_uv = n_u n_v Q_uv``, ``g_u = n_u beta_u`` and penalties ``lambda_u = n_u p_u``, in variables scaled to the units'
contributions: the same minimum, better conditioned.

Solved by FISTA (Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems",
SIAM J. Imaging Sciences 2009), restarted where momentum leads uphill (O'Donoghue and Candes, "Adaptive restart for
accelerated gradient schemes", 2015). It works on the units that are nonzero or break an optimality condition, until
none does (Tibshirani et al., "Strong rules for discarding predictors in lasso-type problems", 2012, section 7).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from upscale_fx.channels.positions import Numbers

#: The error of solutions, as a share of the largest correlation.
TOLERANCE = 1e-5
_STEPS = 2000
_ROUNDS = 30


@dataclass
class Lasso:
    """One problem, solved for many penalties.

    Attributes:
        quadratic: ``Q [U, U]``, positive semidefinite with unit diagonal.
        norms: ``n [U]``.
        tolerance: largest step, and violation of an optimality condition, as a share of the largest correlation.
    """

    quadratic: Numbers
    norms: Numbers
    tolerance: float = TOLERANCE
    _target: Numbers = field(init=False)
    _lipschitz: float = field(init=False)

    def __post_init__(self) -> None:
        self._target = self.quadratic @ self.norms
        self._lipschitz = largest_eigenvalue(self.quadratic)

    def solve(self, penalties: Numbers, start: Numbers) -> Numbers:
        """The minimum ``g [U]`` for penalties ``p [U]``, from a start ``[U]``, such as the minimum for others."""
        solution = start.copy()
        slack = self.tolerance * float(np.abs(self._target).max(initial=0.0))
        active = (solution != 0) | (np.abs(self.correlations(solution)) > penalties + slack)
        for _ in range(_ROUNDS):
            at = np.flatnonzero(active)
            part = self.quadratic if len(at) == len(active) else self.quadratic[np.ix_(at, at)]
            solution[at] = fista(part, self._target[at], penalties[at], solution[at], self._lipschitz, slack)
            wrong = ~active & (np.abs(self.correlations(solution)) > penalties + slack)
            if not wrong.any():
                break
            active |= wrong
        return solution

    def correlations(self, solution: Numbers) -> Numbers:
        """``[U]``: the negative gradient of the quadratic; at a minimum, ``p`` bounds it for units that are zero."""
        at = np.flatnonzero(solution)
        product = self.quadratic[at].T @ solution[at] if len(at) < len(solution) else self.quadratic @ solution
        return self._target - product

    def excess(self, solution: Numbers, penalties: Numbers) -> Numbers:
        """``[U]``: how far each unit is above the threshold, given all others.

        For nonzero units it is their size ``|g_u|``; for zeros it is negative: minus the distance to becoming nonzero.
        """
        moved: Numbers = np.abs(solution + self.correlations(solution)) - penalties
        return moved


def fista(
    quadratic: Numbers, target: Numbers, penalties: Numbers, start: Numbers, lipschitz: float, slack: float
) -> Numbers:
    """The minimum of ``x' Q x / 2 - target' x + sum of p |x|``; ``slack`` bounds the last step times the constant."""
    x = y = start
    momentum = 1.0
    for _ in range(_STEPS):
        moved = y - (quadratic @ y - target) / lipschitz
        new = np.sign(moved) * np.maximum(np.abs(moved) - penalties / lipschitz, 0.0)
        step = new - y
        if float(np.abs(step).max(initial=0.0)) * lipschitz <= slack:
            return new
        later = (1.0 + np.sqrt(1.0 + 4.0 * momentum**2)) / 2.0
        if float(step @ (new - x)) < 0:
            y, later = new, 1.0
        else:
            y = new + (momentum - 1.0) / later * (new - x)
        x, momentum = new, later
    return x


def largest_eigenvalue(matrix: Numbers, steps: int = 200) -> float:
    """A bound on the largest eigenvalue of a positive semidefinite matrix, by power iteration, with a margin of 2 %."""
    if not len(matrix):
        return 1.0
    vector = np.random.default_rng(0).standard_normal(len(matrix))
    value = 0.0
    for _ in range(steps):
        vector /= max(float(np.linalg.norm(vector)), np.finfo(float).tiny)
        vector, before, value = (moved := matrix @ vector), value, float(vector @ moved)
        if abs(value - before) <= 1e-4 * value:
            break
    return max(1.02 * value, np.finfo(float).tiny)
