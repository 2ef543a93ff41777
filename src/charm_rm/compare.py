"""Audits side by side: over categories of prompts, and over two Elo tables.

Ratings of two tables are never mixed: each audit is made with one of them, and the results are
set beside each other.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypedDict, Unpack

import numpy as np
import polars as pl

from charm_rm.audit import Audit, audit_scores
from charm_rm.calibrate import PairedMargins, describe_offset, pair_policies
from charm_rm.core.offsets import reach_win_rate
from charm_rm.core.significance import student_interval
from charm_rm.core.uncertainty import offset_standard_error
from charm_rm.core.win_rates import WinRateKind, hard_wins
from charm_rm.data.arena import EloTable, require_ratings
from charm_rm.data.offsets import Offset
from charm_rm.data.scores import MIN_PROMPTS, prompt_categories
from charm_rm.data.tables import DataError, not_found

MERGED = "(merged)"  # the categories that have too few prompts by themselves


class AuditSettings(TypedDict, total=False):
    """The settings of `audit_scores`, where they are passed on as they are."""

    win_rate: WinRateKind
    temperature: float
    n_resamples: int
    seed: int


@dataclass(frozen=True)
class CategoryAudits:
    """One audit per category of prompts (Table 4).

    Attributes:
        audits: By category; small ones together under ``"(merged)"``.
        merged: Names of the small categories.
        left_out: Names of small categories that are too few even together.
    """

    audits: Mapping[str, Audit]
    merged: tuple[str, ...]
    left_out: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The audits as one document, by category.

        Example:
            >>> CategoryAudits({}, ("rare",), ()).to_json()
            {'categories': {}, 'merged': ['rare'], 'left_out': []}
        """
        return {
            "categories": {name: audit.to_json() for name, audit in self.audits.items()},
            "merged": list(self.merged),
            "left_out": list(self.left_out),
        }


@dataclass(frozen=True)
class EloChange:
    """What another Elo table changes for one policy against the reference.

    Attributes:
        policy: Its name.
        n_prompts: Prompts that it shares with the reference.
        win_rate: Of the chosen kind; no rating enters it.
        expected: Expected win rate by each table.
        signed_mismatch: Eq. 5 by each table.
        mismatch_low: Lower end of its 95% interval by each table, delta method.
        mismatch_high: Upper end.
        offset: Score points that each table asks for (Eq. 4).
        offset_low: Lower end of its 95% interval by each table, delta method.
        offset_high: Upper end.
        n_changed: Prompts on which the calibrated chosen side, of any sample, differs between the
            two.
    """

    policy: str
    n_prompts: int
    win_rate: float
    expected: tuple[float, float]
    signed_mismatch: tuple[float, float]
    mismatch_low: tuple[float, float]
    mismatch_high: tuple[float, float]
    offset: tuple[float, float]
    offset_low: tuple[float, float]
    offset_high: tuple[float, float]
    n_changed: int


@dataclass(frozen=True)
class EloChanges:
    """The result of `compare_elo`.

    Attributes:
        reference: The opponent of all.
        tables: Name, board and date of both tables, and how their ratings' errors were taken.
        win_rate_kind: Which win rate.
        policies: One entry per policy but the reference, by the change of its mismatch.
    """

    reference: str
    tables: tuple[Mapping[str, str], Mapping[str, str]]
    win_rate_kind: WinRateKind
    policies: tuple[EloChange, ...]

    def to_json(self) -> dict[str, Any]:
        """The comparison as one document.

        Example:
            >>> EloChanges("b", ({"name": "old"}, {"name": "new"}), "hard", ()).to_json()["tables"]
            ({'name': 'old'}, {'name': 'new'})
        """
        return asdict(self)


def audit_categories(
    scores: pl.DataFrame,
    elo: EloTable,
    *,
    reference: str | None = None,
    **settings: Unpack[AuditSettings],
) -> CategoryAudits:
    """An audit of each category of prompts, against the same Elo (6.2, Table 4).

    Args:
        scores: As `charm_rm.data.scores.read_scores` returns them, with a ``category``.
        elo: Ratings that hold every policy in the scores.
        reference: The trusted opponent; by default the policy with the highest Elo.
        **settings: The others of `audit_scores`, for all audits.

    Returns:
        The audits. Categories in which some policy shares fewer than 30 prompts with the
        reference are merged.

    Raises:
        DataError: If there is no category, a prompt has none, or an audit is not possible.
        ValueError: If a setting is invalid.

    Example:
        >>> from charm_rm.data.arena import read_elo
        >>> rows = [
        ...     (str(i), policy, 0, float(i % 5), "rm", "ab"[i % 2])
        ...     for i in range(80)
        ...     for policy in ("vicuna-7b", "gpt4_0613")
        ... ]
        >>> names = ["prompt_id", "policy", "sample", "score", "reward_model", "category"]
        >>> found = audit_categories(
        ...     pl.DataFrame(rows, schema=names, orient="row"), read_elo("table7"), n_resamples=10
        ... )
        >>> list(found.audits)
        ['a', 'b']
    """
    prompt_categories(scores)
    chosen = audit_scores(scores, elo, reference=reference, n_resamples=2).reference
    parts = scores.sort("category", maintain_order=True).partition_by("category")
    groups = {part["category"][0]: part for part in parts}
    if MERGED in groups:
        raise DataError(f"scores: {MERGED!r} is the name of small categories; rename yours")
    n_policies = scores["policy"].n_unique()
    shared = {
        name: _least_shared(part, chosen, n_policies=n_policies) for name, part in groups.items()
    }
    small = tuple(name for name, n in shared.items() if n < MIN_PROMPTS)
    rest = scores.filter(pl.col("category").is_in(small))
    mergeable = _least_shared(rest, chosen, n_policies=n_policies) >= MIN_PROMPTS
    groups = {name: part for name, part in groups.items() if name not in small}
    if mergeable:
        groups[MERGED] = rest
    audits = {
        name: audit_scores(part, elo, reference=chosen, **settings) for name, part in groups.items()
    }
    kept, dropped = (small, ()) if mergeable else ((), small)
    return CategoryAudits(audits=audits, merged=kept, left_out=dropped)


def _least_shared(scores: pl.DataFrame, reference: str, *, n_policies: int) -> int:
    """Prompts shared with the reference by the policy that shares the fewest of them."""
    key = ["prompt_id", "sample"]
    met = scores.filter(pl.col("policy") == reference).select(key)
    shared = scores.join(met, on=key, how="semi").group_by("policy")
    counts = shared.agg(pl.col("prompt_id").n_unique())["prompt_id"].to_list()
    return min(counts) if len(counts) == n_policies else 0


def compare_elo(
    scores: pl.DataFrame,
    tables: tuple[EloTable, EloTable],
    *,
    reference: str,
    win_rate: WinRateKind = "sigmoid",
    temperature: float = 1.0,
) -> EloChanges:
    """What a later snapshot, or another board, changes: targets, mismatches, offsets (A.4).

    Args:
        scores: As `charm_rm.data.scores.read_scores` returns them.
        tables: Two Elo tables, each of which holds every policy in the scores.
        reference: The trusted opponent.
        win_rate: ``"sigmoid"`` or ``"hard"``.
        temperature: Score points per unit of log-odds.

    Returns:
        The changes, the largest change of a mismatch first.

    Raises:
        DataError: If a policy has no rating in one of the tables, the reference is unknown, or a
            policy shares fewer than 30 prompts with it.
        ValueError: If a setting is invalid.

    Example:
        >>> from charm_rm.data.arena import read_elo
        >>> pair = ("gemma-2-9b-it-SimPO", "gpt-4o-mini-2024-07-18")
        >>> rows = [(str(i), policy, 0, float(i % 5), "rm") for i in range(40) for policy in pair]
        >>> names = ["prompt_id", "policy", "sample", "score", "reward_model"]
        >>> changes = compare_elo(
        ...     pl.DataFrame(rows, schema=names, orient="row"),
        ...     (read_elo("table9-old"), read_elo("table9-updated")),
        ...     reference=pair[1],
        ... )
        >>> [round(x, 4) for x in changes.policies[0].expected]  # the two rows of Table 9
        [0.4187, 0.4455]
    """
    policies = sorted(set(scores["policy"]))
    for table in tables:
        require_ratings(table, policies)
    if reference not in policies:
        raise not_found("reference", reference, names=policies, where="scores")
    found = []
    for policy in policies:
        if policy == reference:
            continue
        pairs = [
            pair_policies(scores, table, over_valued=policy, reference=reference)
            for table in tables
        ]
        found.append(_describe_change(pairs, kind=win_rate, temperature=temperature))
    found.sort(key=lambda entry: -abs(np.subtract(*entry.signed_mismatch)))
    names = [{"name": table.name, **table.to_json()} for table in tables]
    return EloChanges(
        reference=reference,
        tables=(names[0], names[1]),
        win_rate_kind=win_rate,
        policies=tuple(found),
    )


def _describe_change(
    pairs: list[PairedMargins], *, kind: WinRateKind, temperature: float
) -> EloChange:
    """The same margins by the ratings of two tables."""
    first, second = (_describe(pair, kind=kind, temperature=temperature) for pair in pairs)
    margins = pairs[0].margins
    sides = [hard_wins(margins + entry.offset) for entry in (first, second)]
    return EloChange(
        policy=first.policy,
        n_prompts=first.n_prompts,
        win_rate=first.hard_win_rate_before if kind == "hard" else first.win_rate_before,
        expected=(first.expected_win_rate, second.expected_win_rate),
        signed_mismatch=(first.mismatch_before, second.mismatch_before),
        mismatch_low=(first.mismatch_before_low, second.mismatch_before_low),
        mismatch_high=(first.mismatch_before_high, second.mismatch_before_high),
        offset=(first.offset, second.offset),
        offset_low=(first.offset_low, second.offset_low),
        offset_high=(first.offset_high, second.offset_high),
        n_changed=len(np.unique(pairs[0].prompts[sides[0] != sides[1]])),
    )


def _describe(pair: PairedMargins, *, kind: WinRateKind, temperature: float) -> Offset:
    """The offset that one table asks for, with its interval by the delta method."""
    settings: dict[str, Any] = {"kind": kind, "temperature": temperature}
    offset = reach_win_rate(pair.margins, pair.target, **settings)
    error = offset_standard_error(
        pair.margins, pair.target, target_error=pair.target_error, prompts=pair.prompts, **settings
    )
    low, high = student_interval(offset, standard_error=error, n_prompts=pair.n_prompts)
    ends = float(low), float(high)
    return describe_offset(pair, offset=offset, ends=ends, category=None, **settings)
