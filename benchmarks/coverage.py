"""How often 95% intervals of offsets and mismatches hold the truth, at 30, 100 and 400 prompts.

    python benchmarks/coverage.py [--repetitions N] [--prompts N ...] [--json PATH]

Four policies of known quality answer the same prompts; scores have a prompt effect that all share
and noise of their own with heavy tails (Student's t with 4 degrees of freedom), and one policy gets
too many points: 1 in a third of the prompts, 1.5 in another, 2 in the last, which are its
categories. The published ratings err by 8 Elo points each, as their intervals say. Each sample goes
to the functions that a user calls. The truths are those of the whole population of prompts, found
here by quadrature and general solvers. Prompts are counted per category where there are
categories. ``charm selftest`` tries one offset in more ways; here are the offsets of many.

For the temperature somebody ranks the four responses to every prompt, by score over temperature
plus Gumbel noise: each of the six labels then follows the sigmoid of its margin, and the labels
of one prompt lean together.
"""

import argparse
import json
from collections.abc import Sequence
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq, least_squares
from scipy.special import expit
from scipy.stats import qmc, t

from charm_rm.calibrate import calibrate_pair
from charm_rm.calibrate_many import calibrate_categories, calibrate_jointly
from charm_rm.core.elo import NORMAL_95, expected_win_rate
from charm_rm.core.mismatch import signed_mismatch
from charm_rm.core.win_rates import Floats, WinRateKind
from charm_rm.data.arena import EloTable, elo_table
from charm_rm.data.offsets import Offset
from charm_rm.temperature import fit_label_temperature

POLICIES = ("planted", "reference", "fair", "good")
QUALITY = np.array([-0.4, 0.0, -0.8, 0.5])
ELO = np.array([1240.0, 1300.0, 1150.0, 1370.0])
BIAS = np.array([1.0, 1.5, 2.0])  # by category, of the planted policy
ELO_ERROR, TAIL, PROMPT_EFFECT = 8.0, 4.0, 3.0
TEMPERATURE = 2.0  # of the labels, in score points per unit of log-odds


@cache
def noise_differences() -> Floats:
    """Differences of two policies' noise on one prompt, evenly over their population."""
    points = qmc.Sobol(2, rng=0).random_base2(15)
    return np.asarray(np.subtract(*t.ppf(points, TAIL).T))


def true_rate(shift: float | Floats, kind: WinRateKind) -> Floats:
    """Win rate of a policy that scores ``shift`` points higher, in the population."""
    margins = np.expand_dims(shift, -1) + noise_differences()
    return np.asarray(expit(margins).mean(-1) if kind == "sigmoid" else (margins > 0).mean(-1))


def true_offset(biases: Floats, kind: WinRateKind) -> float:
    """Of the planted policy against the reference, where the biases are equally frequent."""
    target = float(expected_win_rate(ELO[0], ELO[1]))
    return float(
        brentq(lambda d: true_rate(QUALITY[0] + biases + d, kind).mean() - target, -9.0, 9.0)
    )


def true_joint_offsets(kind: WinRateKind) -> Floats:
    """Of all policies against the whole Elo matrix, the reference's being 0."""
    grid = np.linspace(-8.0, 8.0, 1601)
    rates = true_rate(grid, kind)

    def residuals(free: Floats) -> Floats:
        at = QUALITY + np.insert(free, 1, 0.0)
        found = []
        for i, j in combinations(range(4), 2):
            shifts = at[i] - at[j] + (BIAS if i == 0 else 0.0)
            rate = np.interp(shifts, grid, rates).mean()
            found.append(rate - float(expected_win_rate(ELO[i], ELO[j])))
        return np.array(found)

    free = least_squares(residuals, np.zeros(3), diff_step=1e-2, xtol=1e-10).x
    return np.insert(free, 1, 0.0)


def draw_sample(n_prompts: int, rng: np.random.Generator) -> tuple[pl.DataFrame, EloTable]:
    """Scores of so many prompts, a third of them in each category, and published ratings."""
    code = np.arange(n_prompts) % 3
    scores = QUALITY + PROMPT_EFFECT * rng.normal(size=(n_prompts, 1))
    scores = scores + rng.standard_t(TAIL, size=(n_prompts, 4))
    scores[:, 0] += BIAS[code]
    published = ELO + ELO_ERROR * rng.normal(size=4)
    half = NORMAL_95 * ELO_ERROR
    elo = pl.DataFrame(
        {
            "model": POLICIES,
            "elo": published,
            "elo_low": published - half,
            "elo_high": published + half,
        }
    )
    table = pl.DataFrame(
        {
            "prompt_id": np.repeat([f"p{at:04d}" for at in range(n_prompts)], 4),
            "policy": POLICIES * n_prompts,
            "sample": np.zeros(4 * n_prompts, dtype=np.int64),
            "score": scores.ravel(),
            "reward_model": "planted",
            "category": np.repeat(code.astype(str), 4),
        }
    )
    return table, elo_table(elo, name="planted")


def draw_labels(scores: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """A label of every two responses to each prompt, from one noisy ranking of the four."""
    worth = scores["score"].to_numpy().reshape(-1, 4) / TEMPERATURE
    worth = worth + rng.gumbel(size=worth.shape)
    pairs = [
        pl.DataFrame({"outcome": (worth[:, i] > worth[:, j]).astype(float)}).with_columns(
            prompt_id=scores["prompt_id"].gather_every(4),
            sample=pl.lit(0, pl.Int64),
            policy_a=pl.lit(POLICIES[i]),
            policy_b=pl.lit(POLICIES[j]),
        )
        for i, j in combinations(range(4), 2)
    ]
    return pl.concat(pairs).select("prompt_id", "sample", "policy_a", "policy_b", "outcome")


@cache
def truths(kind: WinRateKind) -> dict[str, list[float]]:
    """The population's values, by the name of the interval and in the order of its entries."""
    by_category = [true_offset(np.array([bias]), kind) for bias in BIAS]
    rate = float(true_rate(QUALITY[0] + BIAS, kind).mean())
    return {
        "one offset": [true_offset(BIAS, kind)],
        "mismatch": [float(signed_mismatch(rate, expected_win_rate(ELO[0], ELO[1])))],
        "by category, plain": by_category,
        "by category, shrunk": by_category,
        "joint": [*true_joint_offsets(kind)[[2, 3, 0]]],  # by name: fair, good, planted
    }


def intervals(
    n_prompts: int, kind: WinRateKind, *, rng: np.random.Generator
) -> dict[str, list[tuple[float, float]]]:
    """Every kind of interval, of one sample (of as many prompts in each category for the last)."""
    (table, elo), (longer, other) = draw_sample(n_prompts, rng), draw_sample(3 * n_prompts, rng)
    pair = partial(calibrate_pair, over_valued="planted", reference="reference", win_rate=kind)
    split = partial(
        calibrate_categories, over_valued="planted", reference="reference", win_rate=kind
    )
    seed = int(rng.integers(2**31))
    one = pair(table, elo, seed=seed).offsets
    joint = calibrate_jointly(table, elo, reference="reference", win_rate=kind, seed=seed)
    return {
        "one offset": offset_ends(one),
        "mismatch": [(one[0].mismatch_before_low, one[0].mismatch_before_high)],
        "by category, plain": offset_ends(split(longer, other, shrink=False).offsets),
        "by category, shrunk": offset_ends(split(longer, other).offsets),
        "joint": offset_ends(joint.offsets),
    }


def offset_ends(offsets: Sequence[Offset]) -> list[tuple[float, float]]:
    """Ends of their intervals, in score points."""
    return [(entry.offset_low, entry.offset_high) for entry in offsets]


def measure(n_prompts: int, kind: WinRateKind, *, n_repetitions: int) -> dict[str, float]:
    """Share of the intervals of each kind that hold the truth, over the repetitions."""
    held: dict[str, list[bool]] = {name: [] for name in truths(kind)}
    for number in range(n_repetitions):
        found = intervals(n_prompts, kind, rng=np.random.default_rng([number, n_prompts]))
        for name, ends in found.items():
            pairs = zip(ends, truths(kind)[name], strict=True)
            held[name] += [low <= truth <= high for (low, high), truth in pairs]
    return {name: float(np.mean(shares)) for name, shares in held.items()}


def measure_temperature(n_prompts: int, *, n_repetitions: int) -> float:
    """Share of the intervals of a temperature fitted to labels that hold the true one."""
    held = []
    for number in range(n_repetitions):
        rng = np.random.default_rng([number, n_prompts, 1])  # apart from the other intervals'
        scores, _ = draw_sample(n_prompts, rng)
        found = fit_label_temperature(scores, draw_labels(scores, rng))
        held.append(found.low <= TEMPERATURE <= (np.inf if found.high is None else found.high))
    return float(np.mean(held))


def main() -> None:
    """Measure, print, and write the shares if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=1000, metavar="N")
    parser.add_argument("--prompts", type=int, nargs="+", default=[30, 100, 400], metavar="N")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the shares here")
    arguments = parser.parse_args()
    n_repetitions = arguments.repetitions
    found: dict[str, dict[int, dict[str, float]]] = {}
    table = Table("interval of", "win rate", box=None, pad_edge=False)
    for n_prompts in arguments.prompts:
        table.add_column(f"{n_prompts} prompts", justify="right")
    for kind in get_args(WinRateKind):
        found[kind] = {
            n_prompts: measure(n_prompts, kind, n_repetitions=n_repetitions)
            for n_prompts in arguments.prompts
        }
        for name in truths(kind):
            shares = [f"{found[kind][n_prompts][name]:.3f}" for n_prompts in arguments.prompts]
            table.add_row(name, kind, *shares)
    found["labels"] = {
        n_prompts: {"temperature": measure_temperature(n_prompts, n_repetitions=n_repetitions)}
        for n_prompts in arguments.prompts
    }
    shares = [f"{share['temperature']:.3f}" for share in found["labels"].values()]
    table.add_row("temperature from labels", "", *shares)
    console = Console(highlight=False, width=100)
    console.print(table)
    console.print(f"\nShare of 95% intervals that hold the truth, {n_repetitions} samples.")
    if arguments.json:
        text = json.dumps({"repetitions": n_repetitions, "coverage": found}, indent=2)
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
