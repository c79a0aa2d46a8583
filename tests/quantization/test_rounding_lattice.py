"""The integer search: exact where it claims to be, never worse than where it started."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from zoo_core.quantization.rounding.lattice import LatticeProblem, descend, error_feedback, exhaustive, solve


def problem(
    groups: int, rows: int, size: int, seed: int = 0, bw: int = 4, *, rank: int | None = None
) -> LatticeProblem:
    """Correlated inputs, floor and ceiling as choices; some weights lie outside the grid and have one choice."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    samples = randn(groups, 4 * size, rank or size) @ randn(groups, rank or size, size) + 1.0
    weight = 3.0 * randn(groups, rows, size)
    bottom, top = -(2.0 ** (bw - 1)), 2.0 ** (bw - 1) - 1
    return LatticeProblem(
        moment=samples.mT @ samples / (4 * size),
        linear=0.3 * randn(groups, rows, size),
        weight=weight,
        low=weight.floor().clamp(bottom, top),
        high=weight.ceil().clamp(bottom, top),
    )


def free(given: LatticeProblem, bw: int = 4) -> LatticeProblem:
    low = torch.full_like(given.low, -(2.0 ** (bw - 1)))
    return replace(given, low=low, high=low + 2**bw - 1)


def brute_force(given: LatticeProblem) -> torch.Tensor:
    """The least cost of each row, by a plain loop over every combination of choices."""
    groups, rows, size = given.weight.shape
    best = torch.empty(groups, rows, dtype=torch.float64)
    for g, r in itertools.product(range(groups), range(rows)):
        axes = [range(int(lo), int(hi) + 1) for lo, hi in zip(given.low[g, r], given.high[g, r], strict=True)]
        costs = []
        for k in itertools.product(*axes):
            change = torch.tensor(k, dtype=torch.float64) - given.weight[g, r]
            costs.append(float(change @ given.moment[g] @ change - 2 * given.linear[g, r] @ change))
        best[g, r] = min(costs)
    assert size == given.low.shape[-1]
    return best


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_exhaustive_search_equals_brute_force(size: int) -> None:
    given = problem(3, 2, size, seed=size)
    found = exhaustive(given)
    torch.testing.assert_close(given.cost(found), brute_force(given), rtol=1e-9, atol=1e-9)
    assert bool(((found == given.low) | (found == given.high)).all())


def test_solve_is_exact_for_rows_of_nine_weights_with_two_choices() -> None:
    given = problem(2, 2, 9, seed=5)
    torch.testing.assert_close(given.cost(solve(given)), brute_force(given), rtol=1e-9, atol=1e-9)


def test_solve_with_every_grid_point_allowed_finds_the_optimum_of_small_rows() -> None:
    given = free(problem(1, 12, 4, seed=3, bw=2), bw=2)
    found = given.cost(solve(given))
    optimum = brute_force(given)
    assert bool((found >= optimum - 1e-9).all())
    # Descent may stop in a local minimum; on rows this short it does so rarely.
    assert int(((found - optimum) < 1e-9).sum()) >= 11


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("open_choice", [False, True])
def test_descent_never_raises_any_rows_cost(seed: int, open_choice: bool) -> None:
    given = problem(2, 5, 40, seed=seed)
    given = free(given) if open_choice else given
    k = given.nearest()
    for _ in range(60):
        moved = descend(given, k, max_steps=1)
        assert bool((given.cost(moved) <= given.cost(k) + 1e-9).all())
        assert bool(((moved != k).sum(-1) <= 2).all())
        assert bool(((moved >= given.low) & (moved <= given.high)).all())
        k = moved
    assert torch.equal(descend(given, given.nearest(), max_steps=60), k)


def test_after_descent_no_single_move_lowers_the_cost() -> None:
    given = free(problem(1, 4, 30, seed=1))
    k = descend(given, given.nearest())
    cost = given.cost(k)
    for column, step in itertools.product(range(30), (-1.0, 1.0)):
        moved = k.clone()
        moved[..., column] = (moved[..., column] + step).clamp(given.low[..., column], given.high[..., column])
        assert bool((given.cost(moved) >= cost - 1e-8).all())


def test_moving_pairs_escapes_a_minimum_of_single_moves() -> None:
    # Two inputs that are nearly the same: only moving one weight up and the other down helps.
    moment = torch.tensor([[[1.0, 0.99], [0.99, 1.0]]], dtype=torch.float64)
    weight = torch.tensor([[[0.6, 0.4]]], dtype=torch.float64)
    low, high = torch.zeros(1, 1, 2).double(), torch.ones(1, 1, 2).double()
    given = LatticeProblem(moment=moment, linear=torch.zeros(1, 1, 2).double(), weight=weight, low=low, high=high)
    stuck = torch.tensor([[[0.0, 1.0]]], dtype=torch.float64)
    for single in ([0.0, 0.0], [1.0, 1.0]):
        assert float(given.cost(torch.tensor([[single]], dtype=torch.float64))) > float(given.cost(stuck))
    assert descend(given, stuck).tolist() == [[[1.0, 0.0]]]


def test_error_feedback_with_independent_inputs_is_nearest_rounding() -> None:
    given = problem(2, 3, 70)
    eye = torch.eye(70, dtype=torch.float64).expand(2, 70, 70)
    given = LatticeProblem(moment=eye, linear=0 * given.linear, weight=given.weight, low=given.low, high=given.high)
    order = torch.arange(69, -1, -1).expand(2, 70)
    assert torch.equal(error_feedback(given, order, 0.01), given.nearest())


@pytest.mark.parametrize("size", [9, 64, 65, 150])  # block borders of the column update
def test_error_feedback_in_blocks_equals_the_plain_algorithm(size: int) -> None:
    given = problem(1, 3, size, seed=size)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    found = error_feedback(given, order[None], 0.05)

    moment = given.moment[0] + 0.05 * given.moment[0].diagonal().mean() * torch.eye(size).double()
    target = given.weight[0] + torch.linalg.solve(moment, given.linear[0].T).T
    done: list[int] = []
    expected = torch.empty_like(target)
    for column in order.tolist():
        # Round a column, then let all later ones move to their best real values: the definition of error feedback.
        done.append(column)
        rest = [c for c in order.tolist() if c not in done]
        value = torch.minimum(
            torch.maximum(target[:, column].round(), given.low[0, :, column]), given.high[0, :, column]
        )
        off = value - target[:, column]
        later = [column, *rest]
        inverse = torch.linalg.inv(moment[later][:, later])
        target[:, later] += off[:, None] * inverse[0] / inverse[0, 0]
        expected[:, column] = value
    assert torch.equal(found[0], expected)


def test_second_order_start_and_descent_beat_descent_from_nearest_on_correlated_inputs() -> None:
    given = problem(1, 32, 96, seed=2, bw=8, rank=12)
    nearest, plain, best = given.nearest(), descend(given, given.nearest()), solve(given)
    assert float(given.cost(plain).sum()) < 0.5 * float(given.cost(nearest).sum())
    assert bool((given.cost(best) <= given.cost(plain) + 1e-9).all())


def test_solve_never_ends_above_nearest_rounding_or_a_given_start() -> None:
    given = problem(2, 6, 30, seed=7)
    start = solve(given)
    wide = free(given)
    found = solve(wide, starts=[start])
    assert bool((wide.cost(found) <= wide.cost(start) + 1e-9).all())
    assert bool((wide.cost(found) <= wide.cost(wide.nearest()) + 1e-9).all())


def test_inputs_that_are_always_zero_leave_their_weights_at_nearest() -> None:
    given = problem(1, 4, 20, seed=8)
    moment = given.moment.clone()
    moment[:, 5], moment[:, :, 5] = 0.0, 0.0
    linear = given.linear.clone()
    linear[..., 5] = 0.0
    given = LatticeProblem(moment=moment, linear=linear, weight=given.weight, low=given.low, high=given.high)
    assert torch.equal(solve(given)[..., 5], given.nearest()[..., 5])


def test_a_group_without_any_input_is_rounded_to_nearest() -> None:
    given = problem(1, 4, 12, seed=8)
    zero = torch.zeros_like
    dead = LatticeProblem(
        moment=zero(given.moment), linear=zero(given.linear), weight=given.weight, low=given.low, high=given.high
    )
    assert torch.equal(solve(dead), dead.nearest())


def test_scaling_the_error_does_not_change_the_choice() -> None:
    given = problem(2, 5, 24, seed=4)
    large = LatticeProblem(
        moment=given.moment * 1e9, linear=given.linear * 1e9, weight=given.weight, low=given.low, high=given.high
    )
    assert torch.equal(solve(given), solve(large))
