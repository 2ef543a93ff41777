"""Elo tables from battles, against evalica on real and synthetic votes, and what they warn of."""

from pathlib import Path

import evalica
import numpy as np
import polars as pl
import pytest
from evalica import Winner

from charm_rm.core.elo import elo_standard_error
from charm_rm.data.battles import read_battles
from charm_rm.data.fitted_elo import fit_elo
from charm_rm.data.tables import DataError

WINNERS = {1.0: Winner.X, 0.5: Winner.Draw, 0.0: Winner.Y}


def evalica_elo(battles: pl.DataFrame) -> dict[str, float]:
    """Bradley-Terry ratings of another library, on the same scale."""
    scores = evalica.bradley_terry(
        battles["model_a"].to_list(),
        battles["model_b"].to_list(),
        [WINNERS[outcome] for outcome in battles["outcome"]],
        tolerance=1e-14,
        limit=100_000,
    ).scores
    elo = 400 * np.log10(scores)
    return dict((elo - elo.mean() + 1000).items())


def draw_votes(n_models: int, n_battles: int, *, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, n_models, n_battles)
    b = (a + rng.integers(1, n_models, n_battles)) % n_models
    strength = rng.normal(0, 0.7, n_models)
    draw = rng.random(n_battles) - 1 / (1 + np.exp(strength[b] - strength[a]))
    outcome = np.where(draw < -0.1, 1.0, np.where(draw > 0.1, 0.0, 0.5))
    names = np.array([f"m{number:02d}" for number in range(n_models)])
    return pl.DataFrame({"model_a": names[a], "model_b": names[b], "outcome": outcome})


@pytest.mark.parametrize(
    ("file", "vote_type"),
    [("mt_bench_votes", "human"), ("llmfao_battles", "crowd"), ("mt_bench_votes", "gpt4_pair")],
)
def test_ratings_of_real_votes_agree_with_evalica(shared: Path, file: str, vote_type: str) -> None:
    battles = read_battles([shared / f"data/arena/{file}.parquet"], vote_type=vote_type)
    fitted = fit_elo(battles, board=vote_type)
    theirs = evalica_elo(battles)
    assert fitted.table.models == sorted(theirs, key=lambda model: -theirs[model])
    ours = dict(fitted.table.frame.select("model", "elo").iter_rows())
    assert max(abs(ours[model] - theirs[model]) for model in theirs) < 1e-6
    assert fitted.ridge == 0
    assert fitted.warnings == ()


@pytest.mark.parametrize(("n_models", "n_battles", "seed"), [(3, 60, 0), (20, 3000, 1)])
def test_ratings_of_synthetic_votes_agree_with_evalica(
    n_models: int, n_battles: int, seed: int
) -> None:
    battles = draw_votes(n_models, n_battles, seed=seed)
    theirs = evalica_elo(battles)
    ours = fit_elo(battles, board="synthetic").table.frame.select("model", "elo").iter_rows()
    assert max(abs(elo - theirs[model]) for model, elo in ours) < 1e-6


def test_bootstrap_and_sandwich_intervals_of_real_votes_agree(shared: Path) -> None:
    path = shared / "data/arena/mt_bench_votes.parquet"
    battles = read_battles([path], vote_type="human")
    fits = [fit_elo(battles, board="b", n_resamples=n) for n in (0, 2000)]
    assert [fitted.interval for fitted in fits] == ["sandwich", "bootstrap"]
    errors = [
        elo_standard_error(*fitted.table.frame.select("elo_low", "elo_high").to_numpy().T)
        for fitted in fits
    ]
    assert errors[0] == pytest.approx(errors[1], rel=0.1)


@pytest.mark.parametrize(("anchor", "wider"), [(None, 0.951), ("llama-13b", 1.657)])
def test_the_table_of_real_votes_holds_their_covariance(
    shared: Path, anchor: str | None, wider: float
) -> None:
    path = shared / "data/arena/mt_bench_votes.parquet"
    fitted = fit_elo(read_battles([path], vote_type="human"), board="b", anchor=anchor)
    assert fitted.table.errors == "covariance"
    factor = fitted.table.error_factor(fitted.table.models)
    assert factor @ factor.T == pytest.approx(fitted.covariance, abs=1e-8)
    first, second = fitted.table.error_factor(["gpt-4", "claude-v1"])
    alone = np.hypot(np.linalg.norm(first), np.linalg.norm(second))
    assert alone / np.linalg.norm(first - second) == pytest.approx(wider, abs=0.001)


def test_the_table_knows_its_board_its_date_and_its_battles() -> None:
    battles = draw_votes(3, 60, seed=0).with_columns(date=pl.date(2025, 6, 1))
    fitted = fit_elo(battles, board="mine", source="votes.csv", anchor="m01", origin=1114)
    table = fitted.table
    assert (table.board, table.date, table.frame["source"][0]) == (
        "mine",
        "2025-06-01",
        "votes.csv",
    )
    assert table.frame["votes"].sum() == 120
    assert table.ratings(["m01"])[0].tolist() == [1114, 1114, 1114]
    assert fitted.covariance[table.models.index("m01")].tolist() == pytest.approx([0, 0, 0])
    assert fitted.to_json()["ratings"][0]["model"] == table.models[0]
    assert fitted.to_json()["anchor"] == "m01"


def with_style(battles: pl.DataFrame, *, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    columns = {
        f"{name}_{side}": rng.poisson(5, len(battles))
        for name in ("length", "headers", "lists")
        for side in "ab"
    }
    return battles.with_columns(
        **{name: pl.Series(values) for name, values in columns.items()},
        bold_a=pl.lit(0),
        bold_b=pl.lit(0),
    )


def test_style_control_reports_its_effects_and_leaves_out_what_never_differs() -> None:
    fitted = fit_elo(with_style(draw_votes(4, 500, seed=2)), board="b", style_control=True)
    assert list(fitted.style) == ["length", "headers", "lists"]
    assert all(abs(effect) < 4 * error for effect, error in fitted.style.values())
    assert fitted.warnings == ("style feature 'bold' never differs; it was left out",)
    plain = fit_elo(draw_votes(4, 500, seed=2), board="b")
    assert plain.style == {}
    assert plain.table.frame["elo"][0] == pytest.approx(fitted.table.frame["elo"][0], abs=30)


def test_models_that_never_met_are_named() -> None:
    rows = {"model_a": ["a", "b", "d"], "model_b": ["b", "c", "e"], "outcome": [1.0, 0.5, 0.0]}
    with pytest.raises(DataError, match=r"2 groups of models never met.*: a, b, c \| d, e; rate"):
        fit_elo(pl.DataFrame(rows), board="b")


def test_separable_votes_are_finite_and_said_to_be() -> None:
    won = pl.DataFrame({"model_a": ["best"] * 5, "model_b": ["m00"] * 5, "outcome": [1.0] * 5})
    fitted = fit_elo(pl.concat([draw_votes(3, 60, seed=0), won]), board="b", n_resamples=100)
    assert fitted.table.models[0] == "best"
    assert fitted.interval == "posterior"
    assert fitted.n_resamples == 0
    assert fitted.table.frame["elo"].is_finite().all()
    low, high = fitted.table.frame["elo_low"][0], fitted.table.frame["elo_high"][0]
    assert high - low > 1000
    assert "best: never took or never lost a point" in fitted.warnings[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"anchor": "m3"}, "no anchor 'm3'; there are: m00"),
        ({"style_control": True}, "no column 'length_a'"),
    ],
)
def test_a_fit_that_cannot_be_made_is_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_elo(draw_votes(3, 60, seed=0), board="b", **changes)  # type: ignore[arg-type]


def test_style_that_never_differs_or_repeats_itself_is_refused() -> None:
    battles = with_style(draw_votes(3, 60, seed=0))
    flat = battles.with_columns(
        pl.lit(1).alias(f"{name}_{side}")
        for name in ("length", "headers", "lists")
        for side in "ab"
    )
    with pytest.raises(DataError, match="no style feature ever differs"):
        fit_elo(flat, board="b", style_control=True)
    twice = battles.with_columns(headers_a="length_a", headers_b="length_b")
    with pytest.raises(DataError, match="depend on each other"):
        fit_elo(twice, board="b", style_control=True)


def test_no_battles_are_refused() -> None:
    with pytest.raises(DataError, match="no battles to rate"):
        fit_elo(draw_votes(3, 60, seed=0).clear(), board="b")
