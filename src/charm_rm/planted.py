"""The instrument's own test: scores with a bias planted on purpose, and what comes back of it.

A scenario says how scores come about: policies of known quality answer the same prompts, and one
is scored too high by a known amount. The ratings are those that the scores without the bias
deserve, so the true mismatch and the true offset of the whole population of prompts are known.
Samples go to `audit_scores` and `calibrate_pair`, the functions a user calls, and what they say
is held against the truth. Nothing here estimates anything.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any
from zlib import crc32

import numpy as np
import polars as pl
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit
from scipy.stats import qmc

from charm_rm.audit import Audit, audit_scores
from charm_rm.calibrate import calibrate_pair
from charm_rm.core.elo import ELO_SCALE, NORMAL_95
from charm_rm.core.mismatch import signed_mismatch
from charm_rm.core.win_rates import Floats, WinRateKind, wins
from charm_rm.data.arena import EloTable, elo_table
from charm_rm.data.offsets import Offset

PLANTED, REFERENCE = "planted", "reference"
QUALITIES = {REFERENCE: 0.0, PLANTED: -0.4, "weak": -1.2, "fair": -0.6, "good": 0.3, "best": 0.8}
ANCHOR = 1300.0  # rating of the reference, in Elo points
LOG2_POPULATION = 16  # Sobol points: win rates to 1e-5; a sample of 120 prompts errs by 2e-2


@dataclass(frozen=True)
class Stratum:
    """A category of prompts, and the bias planted in it.

    Attributes:
        category: Its name.
        share: Share of all prompts, a probability.
        bias: What the planted policy's scores have too much, in units of the noise.
    """

    category: str
    share: float
    bias: float


@dataclass(frozen=True)
class Scenario:
    """How planted scores come about. Lengths are in units of the noise, whose scale is 1.

    Attributes:
        name: What is hard about it.
        n_prompts: Prompts in each sample.
        strata: Categories and the bias in each; the shares sum to 1.
        prompt_effect: Spread of what all policies' scores on one prompt have in common.
        tail: Degrees of freedom of Student's t for the noise; infinite is normal.
        grid: Step that scores are rounded to; 0 leaves them alone.
        scale: Score points per unit of the noise; also the temperature.
        missing: Share of responses that are missing, up to 0.5; the harder the prompt the more.
        n_samples: Equal samples of each response, as greedy decoding gives them.
        elo_error: Standard error of each published rating, in Elo points.
        elo_correlation: Of the errors of every two ratings; the table has their covariance then.
        win_rate: Which win rate is audited and calibrated.
    """

    name: str
    n_prompts: int = 120
    strata: tuple[Stratum, ...] = (Stratum("any", 1.0, 1.5),)
    prompt_effect: float = 1.0
    tail: float = np.inf
    grid: float = 0.0
    scale: float = 1.0
    missing: float = 0.0
    n_samples: int = 1
    elo_error: float = 0.0
    elo_correlation: float = 0.0
    win_rate: WinRateKind = "sigmoid"

    @property
    def parts(self) -> tuple[str | None, ...]:
        """Prompts that are looked at: all (None) and, where there are several, each category.

        Example:
            >>> Scenario("two", strata=(Stratum("a", 0.5, 0.0), Stratum("b", 0.5, 1.0))).parts
            (None, 'a', 'b')
        """
        several = [stratum.category for stratum in self.strata] if len(self.strata) > 1 else []
        return (None, *several)


CATEGORIES = (Stratum("chat", 0.7, 0.5), Stratum("math", 0.3, 2.0))
SCENARIOS = (
    Scenario("nothing planted", strata=(Stratum("any", 1.0, 0.0),)),
    Scenario("prompt effects", prompt_effect=8.0),
    Scenario("heavy tails", tail=2.0),
    Scenario("ties", grid=1.0),
    Scenario("bias by category", n_prompts=240, strata=CATEGORIES),
    Scenario("tiny scale", scale=0.002),
    Scenario("huge scale", scale=5000.0),
    Scenario("missing responses", missing=0.25, prompt_effect=8.0),
    Scenario("hard win rate", win_rate="hard"),
    Scenario("equal samples", n_samples=3),
    Scenario("uncertain Elo", elo_error=15.0),
    Scenario("Elo uncertain together", elo_error=40.0, elo_correlation=0.9),
    Scenario("fewest prompts", n_prompts=30),
    Scenario("fewest prompts, nothing", n_prompts=30, strata=(Stratum("any", 1.0, 0.0),)),
    Scenario("nothing, hard", n_prompts=30, strata=(Stratum("any", 1.0, 0.0),), win_rate="hard"),
    Scenario(
        "all at once",
        n_prompts=400,
        strata=CATEGORIES,
        prompt_effect=8.0,
        tail=2.0,
        grid=0.5,
        scale=40.0,
        missing=0.2,
        elo_error=10.0,
    ),
)


@dataclass(frozen=True)
class Truth:
    """What would be found with all prompts that could be drawn.

    Attributes:
        bias: Planted, in score points: the mean over the prompts.
        offset: Of the planted policy, in score points.
        signed_mismatch: Of the planted policy (Eq. 5).
    """

    bias: float
    offset: float
    signed_mismatch: float


@dataclass(frozen=True)
class Recovery:
    """What came back of many samples of one scenario.

    Attributes:
        scenario: Its name.
        category: The prompts looked at; None for all.
        n_repetitions: Number of samples.
        n_prompts: Prompts that the planted policy and the reference share; mean of the samples.
        truth: The population's values.
        mean_offset: Mean of the offsets found, in score points.
        offset_spread: Their standard deviation, in score points.
        offset_coverage: Share of the 95% intervals that hold the true offset.
        mean_mismatch: Mean of the signed mismatches found.
        mismatch_coverage: Share of the 95% intervals that hold the true signed mismatch.
        found: Share of the audits that call the planted policy over-valued.
        false_discoveries: Share, among the policies that an audit calls over- or under-valued, of
            those that are not (0 where it calls none so); mean of the audits.
    """

    scenario: str
    category: str | None
    n_repetitions: int
    n_prompts: float
    truth: Truth
    mean_offset: float
    offset_spread: float
    offset_coverage: float
    mean_mismatch: float
    mismatch_coverage: float
    found: float
    false_discoveries: float


def plant_scores(scenario: Scenario, *, rng: np.random.Generator) -> pl.DataFrame:
    """A sample of scores with the bias in it, as `charm_rm.data.scores.read_scores` returns them.

    Args:
        scenario: How the scores come about.
        rng: Source of randomness.

    Returns:
        The columns of ``SCORE_SCHEMA`` and ``category``; a row per response that isn't missing.

    Example:
        >>> scores = plant_scores(SCENARIOS[0], rng=np.random.default_rng(0))
        >>> scores["policy"].n_unique(), len(scores)
        (6, 720)
    """
    shape = scenario.n_prompts, len(QUALITIES)
    prompts, noise = rng.random((scenario.n_prompts, 1)), rng.random(shape)
    shares = [stratum.share for stratum in scenario.strata]
    stratum = rng.choice(len(shares), size=scenario.n_prompts, p=shares)
    bias = np.array([stratum.bias for stratum in scenario.strata])[stratum]
    is_planted = np.array(list(QUALITIES)) == PLANTED
    shift = np.array(list(QUALITIES.values())) + np.outer(bias, is_planted)
    values = _scores_at(scenario, prompts, noise=noise, shift=shift)
    values[rng.random(shape) < 2.0 * scenario.missing * (1.0 - prompts)] = np.nan
    one = pl.DataFrame(values, schema=list(QUALITIES)).with_columns(
        prompt_id=pl.Series([f"p{at:04d}" for at in range(scenario.n_prompts)]),
        category=pl.Series([scenario.strata[at].category for at in stratum]),
        reward_model=pl.lit(scenario.name),
        sample=pl.lit(list(range(scenario.n_samples)), dtype=pl.List(pl.Int64)),
    )
    keys = ["prompt_id", "sample", "category", "reward_model"]
    long = one.explode("sample").unpivot(index=keys, variable_name="policy", value_name="score")
    return long.filter(pl.col("score").is_not_nan())


def plant_elo(scenario: Scenario, *, rng: np.random.Generator) -> EloTable:
    """Ratings that the scores without the bias deserve, as a board with votes would publish them.

    Args:
        scenario: How the scores come about.
        rng: Source of the ratings' errors.

    Returns:
        The ratings in Elo points; intervals are given where the scenario has an ``elo_error``.

    Example:
        >>> elo = plant_elo(SCENARIOS[0], rng=np.random.default_rng(0))
        >>> elo.ratings(["reference", "planted"])[:, 0].round(1)
        array([1300. , 1249.5])
    """
    rates = np.array([_deserved_rate(scenario, quality) for quality in QUALITIES.values()])
    true = ANCHOR + ELO_SCALE * np.log10(rates / (1.0 - rates))
    common = np.sqrt(scenario.elo_correlation)
    factor = scenario.elo_error * np.sqrt(1.0 - common**2) * np.eye(true.size)
    if common > 0.0:
        factor = np.column_stack([factor, np.full(true.size, scenario.elo_error * common)])
    published = true + factor @ rng.standard_normal(factor.shape[1])
    columns = {"model": list(QUALITIES), "elo": published}
    if scenario.elo_error > 0.0:
        half = NORMAL_95 * scenario.elo_error
        columns |= {"elo_low": published - half, "elo_high": published + half}
    if common > 0.0:
        columns |= {f"elo_error_{at}": errors for at, errors in enumerate(factor.T)}
    return elo_table(pl.DataFrame(columns), name=scenario.name)


@cache
def true_values(scenario: Scenario, category: str | None = None) -> Truth:
    """Offset and signed mismatch of the planted policy in the whole population of prompts.

    A bias that is the same on all prompts has the offset -bias; of several, the sigmoid decides.

    Args:
        scenario: How the scores come about.
        category: The prompts to look at; None for all.

    Returns:
        The population's values, from win rates that are exact to 1e-5.

    Raises:
        ValueError: If the scenario has no such category.

    Example:
        >>> round(true_values(SCENARIOS[1]).offset, 6)
        -1.5
    """
    strata = [stratum for stratum in scenario.strata if category in (None, stratum.category)]
    if not strata:
        raise ValueError(f"scenario {scenario.name!r} has no category {category!r}")
    shares = [stratum.share for stratum in strata]
    biases = [stratum.bias for stratum in strata]
    target = _deserved_rate(scenario, QUALITIES[PLANTED])
    margins = [_margins(scenario, QUALITIES[PLANTED] + bias) for bias in biases]

    def excess(offset: float) -> float:
        rates = [_rate(scenario, values + offset) for values in margins]
        return float(np.average(rates, weights=shares)) - target

    # The root is found here and not by `solve_offset`: an instrument is no witness to itself.
    reach = scenario.scale * (1.0 + 2.0 * max(np.abs(biases)))
    return Truth(
        bias=scenario.scale * float(np.average(biases, weights=shares)),
        offset=float(brentq(excess, -reach, reach, xtol=1e-9 * scenario.scale)),
        signed_mismatch=float(signed_mismatch(excess(0.0) + target, target)),
    )


def run_scenario(
    scenario: Scenario, *, repetitions: int, n_resamples: int = 1000, seed: int = 0
) -> tuple[Recovery, ...]:
    """The audit and the calibration of many samples of a scenario, against the truth.

    Args:
        scenario: How the scores come about.
        repetitions: Number of samples.
        n_resamples: Bootstrap resamples of each audit and calibration.
        seed: Of the samples and their bootstraps.

    Returns:
        One entry per part of the scenario: all prompts first, then each category.

    Raises:
        ValueError: If there are fewer than two repetitions.

    Example:
        >>> (recovery,) = run_scenario(SCENARIOS[1], repetitions=5, n_resamples=50)
        >>> recovery.found, abs(recovery.mean_offset - recovery.truth.offset) < 0.3
        (1.0, True)
    """
    if repetitions < 2:
        raise ValueError(f"need at least two repetitions, got {repetitions}")
    name = crc32(scenario.name.encode())  # scenarios have streams of their own
    streams = (np.random.default_rng([seed, name, number]) for number in range(repetitions))
    found = np.array([_try_sample(scenario, rng=rng, n_resamples=n_resamples) for rng in streams])
    return tuple(
        _summarise(scenario, category, found=found[:, part])
        for part, category in enumerate(scenario.parts)
    )


def _scores_at(scenario: Scenario, prompts: Floats, *, noise: Floats, shift: ArrayLike) -> Floats:
    """Score points at given quantiles of the prompt effect and the noise."""
    drawn = ndtri(noise) if np.isinf(scenario.tail) else stdtrit(scenario.tail, noise)
    values = scenario.prompt_effect * ndtri(prompts) + shift + drawn
    if scenario.grid > 0.0:
        return np.asarray(np.rint(values / scenario.grid) * (scenario.grid * scenario.scale))
    return np.asarray(values * scenario.scale)


@cache
def _population() -> Floats:
    """Quantiles of prompt effect, own noise and the reference's noise, evenly over the cube."""
    return np.asarray(qmc.Sobol(3, rng=0).random_base2(LOG2_POPULATION))


def _margins(scenario: Scenario, shift: float) -> Floats:
    """Margins of a policy of this quality and bias over the population, in score points."""
    prompts, own, other = _population().T
    reference = _scores_at(scenario, prompts, noise=other, shift=QUALITIES[REFERENCE])
    return np.asarray(_scores_at(scenario, prompts, noise=own, shift=shift) - reference)


def _rate(scenario: Scenario, margins: Floats) -> float:
    return float(wins(margins, kind=scenario.win_rate, temperature=scenario.scale).mean())


@cache
def _deserved_rate(scenario: Scenario, quality: float) -> float:
    """Win rate against the reference, in the population, without a bias."""
    return _rate(scenario, _margins(scenario, quality))


def _try_sample(
    scenario: Scenario, *, rng: np.random.Generator, n_resamples: int
) -> list[tuple[float, ...]]:
    """One sample: for each part of it, what `_summarise` takes the means of."""
    sample, elo = plant_scores(scenario, rng=rng), plant_elo(scenario, rng=rng)
    settings: dict[str, Any] = {
        "reference": REFERENCE,
        "win_rate": scenario.win_rate,
        "temperature": scenario.scale,
        "n_resamples": n_resamples,
        "seed": int(rng.integers(2**31)),
    }
    found = []
    for category in scenario.parts:
        scores = sample if category is None else sample.filter(pl.col("category") == category)
        audit = audit_scores(scores, elo, **settings)
        calibration = calibrate_pair(scores, elo, over_valued=PLANTED, **settings)
        truth = true_values(scenario, category)
        found.append(_compare(audit, calibration.offsets[0], truth=truth))
    return found


def _compare(audit: Audit, offset: Offset, *, truth: Truth) -> tuple[float, ...]:
    (planted,) = (entry for entry in audit.policies if entry.policy == PLANTED)
    called = [entry for entry in audit.policies if entry.verdict.endswith("valued")]
    n_true = int(planted.over_valued and truth.bias > 0.0)
    return (
        planted.n_prompts,
        offset.offset,
        offset.offset_low <= truth.offset <= offset.offset_high,
        planted.signed_mismatch,
        planted.mismatch_low <= truth.signed_mismatch <= planted.mismatch_high,
        planted.over_valued,
        (len(called) - n_true) / max(1, len(called)),
    )


def _summarise(scenario: Scenario, category: str | None, *, found: Floats) -> Recovery:
    n_prompts, offset, offset_covered, mismatch, covered, flagged, false = found.mean(axis=0)
    return Recovery(
        scenario=scenario.name,
        category=category,
        n_repetitions=len(found),
        n_prompts=float(n_prompts),
        truth=true_values(scenario, category),
        mean_offset=float(offset),
        offset_spread=float(found[:, 1].std(ddof=1)),
        offset_coverage=float(offset_covered),
        mean_mismatch=float(mismatch),
        mismatch_coverage=float(covered),
        found=float(flagged),
        false_discoveries=float(false),
    )
