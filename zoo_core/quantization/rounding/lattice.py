"""Integer least squares for many small problems at once: the search behind rounding.

For each row, find integers k that minimise ``(k - w) Q (k - w)^T - 2 b (k - w)^T`` with ``low <= k <= high``; w is the
row's float weights in units of its grid, and rows of one group share Q. The problem is NP-hard in general, so rows of
up to nine weights are solved exactly, and longer ones by a good start and descent that never raises the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

EXHAUSTIVE_WEIGHTS = 9
"""Rows of up to this many weights with two choices each are solved by trying all combinations (at most 512)."""
_DAMPING = (0.03, 0.1)
_SHORT_ROW = 256
_DAMPING_OF_SHORT_ROWS = (0.01, 0.03, 0.1, 0.3)
"""The best damping differs from row to row; short rows cost little, so more values are tried."""
_BLOCK = 64
_PAIR_CANDIDATES = 32
_TOLERANCE = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatticeProblem:
    """Rows to solve; all tensors are float64.

    Attributes:
        moment: Q, ``(G, d, d)``, symmetric, positive semidefinite.
        linear: b, ``(G, R, d)``.
        weight: w, ``(G, R, d)``.
        low: ``(G, R, d)``, integers.
        high: ``(G, R, d)``, integers, at least ``low``.
    """

    moment: Tensor
    linear: Tensor
    weight: Tensor
    low: Tensor
    high: Tensor

    def cost(self, k: Tensor) -> Tensor:
        """Return the objective, ``(G, R)``, for integers ``(G, R, d)``."""
        change = k - self.weight
        return ((change @ self.moment - 2 * self.linear) * change).sum(-1)

    def slope(self, k: Tensor) -> Tensor:
        """Return half the gradient of ``cost``, ``(G, R, d)``."""
        return (k - self.weight) @ self.moment - self.linear

    def nearest(self) -> Tensor:
        """Round each weight by itself, within its bounds."""
        return torch.minimum(torch.maximum(self.weight.round(), self.low), self.high)


def solve(problem: LatticeProblem, starts: Sequence[Tensor] = ()) -> Tensor:
    """Find integers for every row: the best ones if rows have at most nine weights with two choices each.

    Other rows get a deep local minimum. No row's cost is above that of nearest rounding or of any of ``starts``.

    Args:
        problem: To minimise.
        starts: Further points ``(G, R, d)`` within the bounds to descend from.
    """
    if problem.weight.shape[-1] <= EXHAUSTIVE_WEIGHTS and bool((problem.high - problem.low <= 1).all()):
        return exhaustive(problem)
    best = problem.nearest()
    best_cost = problem.cost(best)
    for start in (*starts, *_feedback_starts(problem)):
        k = descend(problem, start)
        cost = problem.cost(k)
        better = cost < best_cost
        best = torch.where(better[..., None], k, best)
        best_cost = torch.where(better, cost, best_cost)
    return best


def exhaustive(problem: LatticeProblem) -> Tensor:
    """Return the best of all combinations of ``low`` and ``high``; needs d of at most 9 for its table to fit."""
    size = problem.weight.shape[-1]
    table = (torch.arange(2**size)[:, None] >> torch.arange(size)) & 1
    bits = table.to(problem.weight)  # (2^d, d)
    step = problem.high - problem.low
    curvature = torch.einsum("kd,gde,ke->gk", bits, problem.moment, bits)
    cost = curvature[:, None] + 2 * problem.slope(problem.low) @ bits.T  # (G, R, 2^d), relative to `low`
    # A weight on a bound has one choice: the other would be outside.
    forbidden = ((1 - step) @ bits.T) > 0
    choice = cost.masked_fill(forbidden, torch.inf).argmin(-1)
    return problem.low + bits[choice]


def error_feedback(problem: LatticeProblem, order: Tensor, damping: float) -> Tensor:
    """Round column by column and add each column's error to the remaining columns (the GPTQ update).

    Args:
        problem: To minimise.
        order: ``(G, d)``, a permutation of the columns per group.
        damping: Added to Q's diagonal, in units of its mean.

    Returns:
        ``(G, R, d)`` integers within the bounds.

    Source:
        Frantar et al., GPTQ, ICLR 2023, arXiv:2210.17323, algorithm 1; here with bounds, and around the minimiser of
        the cost with its linear term.
    """
    size = problem.weight.shape[-1]
    moment = _damped(problem.moment, damping)
    target = problem.weight + torch.linalg.solve(moment, problem.linear.mT).mT
    moment = moment.gather(1, order[:, :, None].expand_as(moment))
    moment = moment.gather(2, order[:, None, :].expand_as(moment))
    columns = order[:, None, :].expand_as(target)
    target, low, high = (t.gather(2, columns) for t in (target, problem.low, problem.high))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment))
    factor = torch.linalg.cholesky(inverse, upper=True)  # (G, d, d)
    rounded = torch.empty_like(target)
    for begin in range(0, size, _BLOCK):
        end = min(begin + _BLOCK, size)
        part = target[..., begin:end].clone()
        errors = torch.empty_like(part)
        for j in range(end - begin):
            column = begin + j
            value = torch.clamp(part[..., j].round(), low[..., column], high[..., column])
            rounded[..., column] = value
            errors[..., j] = (part[..., j] - value) / factor[:, None, column, column]
            part[..., j:] -= errors[..., j, None] * factor[:, None, column, column:end]
        target[..., end:] -= errors @ factor[:, begin:end, end:]
    return torch.empty_like(rounded).scatter_(2, columns, rounded)


def descend(problem: LatticeProblem, start: Tensor, max_steps: int = 2000) -> Tensor:
    """Repeat in every row the best move of one or two weights by one step each, until no move lowers the cost.

    Pairs are formed from each row's cheapest single moves. No move raises a row's cost. Taking the best move, and two
    weights at a time, ends lower and sooner than cyclic coordinate descent.

    Args:
        problem: To minimise.
        start: ``(G, R, d)`` integers within the bounds.
        max_steps: Per row.
    """
    groups, rows, size = start.shape
    group = torch.arange(groups).repeat_interleave(rows)
    k, low, high = (t.reshape(-1, size) for t in (start.clone(), problem.low, problem.high))
    slope = problem.slope(start).reshape(-1, size)
    diagonal = problem.moment.diagonal(dim1=1, dim2=2)
    tolerance = _TOLERANCE * diagonal.mean(1)[group]
    active = torch.arange(groups * rows)
    for _ in range(max_steps):
        of = group[active]
        step, column, single = _cheapest_moves(k[active], slope[active], diagonal[of], low[active], high[active])
        change = _pair_costs(problem.moment, of, step, column, single)
        gain, flat = change.flatten(1).min(1)
        good = gain < -tolerance[active]
        if not bool(good.any()):
            break
        active, of, flat, step, column = active[good], of[good], flat[good], step[good], column[good]
        first, second = flat // column.shape[1], flat % column.shape[1]
        for picked, moves in ((first, torch.ones_like(first)), (second, first != second)):
            where = column.gather(1, picked[:, None])[:, 0]
            by = step.gather(1, picked[:, None])[:, 0] * moves
            k[active, where] += by
            slope[active] += by[:, None] * problem.moment[of, where]
    return k.reshape(start.shape)


def _cheapest_moves(k: Tensor, slope: Tensor, diagonal: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, ...]:
    """Return the moves by +1 or -1 that raise each row's cost least: step, column and cost, each ``(A, K)``."""
    live = diagonal > 0  # a weight on an input that is always zero changes nothing, and would join any move
    up = torch.where((k < high) & live, 2 * slope + diagonal, torch.inf)
    down = torch.where((k > low) & live, diagonal - 2 * slope, torch.inf)
    single, index = torch.cat([up, down], 1).topk(min(_PAIR_CANDIDATES, 2 * k.shape[1]), dim=1, largest=False)
    size = k.shape[1]
    return torch.where(index < size, 1.0, -1.0).to(k), index % size, single


def _pair_costs(moment: Tensor, group: Tensor, step: Tensor, column: Tensor, single: Tensor) -> Tensor:
    """Return the change in cost of each pair of moves, ``(A, K, K)``; a move paired with itself is the single move."""
    cross = moment[group[:, None, None], column[:, :, None], column[:, None, :]]
    cost = single[:, :, None] + single[:, None, :] + 2 * cross * step[:, :, None] * step[:, None, :]
    # Two opposite moves of one weight are not a pair.
    cost.masked_fill_(column[:, :, None] == column[:, None, :], torch.inf)
    cost.diagonal(dim1=1, dim2=2).copy_(single)
    return cost


def _feedback_starts(problem: LatticeProblem) -> list[Tensor]:
    diagonal = problem.moment.diagonal(dim1=1, dim2=2)
    order = diagonal.argsort(dim=1, descending=True, stable=True)
    damping = _DAMPING_OF_SHORT_ROWS if order.shape[1] <= _SHORT_ROW else _DAMPING
    return [error_feedback(problem, order, value) for value in damping]


def _damped(moment: Tensor, damping: float) -> Tensor:
    mean = moment.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float64).tiny)
    return moment + damping * mean[:, None, None] * torch.eye(moment.shape[-1], dtype=moment.dtype)
