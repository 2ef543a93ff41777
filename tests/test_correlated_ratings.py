"""Ratings that err together: what every interval makes of them, and how often it then covers."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from builders import POLICIES, SIMPO, Run, make_scores
from scipy.special import logit

from charm_rm.audit import audit_scores
from charm_rm.benchmarks.battles import fight_battles
from charm_rm.calibrate import calibrate_pair
from charm_rm.calibrate_many import calibrate_categories, calibrate_jointly
from charm_rm.compare import audit_categories, compare_elo
from charm_rm.core.elo import NORMAL_95, covariance_factor, expected_win_rate
from charm_rm.core.win_rates import Floats, WinRateKind
from charm_rm.cross_validate import cross_validate
from charm_rm.data.arena import EloTable, elo_table
from charm_rm.data.fitted_elo import fit_elo

REFERENCE = POLICIES[2]
ELO = np.array([1216.0, 1273.0, 1163.0, 1008.0])
NUMBER = pl.col("prompt_id").str.slice(1).cast(pl.Int64)
SCORES = make_scores(240, boost=1.0).with_columns(category=(NUMBER % 2).cast(pl.String))


def rate(covariance: Floats, *, keep: bool) -> EloTable:
    """The ratings with their intervals, and with their covariance if it is to be kept."""
    half = NORMAL_95 * np.sqrt(np.diag(covariance))
    table = pl.DataFrame(
        {"model": POLICIES, "elo": ELO, "elo_low": ELO - half, "elo_high": ELO + half}
    )
    errors = covariance_factor(covariance).T if keep else ()
    columns = {f"elo_error_{at}": pl.Series(column) for at, column in enumerate(errors)}
    return elo_table(table.with_columns(**columns), name="ratings")


def audit_widths(elo: EloTable, kind: WinRateKind) -> list[float]:
    audit = audit_scores(SCORES, elo, reference=REFERENCE, win_rate=kind)
    entries = [entry for entry in audit.policies if entry.policy != REFERENCE]
    return [entry.mismatch_high - entry.mismatch_low for entry in entries]


def category_audit_widths(elo: EloTable, kind: WinRateKind) -> list[float]:
    audits = audit_categories(SCORES, elo, reference=REFERENCE, win_rate=kind).audits
    entries = [entry for audit in audits.values() for entry in audit.policies]
    return [e.mismatch_high - e.mismatch_low for e in entries if e.policy != REFERENCE]


def pair_widths(elo: EloTable, kind: WinRateKind) -> list[float]:
    found = calibrate_pair(SCORES, elo, over_valued=SIMPO, reference=REFERENCE, win_rate=kind)
    return [
        end
        for entry in found.offsets
        for end in (
            entry.offset_high - entry.offset_low,
            entry.mismatch_before_high - entry.mismatch_before_low,
        )
    ]


def category_widths(elo: EloTable, kind: WinRateKind) -> list[float]:
    found = calibrate_categories(SCORES, elo, over_valued=SIMPO, reference=REFERENCE, win_rate=kind)
    return [entry.offset_high - entry.offset_low for entry in found.offsets]


def joint_widths(elo: EloTable, kind: WinRateKind) -> list[float]:
    found = calibrate_jointly(SCORES, elo, reference=REFERENCE, win_rate=kind)
    return [entry.offset_high - entry.offset_low for entry in found.offsets]


def battle_widths(elo: EloTable, kind: WinRateKind) -> list[float]:
    cured = SCORES.with_columns(pl.col("score") - (pl.col("policy") == SIMPO))
    settings = {"opponents": [REFERENCE], "after": cured, "win_rate": kind}
    field = fight_battles(SCORES, elo, **settings).battlefields[0]  # type: ignore[arg-type]
    sides = [side for battle in field.battles for side in (battle.before, battle.after)]
    change = field.summaries["all"]
    assert change.change_low is not None
    assert change.change_high is not None
    widths = [side.mismatch_high - side.mismatch_low for side in sides if side is not None]
    return [change.change_high - change.change_low, *widths]


def compare_widths(elo: EloTable, kind: WinRateKind) -> list[float]:
    found = compare_elo(SCORES, (elo, elo), reference=REFERENCE, win_rate=kind).policies
    widths = [np.subtract(e.mismatch_high, e.mismatch_low) for e in found]
    return [*np.ravel(widths), *(np.subtract(e.offset_high, e.offset_low)[0] for e in found)]


def held_out_widths(elo: EloTable, kind: WinRateKind) -> list[float]:
    rows = cross_validate(SCORES, elo, over_valued=SIMPO, reference=REFERENCE).rows
    return [row.mismatch_high - row.mismatch_low for row in rows if row.win_rate == kind]


EVERY = (
    *(audit_widths, category_audit_widths, pair_widths, category_widths),
    *(joint_widths, battle_widths, compare_widths, held_out_widths),
)


@pytest.mark.parametrize("kind", ["sigmoid", "hard"])
@pytest.mark.parametrize("widths", EVERY)
def test_what_all_ratings_err_by_together_widens_no_interval(
    widths: Callable[[EloTable, WinRateKind], list[float]], kind: WinRateKind
) -> None:
    together = np.full((4, 4), 60.0**2)
    exact, joined, independent = (
        np.array(widths(rate(covariance, keep=keep), kind))
        for covariance, keep in ((0 * together, False), (together, True), (together, False))
    )
    assert joined == pytest.approx(exact, rel=0.15)  # of the bootstrap's chance; else equal
    assert np.all(independent > 1.3 * exact)


def draw_votes(strengths: Floats, n_votes: int, *, rng: np.random.Generator) -> pl.DataFrame:
    """Votes between neighbours only, so that ratings far from the anchor err together."""
    first = rng.integers(0, len(strengths) - 1, n_votes)
    won = rng.random(n_votes) < expected_win_rate(strengths[first], strengths[first + 1])
    names = np.array(POLICIES)
    return pl.DataFrame(
        {"model_a": names[first], "model_b": names[first + 1], "outcome": won.astype(float)}
    )


def test_offsets_from_fitted_ratings_cover_by_their_covariance_alone() -> None:
    # Every prompt has the same margin: nothing is uncertain but the ratings.
    rows = [
        (f"p{prompt}", name, 0, 1.0 * (name == "vicuna-7b"), "rm", "all")
        for prompt in range(120)
        for name in ("vicuna-7b", REFERENCE)
    ]
    names = ["prompt_id", "policy", "sample", "score", "reward_model", "category"]
    scores = pl.DataFrame(rows, schema=names, orient="row")
    truth = float(logit(expected_win_rate(ELO[3], ELO[2]))) - 1.0
    rng, held = np.random.default_rng(0), []
    for _ in range(400):
        fitted = fit_elo(draw_votes(ELO, 600, rng=rng), board="votes", anchor=SIMPO).table
        plain = fitted.frame.drop(pl.selectors.starts_with("elo_error_"))
        for elo in (fitted, elo_table(plain, name="plain")):
            (entry,) = calibrate_categories(
                scores, elo, over_valued="vicuna-7b", reference=REFERENCE
            ).offsets
            held.append(entry.offset_low <= truth <= entry.offset_high)
    assert 0.92 <= np.mean(held[::2]) <= 0.98
    assert np.mean(held[1::2]) > 0.985  # as if independent: too wide


def test_the_command_line_says_what_it_took_the_errors_for(run_charm: Run) -> None:
    rng = np.random.default_rng(0)
    draw_votes(ELO, 600, rng=rng).with_columns(
        winner=pl.when(pl.col("outcome") == 1).then(pl.lit("model_a")).otherwise(pl.lit("model_b"))
    ).write_csv("votes.csv")
    assert run_charm("elo", "votes.csv", "--out", "elo.csv").status == 0
    table = pl.read_csv("elo.csv")
    table.drop(pl.selectors.starts_with("elo_error_")).write_csv("plain.csv")
    table.select("model", "elo").write_csv("exact.csv")
    said = {
        "elo.csv": "from their covariance.",
        "plain.csv": "as if these were independent.",
        "exact.csv": "Ratings are taken as exact",
    }
    pair = ("--over-valued", SIMPO, "--reference", REFERENCE)
    for name, words in said.items():
        elo = ("scores.parquet", "--elo", name)
        assert words in run_charm("audit", *elo).out
        assert words in run_charm("audit", *elo, "--by", "category").out
        assert words in run_charm("audit", *elo, "--elo", "elo.csv").out
        offsets = ("--out", "o.json", "--force")
        assert words in run_charm("calibrate", *elo, *pair, *offsets).err
        assert words in run_charm("calibrate", *elo, *pair, "--cross-validate", "2").out
        assert (
            words
            in run_charm(
                "calibrate", *elo, *pair, "--method", "z-score", "--out", "s.csv", "--force"
            ).err
        )
        assert words in run_charm("evaluate", "battles", *elo, "--opponent", REFERENCE).out
        kind = json.loads(run_charm("audit", *elo, "--json").out)["elo"]["errors"]
        assert kind == json.loads(Path("o.json").read_text())["elo"]["errors"]
        assert kind == {"elo": "covariance", "plain": "independent", "exact": "none"}[name[:-4]]
