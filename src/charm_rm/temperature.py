"""The temperature of a reward model, fitted to labels of the responses that it scored.

Any labels will do that name two policies and a prompt: preference pairs, a judge's annotations,
people's votes. Their margins are the reward model's; the temperature is the one at which the
sigmoid of a margin comes nearest to how often the labels agree with it.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from charm_rm.core.temperature import fit_temperature, temperature_interval
from charm_rm.core.win_rates import Floats
from charm_rm.data.scores import MIN_PROMPTS, ScoreMatrix, score_matrix
from charm_rm.data.tables import DataError, nearest_names

LEVEL = 0.95


@dataclass(frozen=True)
class LabelTemperature:
    """A temperature fitted to labels, and what it rests on.

    Attributes:
        temperature: Score points per unit of log-odds.
        low: Lower end of its 95% interval.
        high: Upper end; None where the labels do not bound it.
        n_labels: Labels of responses that both have scores.
        n_prompts: Distinct prompts among them.
        n_unscored: Labels left out, because a response has no score.
    """

    temperature: float
    low: float
    high: float | None
    n_labels: int
    n_prompts: int
    n_unscored: int

    def to_json(self) -> dict[str, Any]:
        """The fit as a JSON document.

        Example:
            >>> LabelTemperature(2.0, 1.8, None, 100, 50, 0).to_json()["high"] is None
            True
        """
        return asdict(self)


@dataclass(frozen=True)
class PlacedLabels:
    """Labels by their places in a score matrix, shape (n_labels,) each.

    Attributes:
        rows: Row of the prompt and sample.
        first: Column of one policy.
        second: Column of the other.
        outcomes: How far the first is preferred, 0 to 1.
        n_unscored: Labels left out, because a response has no score.
    """

    rows: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    outcomes: Floats
    n_unscored: int

    def margins(self, values: Floats) -> Floats:
        """Score of the first minus score of the second, in score points, shape (n_labels,).

        Args:
            values: Of a score matrix, shape (n_rows, n_policies).

        Example:
            >>> at = np.array([0])
            >>> PlacedLabels(at, at, at + 1, np.ones(1), 0).margins(np.array([[3.0, 1.0]]))
            array([2.])
        """
        return np.asarray(values[self.rows, self.first] - values[self.rows, self.second])


def fit_label_temperature(scores: pl.DataFrame, labels: pl.DataFrame) -> LabelTemperature:
    """Temperature at which the scores predict the labels best, with its interval by prompt.

    The maximum-likelihood estimate of `charm_rm.core.temperature.fit_temperature`.

    Args:
        scores: As `charm_rm.data.scores.read_scores` returns them.
        labels: As `charm_rm.data.preferences.read_labels` returns them.

    Returns:
        The temperature.

    Raises:
        DataError: If the labels are of fewer than 30 scored prompts, or fit no temperature.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> margins, prompts = rng.normal(0, 2, 60), [f"p{i}" for i in range(60)]
        >>> keys = pl.DataFrame({"prompt_id": prompts, "sample": [0] * 60})
        >>> scores = keys.join(pl.DataFrame({"policy": ["a", "b"]}), how="cross").with_columns(
        ...     score=np.outer(margins, [1, 0]).ravel()
        ... )
        >>> won = (margins + rng.logistic(size=60) > 0).astype(float)
        >>> labels = keys.with_columns(policy_a=pl.lit("a"), policy_b=pl.lit("b"), outcome=won)
        >>> found = fit_label_temperature(scores, labels)
        >>> found.n_labels, found.low < found.temperature < found.high
        (60, True)
    """
    matrix = score_matrix(scores)
    placed = place_labels(matrix, labels)
    margins, prompts = placed.margins(matrix.values), matrix.prompts[placed.rows]
    try:
        temperature = fit_temperature(margins, outcomes=placed.outcomes)
    except ValueError as error:
        raise DataError(f"labels: {error}") from error
    low, high = temperature_interval(
        margins, temperature, outcomes=placed.outcomes, prompts=prompts, level=LEVEL
    )
    return LabelTemperature(
        temperature=temperature,
        low=low,
        high=high if np.isfinite(high) else None,
        n_labels=margins.size,
        n_prompts=np.unique(prompts).size,
        n_unscored=placed.n_unscored,
    )


def place_labels(matrix: ScoreMatrix, labels: pl.DataFrame) -> PlacedLabels:
    """The labels whose two responses have scores, by their places in the matrix.

    Args:
        matrix: The scores.
        labels: As `charm_rm.data.preferences.read_labels` returns them.

    Returns:
        Places and outcomes.

    Raises:
        DataError: If the labels are of fewer than 30 scored prompts.

    Example:
        >>> rows = {"prompt_id": ["p"] * 2, "policy": ["a", "b"], "sample": [0, 0]}
        >>> matrix = score_matrix(pl.DataFrame(rows | {"score": [1.0, 2.0]}))
        >>> names = ["prompt_id", "sample", "policy_a", "policy_b", "outcome"]
        >>> votes = pl.DataFrame([("p", 0, "a", "b", 1.0)], schema=names, orient="row")
        >>> place_labels(matrix, votes)
        Traceback (most recent call last):
        charm_rm.data.tables.DataError: labels: of 1 scored prompts; at least 30 are needed
    """
    columns = {policy: at for at, policy in enumerate(matrix.policies)}
    keys = {key: at for at, key in enumerate(zip(matrix.prompt_ids, matrix.samples, strict=True))}
    places = [
        (keys.get((prompt_id, sample), -1), columns.get(one, -1), columns.get(other, -1))
        for prompt_id, sample, one, other, _ in labels.iter_rows()
    ]
    rows, first, second = np.array(places, dtype=np.int64).reshape(-1, 3).T
    scored = np.isfinite(matrix.values[rows, first] - matrix.values[rows, second])
    scored &= np.min(places, axis=1) >= 0
    n_prompts = np.unique(matrix.prompts[rows[scored]]).size
    if n_prompts < MIN_PROMPTS:
        raise DataError(_too_few(n_prompts, labels, matrix=matrix))
    return PlacedLabels(
        rows=rows[scored],
        first=first[scored],
        second=second[scored],
        outcomes=labels["outcome"].to_numpy()[scored],
        n_unscored=int((~scored).sum()),
    )


def _too_few(n_prompts: int, labels: pl.DataFrame, *, matrix: ScoreMatrix) -> str:
    """What to say of labels that too few scores belong to, and the likeliest reason."""
    text = f"labels: of {n_prompts} scored prompts; at least {MIN_PROMPTS} are needed"
    named = pl.concat([labels["policy_a"], labels["policy_b"]]).unique().sort().to_list()
    unknown = [name for name in named if name not in matrix.policies]
    if unknown:
        near = nearest_names(unknown[0], matrix.policies) or matrix.policies[:4]
        return f"{text}; {unknown[0]!r} has no scores, there are: {', '.join(near)}"
    if not set(labels["prompt_id"]) & set(matrix.prompt_ids):
        return f"{text}; no prompt of theirs, such as {labels['prompt_id'][0]!r}, has scores"
    return text
