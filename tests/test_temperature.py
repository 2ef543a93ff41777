"""A temperature from labels of the scored responses: joined on the prompt, and told apart."""

import numpy as np
import polars as pl
import pytest
from builders import MINI, SIMPO, make_scores

from charm_rm.core.temperature import fit_temperature
from charm_rm.data.scores import score_matrix
from charm_rm.data.tables import DataError
from charm_rm.temperature import fit_label_temperature, place_labels


def make_labels(scores: pl.DataFrame, *, temperature: float = 2.0, seed: int = 0) -> pl.DataFrame:
    """Votes for the first policy against the second, as likely as the sigmoid of the margin."""
    wide = scores.pivot(on="policy", index=["prompt_id", "sample"], values="score")
    chance = 1 / (1 + np.exp(-(wide[SIMPO] - wide[MINI]).to_numpy() / temperature))
    won = np.random.default_rng(seed).random(len(wide)) < chance
    return wide.select("prompt_id", "sample").with_columns(
        policy_a=pl.lit(SIMPO), policy_b=pl.lit(MINI), outcome=pl.Series(won.astype(float))
    )


def test_the_temperature_that_made_the_labels_lies_in_the_interval() -> None:
    scores = make_scores(600, boost=1.0)
    found = fit_label_temperature(scores, make_labels(scores))
    assert found.high is not None
    assert found.low < 2.0 < found.high
    assert (found.n_labels, found.n_prompts, found.n_unscored) == (600, 600, 0)


def test_rows_in_another_order_and_sides_exchanged_change_nothing() -> None:
    scores = make_scores(200)
    labels = make_labels(scores)
    turned = labels.sample(fraction=1.0, shuffle=True, seed=1).select(
        "prompt_id",
        "sample",
        policy_a="policy_b",
        policy_b="policy_a",
        outcome=1 - pl.col("outcome"),
    )
    one, other = (fit_label_temperature(scores, table) for table in (labels, turned))
    assert other.temperature == pytest.approx(one.temperature)
    assert (other.low, other.high) == pytest.approx((one.low, one.high))


def test_labels_of_responses_without_scores_are_counted_and_left_out() -> None:
    scores = make_scores(100)
    labels = make_labels(scores)
    unknown = labels.with_columns(policy_b=pl.lit("nobody"))
    later = labels.with_columns(sample=pl.lit(7, dtype=pl.Int64))
    found = fit_label_temperature(scores, pl.concat([labels, unknown, later]))
    assert (found.n_labels, found.n_unscored) == (100, 200)
    assert found.temperature == fit_label_temperature(scores, labels).temperature


def test_a_response_that_one_policy_lacks_makes_no_margin() -> None:
    scores = make_scores(100)
    labels = make_labels(scores)
    gone = (pl.col("policy") == SIMPO) & (pl.col("prompt_id") < "p040")
    placed = place_labels(score_matrix(scores.filter(~gone)), labels)
    assert placed.n_unscored == 40
    wide = scores.pivot(on="policy", index="prompt_id", values="score").sort("prompt_id")[40:]
    margins = (wide[SIMPO] - wide[MINI]).to_numpy()
    values = score_matrix(scores.filter(~gone)).values
    assert np.sort(placed.margins(values)) == pytest.approx(np.sort(margins))


def test_two_votes_on_one_pair_count_twice_but_widen_nothing() -> None:
    scores = make_scores(100)
    labels = make_labels(scores)
    one, two = (fit_label_temperature(scores, t) for t in (labels, pl.concat([labels, labels])))
    assert (two.n_labels, two.n_prompts) == (200, 100)
    assert (two.temperature, two.low) == pytest.approx((one.temperature, one.low))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy_b": pl.lit("gpt-4o-mini")}, "of 0 scored prompts.*'gpt-4o-mini' has no scores"),
        ({"prompt_id": pl.lit("zz")}, "no prompt of theirs, such as 'zz', has scores"),
        ({"outcome": 1 - pl.col("outcome")}, "labels: the margins do not point toward the labels"),
    ],
)
def test_labels_that_say_nothing_are_refused(change: dict[str, pl.Expr], message: str) -> None:
    scores = make_scores(100)
    with pytest.raises(DataError, match=message):
        fit_label_temperature(scores, make_labels(scores).with_columns(**change))
    with pytest.raises(DataError, match="of 29 scored prompts; at least 30 are needed"):
        fit_label_temperature(scores, make_labels(scores).head(29))


def test_the_fit_is_the_cores() -> None:
    scores = make_scores(100)
    labels = make_labels(scores)
    placed = place_labels(score_matrix(scores), labels)
    margins = placed.margins(score_matrix(scores).values)
    expected = fit_temperature(margins, outcomes=placed.outcomes)
    assert fit_label_temperature(scores, labels).temperature == expected
