"""Audits side by side: by category, and by two Elo tables."""

import numpy as np
import polars as pl
import pytest
from builders import MINI, POLICIES, SIMPO, make_scores

from charm_rm.audit import audit_scores
from charm_rm.compare import MERGED, audit_categories, compare_elo
from charm_rm.data.arena import read_elo
from charm_rm.data.tables import DataError

ELO = read_elo("table7")
NUMBER = pl.col("prompt_id").str.slice(1).cast(pl.Int64)


def test_each_category_is_audited_by_its_own_prompts() -> None:
    scores = make_scores(90).with_columns(category=(NUMBER % 2).cast(pl.String))
    found = audit_categories(scores, ELO, reference=MINI, n_resamples=50)
    assert list(found.audits) == ["0", "1"]
    for name, audit in found.audits.items():
        part = scores.filter(pl.col("category") == name)
        assert audit == audit_scores(part, ELO, reference=MINI, n_resamples=50)


def test_small_categories_are_audited_together_or_left_out() -> None:
    names = pl.when(NUMBER < 60).then(pl.lit("large")).otherwise((NUMBER % 4).cast(pl.String))
    together = make_scores(120).with_columns(category=names)
    found = audit_categories(together, ELO, reference=MINI, n_resamples=10)
    assert list(found.audits) == ["large", MERGED]
    assert found.merged == ("0", "1", "2", "3")
    few = audit_categories(together.filter(NUMBER < 70), ELO, reference=MINI, n_resamples=10)
    assert (list(few.audits), few.left_out) == (["large"], ("0", "1", "2", "3"))
    with pytest.raises(DataError, match="share 20 prompts"):
        audit_categories(together.filter(NUMBER < 20), ELO, reference=MINI)


def test_a_category_counts_by_the_prompts_that_are_shared() -> None:
    """Both have 40 prompts of "odd", 10 of them in common: too few for an audit by itself."""
    names = pl.when(NUMBER < 60).then(pl.lit("large")).otherwise(pl.lit("odd"))
    scores = make_scores(130, policies=(SIMPO, MINI)).with_columns(category=names)
    own = pl.when(pl.col("policy") == MINI).then(NUMBER >= 90).otherwise(NUMBER < 100)
    found = audit_categories(
        scores.filter((NUMBER < 60) | own), ELO, reference=MINI, n_resamples=10
    )
    assert (list(found.audits), found.left_out) == (["large"], ("odd",))


def test_a_category_is_not_lost_under_the_name_of_merged_ones() -> None:
    scores = make_scores(60).with_columns(category=pl.lit(MERGED))
    with pytest.raises(DataError, match="is the name of small categories"):
        audit_categories(scores, ELO)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (make_scores(), "no column 'category'"),
        (make_scores().with_columns(category=pl.lit(None, dtype=pl.String)), "has no category"),
    ],
)
def test_prompts_without_a_category_are_refused(scores: pl.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        audit_categories(scores, ELO)


@pytest.mark.parametrize("kind", ["sigmoid", "hard"])
def test_table_9_moves_the_target_and_with_it_mismatch_and_offset(kind: str) -> None:
    scores = make_scores(200, policies=(SIMPO, MINI), boost=0.5)
    old, new = read_elo("table9-old"), read_elo("table9-updated")
    (change,) = compare_elo(scores, (old, new), reference=MINI, win_rate=kind).policies  # type: ignore[arg-type]
    assert change.expected == pytest.approx((0.4187, 0.4455), abs=5e-5)
    assert change.signed_mismatch[0] > change.signed_mismatch[1] > 0
    assert change.offset[0] < change.offset[1] < 0
    assert change.n_changed == pytest.approx(200 * (0.4455 - 0.4187), abs=5)


def test_changed_sides_are_counted_by_prompt_however_many_samples_it_has() -> None:
    once = make_scores(40, policies=(SIMPO, MINI), boost=0.5)
    samples = pl.concat([once.with_columns(sample=pl.lit(at, pl.Int64)) for at in range(5)])
    tables = (read_elo("table9-old"), read_elo("table9-updated"))
    one, five = (compare_elo(table, tables, reference=MINI) for table in (once, samples))
    assert one.policies[0].n_changed == five.policies[0].n_changed > 0


def test_a_table_beside_itself_changes_nothing() -> None:
    changes = compare_elo(make_scores(), (ELO, ELO), reference=MINI)
    assert {entry.policy for entry in changes.policies} == set(POLICIES) - {MINI}
    for entry in changes.policies:
        assert np.subtract(*entry.offset) == 0
        assert entry.n_changed == 0


def test_a_policy_that_one_table_lacks_is_named() -> None:
    with pytest.raises(DataError, match="table9-old: no Elo rating for 'gpt4_0613'"):
        compare_elo(make_scores(), (ELO, read_elo("table9-old")), reference=MINI)
    with pytest.raises(DataError, match="no reference 'gpt'"):
        compare_elo(make_scores(), (ELO, ELO), reference="gpt")
