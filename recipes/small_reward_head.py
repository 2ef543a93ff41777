"""The head of the small reward model: chosen, fitted and measured on states that are given.

Pure functions of tables and arrays; what a state is, and which responses are judged, is the
business of ``small_reward_model.py``. A table has the columns ``prompt_id, model, output,
preference`` (the judge's, 1 for the common baseline to 2), ``in_train_half, held_out_policy``.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from charm_rm.core.intervals import percentile_interval, resample_counts
from charm_rm.core.win_rates import Floats

DEPTHS = (8, 10, 12, 14, 16)  # layers that the head may follow, of 30; cost grows with them
PENALTIES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
N_FOLDS = 5
MIN_LOG_ODDS = 1.0  # pairs whose judge labels are closer than this teach mostly noise
SEED = 0

Table = list[dict[str, float]]


@dataclass(frozen=True)
class Accuracy:
    """Share of pairs ordered as the judge ordered them, with a 95% interval over prompts."""

    accuracy: float
    low: float
    high: float
    n_pairs: int
    n_prompts: int
    longer_wins: float


def log_odds(examples: pl.DataFrame) -> Floats:
    """The judge's log-odds that each response beats the common baseline, shape (n,)."""
    win = np.clip(examples["preference"].to_numpy() - 1.0, 1e-3, 1 - 1e-3)
    return np.asarray(np.log(win / (1 - win)))


def judged_pairs(examples: pl.DataFrame) -> NDArray[np.int64]:
    """Rows (better, worse) of the same prompt whose judge labels differ clearly, (n_pairs, 2)."""
    odds = log_odds(examples)
    by_prompt = examples.with_row_index("row").group_by("prompt_id", maintain_order=True)
    pairs = []
    for rows in by_prompt.agg("row")["row"]:
        for one, other in combinations(rows.to_list(), 2):
            if abs(odds[one] - odds[other]) > MIN_LOG_ODDS:
                pairs.append((one, other) if odds[one] > odds[other] else (other, one))
    return np.array(pairs, dtype=np.int64)


@dataclass(frozen=True)
class Setting:
    """Layers in front of the head, and the weight of its ridge penalty."""

    layers: int
    penalty: float


def choose_setting(states: Floats, examples: pl.DataFrame) -> tuple[Setting, Table]:
    """The simplest setting that is not clearly worse than the best, with the figures of all.

    By the one-standard-error rule: among the settings whose cross-validated accuracy lies within
    one standard error (over prompts) of the highest, the strongest penalty, and the more accurate
    depth of those that allow it. The policies to be scored are not those of the training, and a
    head that fits these as closely as it can follows their habits further than it should.
    States have shape (n_examples, n_depths, width).
    """
    found: dict[Setting, tuple[float, float]] = {}
    for depth, layers in enumerate(DEPTHS):
        for penalty in PENALTIES:
            margins, prompts = held_out_margins(states[:, depth], examples, penalty=penalty)
            found[Setting(layers, penalty)] = _accuracy_and_error(margins, prompts)
    best, error = max(found.values())
    near = [setting for setting in found if found[setting][0] >= best - error]
    chosen = max(near, key=lambda setting: (setting.penalty, found[setting][0]))
    table = [
        {**asdict(setting), "accuracy": accuracy, "standard_error": one}
        for setting, (accuracy, one) in found.items()
    ]
    return chosen, table


def _accuracy_and_error(margins: Floats, prompts: NDArray[Any]) -> tuple[float, float]:
    """Share of positive margins, and its standard error with prompts as the independent units."""
    _, of_prompt = np.unique(prompts, return_inverse=True)
    n_pairs = np.bincount(of_prompt).astype(np.float64)
    n_right = np.bincount(of_prompt, weights=(margins > 0).astype(np.float64))
    accuracy = n_right.sum() / n_pairs.sum()
    n = len(n_pairs)
    residual = n_right - accuracy * n_pairs
    return float(accuracy), float(np.sqrt(n / (n - 1) * (residual**2).sum()) / n_pairs.sum())


def held_out_margins(
    states: Floats, examples: pl.DataFrame, *, penalty: float
) -> tuple[Floats, NDArray[Any]]:
    """Margins of the better response on prompts that the fold did not see, and their prompts."""
    folds = _prompt_folds(examples)
    prompts = examples["prompt_id"].to_numpy()
    margins, of_pair = [], []
    for fold in range(N_FOLDS):
        inside = folds != fold
        head = _fit(states[inside], judged_pairs(examples.filter(inside)), penalty)
        held = judged_pairs(examples.filter(~inside))
        scores = states[~inside] @ head
        margins.append(scores[held[:, 0]] - scores[held[:, 1]])
        of_pair.append(prompts[~inside][held[:, 0]])
    return np.concatenate(margins), np.concatenate(of_pair)


def fit_head(
    states: Floats, examples: pl.DataFrame, *, penalty: float
) -> tuple[Floats, dict[str, float]]:
    """Head weights in score points, shape (width,), with the figures of its cross-validation.

    The scale is the one at which sigmoid(margin) is best calibrated on prompts that the fold did
    not see, so that the scores are log-odds as Eq. 3 reads them.
    """
    margins, _ = held_out_margins(states, examples, penalty=penalty)
    scale = _best_scale(margins)
    head = scale * _fit(states, judged_pairs(examples), penalty)
    return head, {"accuracy": float((margins > 0).mean()), "penalty": penalty, "scale": scale}


def _prompt_folds(examples: pl.DataFrame) -> NDArray[np.int64]:
    prompts = examples["prompt_id"].unique().sort()
    fold = np.random.default_rng(SEED).permutation(len(prompts)) % N_FOLDS
    return examples["prompt_id"].replace_strict(prompts, fold).to_numpy()


def _fit(states: Floats, pairs: NDArray[np.int64], penalty: float) -> Floats:
    """Bradley-Terry loss (Eq. 1) with a ridge penalty on standardised states."""
    spread = states.std(axis=0) + 1e-6
    difference = (states[pairs[:, 0]] - states[pairs[:, 1]]) / spread

    def loss(weights: Floats) -> tuple[float, Floats]:
        margin = difference @ weights
        value = np.logaddexp(0.0, -margin).mean() + 0.5 * penalty * weights @ weights
        gradient = penalty * weights - difference.T @ expit(-margin) / len(margin)
        return float(value), gradient

    start = np.zeros(states.shape[1])
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B").x / spread)


def _best_scale(margins: Floats) -> float:
    scales = np.geomspace(0.1, 100.0, 400)
    losses = [np.logaddexp(0.0, -scale * margins).mean() for scale in scales]
    return float(scales[int(np.argmin(losses))])


def measure(examples: pl.DataFrame, scores: Floats) -> Iterator[tuple[str, Accuracy]]:
    """Accuracy on the audit half, by whether the policies were seen in training."""
    lengths = examples["output"].str.len_chars().cast(pl.Int64).to_numpy()
    held = examples["held_out_policy"].to_numpy()
    pairs = judged_pairs(examples)
    pairs = pairs[~examples["in_train_half"].to_numpy()[pairs[:, 0]]]
    both_held, both_seen = held[pairs].all(axis=1), ~held[pairs].any(axis=1)
    ratio = lengths[pairs].min(axis=1) / lengths[pairs].max(axis=1)
    groups = {
        "unseen prompts, all policies": np.ones(len(pairs), dtype=bool),
        "unseen prompts, unseen policies": both_held,
        "unseen prompts, seen policies": both_seen,
        "unseen prompts, lengths within 20%": ratio > 1 / 1.2,
    }
    prompts = examples["prompt_id"].to_numpy()
    for name, inside in groups.items():
        yield name, _accuracy(pairs[inside], scores, lengths, prompts)


def _accuracy(
    pairs: NDArray[np.int64], scores: Floats, lengths: NDArray[np.int64], prompts: NDArray[Any]
) -> Accuracy:
    right = (scores[pairs[:, 0]] > scores[pairs[:, 1]]).astype(np.float64)
    longer = np.sign(lengths[pairs[:, 0]] - lengths[pairs[:, 1]])
    distinct, of_prompt = np.unique(prompts[pairs[:, 0]], return_inverse=True)
    n_pairs = np.bincount(of_prompt).astype(np.float64)
    n_right = np.bincount(of_prompt, weights=right)
    rng = np.random.default_rng(SEED)
    blocks = resample_counts(len(distinct), n_resamples=1000, rng=rng)
    samples = np.concatenate([(counts @ n_right) / (counts @ n_pairs) for counts in blocks])
    low, high = percentile_interval(samples)
    return Accuracy(
        accuracy=float(right.mean()),
        low=float(low),
        high=float(high),
        n_pairs=len(pairs),
        n_prompts=len(distinct),
        longer_wins=float((0.5 * (1 + longer)).mean()),
    )
