"""Ways to correct scores, each fitted on some rows: what cross-validation sets side by side."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from charm_rm.core.alternatives import probit_offset, remove_length_trend, standardize_scores
from charm_rm.core.categories import solve_category_offsets
from charm_rm.core.elo import expected_win_rate
from charm_rm.core.joint import solve_joint_offsets
from charm_rm.core.offsets import reach_win_rate
from charm_rm.core.temperature import fit_temperature
from charm_rm.core.win_rates import Floats, WinRateKind
from charm_rm.temperature import PlacedLabels


@dataclass(frozen=True, eq=False)
class Task:
    """Scores and what each method needs to know beside them.

    Attributes:
        values: Score points, shape (n_rows, n_policies).
        prompts: Prompt of each row, shape (n_rows,).
        elo: Elo points, shape (n_policies,).
        elo_factor: Their errors, as `charm_rm.core.elo.draw_elo` takes them.
        over_valued: Column of the over-valued policy.
        reference: Column of the reference.
        categories: Code of each row, shape (n_rows,); None without categories.
        lengths: Of the responses, shape (n_rows, n_policies); None where unknown.
        labels: Which responses were preferred; None without labels.
        kind: Win rate that is fitted.
        temperature: Score points per unit of log-odds.
    """

    values: Floats
    prompts: NDArray[np.int64]
    elo: Floats
    elo_factor: Floats
    over_valued: int
    reference: int
    categories: NDArray[np.int64] | None
    lengths: Floats | None
    labels: PlacedLabels | None
    kind: WinRateKind
    temperature: float

    @property
    def margins(self) -> Floats:
        """Of the pair, on all rows, shape (n_rows,); NaN where one has no score."""
        return np.asarray(self.values[:, self.over_valued] - self.values[:, self.reference])

    @property
    def target(self) -> float:
        """Expected win rate of the pair."""
        return float(expected_win_rate(self.elo[self.over_valued], self.elo[self.reference]))


# A method takes the task and which rows to fit on, and returns the calibrated scores of all rows.
Method = Callable[[Task, NDArray[np.bool_]], Floats]


def list_methods(task: Task) -> dict[str, Method]:
    """The methods that the task has what they need for, by name.

    Args:
        task: Scores, and what is known beside them.

    Returns:
        Name -> method, in the order of the table.

    Example:
        >>> one, none = np.zeros(1, int), (None, None, None)
        >>> task = Task(np.zeros((1, 2)), one, np.zeros(2), np.eye(2), 0, 1, *none, "hard", 1.0)
        >>> list(list_methods(task))
        ['none', 'one offset', 'one offset, probit', 'joint', 'z-scores']
    """
    found: dict[str, Method] = {"none": _none, "one offset": _one_offset}
    found["one offset, probit"] = _probit
    if task.categories is not None:
        found |= {"by category": _by_category, "by category, shrunk": _by_category_shrunk}
    found |= {"joint": _joint, "z-scores": _z_scores}
    if task.lengths is not None:
        found["less length trend"] = _less_length_trend
    if task.labels is not None:
        found |= {"temperature": _temperature, "temperature, one offset": _temperature_and_offset}
    return found


def _none(task: Task, _fit: NDArray[np.bool_]) -> Floats:
    return task.values


def _one_offset(
    task: Task, fit: NDArray[np.bool_], *, solve: Callable[..., float] = reach_win_rate
) -> Floats:
    margins = task.margins[fit]
    margins = margins[np.isfinite(margins)]
    return _move_policy(
        task, solve(margins, task.target, kind=task.kind, temperature=task.temperature)
    )


_probit = partial(_one_offset, solve=probit_offset)


def _by_category(task: Task, fit: NDArray[np.bool_], *, shrink: bool = False) -> Floats:
    if task.categories is None:
        raise ValueError("there are no categories")
    used = fit & np.isfinite(task.margins)
    found = solve_category_offsets(
        task.margins[used],
        task.target,
        categories=task.categories[used],
        kind=task.kind,
        temperature=task.temperature,
        prompts=task.prompts[used],
        shrink=shrink,
    )
    # a category that no fitted prompt has takes the global offset
    group = np.full(task.categories.max() + 1, -1)
    group[: len(found.group_of)] = found.group_of
    by_code = np.where(group >= 0, found.offsets[group], found.global_offset)
    return _move_policy(task, by_code[task.categories])


_by_category_shrunk = partial(_by_category, shrink=True)


def _joint(task: Task, fit: NDArray[np.bool_]) -> Floats:
    found = solve_joint_offsets(
        task.values[fit],
        task.elo,
        reference=task.reference,
        kind=task.kind,
        temperature=task.temperature,
    )
    return np.asarray(task.values + found.offsets)


def _z_scores(task: Task, fit: NDArray[np.bool_]) -> Floats:
    return standardize_scores(task.values, fit=fit)


def _less_length_trend(task: Task, fit: NDArray[np.bool_]) -> Floats:
    if task.lengths is None:
        raise ValueError("the lengths of the responses are not known")
    return remove_length_trend(task.values, task.lengths, fit=fit)


def _temperature(task: Task, fit: NDArray[np.bool_]) -> Floats:
    """Scores in units such that the task's temperature reads them as the fitted one would."""
    if task.labels is None:
        raise ValueError("there are no labels")
    used = fit[task.labels.rows]
    margins, outcomes = task.labels.margins(task.values)[used], task.labels.outcomes[used]
    fitted = fit_temperature(margins, outcomes=outcomes)
    return np.asarray(task.values * (task.temperature / fitted))


def _temperature_and_offset(task: Task, fit: NDArray[np.bool_]) -> Floats:
    return _one_offset(replace(task, values=_temperature(task, fit)), fit)


# These differ by the win rate that they fit.
SIGMOID_ONLY = (_temperature, _temperature_and_offset)  # no temperature moves a hard rate
FITTED_TO_ELO = (_one_offset, _probit, _by_category, _by_category_shrunk, _joint)


def _move_policy(task: Task, offset: float | Floats) -> Floats:
    moved = task.values.copy()
    moved[:, task.over_valued] += offset
    return moved
