"""Style in preference data (Table 6) and in RM-Bench scores (6.3).

Counted is what `charm_rm.data.style_patterns` finds. It describes data; whether people wanted that
style is not in them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from charm_rm.benchmarks.items import SIDES, sides_by_group
from charm_rm.benchmarks.rm_bench import COUNTS, STYLES, stack_items
from charm_rm.core.style import Ratios, mean_ratios, preference_ratios, ratio_changes, style_spreads
from charm_rm.core.uncertainty import Codes
from charm_rm.core.win_rates import Floats
from charm_rm.data.style_patterns import LENGTH, StylePattern, count_patterns, read_patterns
from charm_rm.data.tables import DataError


@dataclass(frozen=True)
class StyleRatio:
    """One row of Table 6.

    Attributes:
        pattern: Its name, or ``"length"``.
        chosen: Chosen responses that contain it; of length the mean, in characters.
        rejected: The same of rejected responses.
        chosen_share: Share of the chosen responses; None for length.
        rejected_share: Share of the rejected responses; None for length.
        ratio: Preference ratio, chosen / rejected; None where no rejected response has it.
        low: Lower end of its 95% interval.
        high: Upper end; None where there is no bound.
    """

    pattern: str
    chosen: float
    rejected: float
    chosen_share: float | None
    rejected_share: float | None
    ratio: float | None
    low: float
    high: float | None


@dataclass(frozen=True)
class RatioChange:
    """What a calibration did to one preference ratio.

    Attributes:
        pattern: Its name, or ``"length"``.
        change: Ratio after / ratio before; None where one of them is not there.
        low: Lower end of its 95% interval.
        high: Upper end; None where there is no bound.
    """

    pattern: str
    change: float | None
    low: float
    high: float | None


@dataclass(frozen=True)
class StyleTable:
    """Table 6 of one set of pairs.

    Attributes:
        n_pairs: Pairs.
        n_prompts: Prompts that they are of.
        rows: One per pattern, then length.
    """

    n_pairs: int
    n_prompts: int
    rows: tuple[StyleRatio, ...]


@dataclass(frozen=True)
class PairStyle:
    """The result of `measure_pairs`.

    Attributes:
        pairs: Table 6 of the pairs as they are.
        before: Table 6 before the calibration, where it is known.
        changes: From before to the pairs as they are, in the order of the rows.
        n_flipped: Pairs that the calibration turned round, where the file says.
    """

    pairs: StyleTable
    before: StyleTable | None
    changes: tuple[RatioChange, ...]
    n_flipped: int | None

    def to_json(self) -> dict[str, Any]:
        """The tables as one document.

        Example:
            >>> PairStyle(StyleTable(0, 0, ()), None, (), None).to_json()["before"]
        """
        return asdict(self)


@dataclass(frozen=True)
class SideSpread:
    """Style spread of the chosen or of the rejected responses (6.3).

    Attributes:
        side: ``"chosen"`` or ``"rejected"``.
        means: Mean z-score by style.
        variance: Variance of these means.
        low: Lower end of its 95% interval; None where a group has a single item.
        high: Upper end.
    """

    side: str
    means: dict[str, float]
    variance: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class StyleSpread:
    """The result of `measure_spread`.

    Attributes:
        reward_model: Whose scores these are.
        n_items: Items by group of RM-Bench.
        sides: Chosen, then rejected responses.
    """

    reward_model: str
    n_items: dict[str, int]
    sides: tuple[SideSpread, ...]

    def to_json(self) -> dict[str, Any]:
        """The spread as one document.

        Example:
            >>> StyleSpread("rm", {"chat": 65}, ()).to_json()["n_items"]
            {'chat': 65}
        """
        return asdict(self)


@dataclass(frozen=True)
class _Counts:
    """Counts of both sides of some pairs, and their prompts."""

    chosen: Floats
    rejected: Floats
    prompts: Codes


def measure_pairs(
    pairs: pl.DataFrame,
    *,
    before: pl.DataFrame | None = None,
    patterns: Sequence[StylePattern] | None = None,
) -> PairStyle:
    """Table 6: how many chosen and rejected responses contain each pattern, and their ratio.

    Args:
        pairs: As `charm_rm.data.preference_texts.read_preference_texts` returns them.
        before: The pairs that the raw scores give; by default those of ``pairs`` whose ``flipped``
            is true are turned back, if all have a value there.
        patterns: By default those of the package.

    Returns:
        The tables.

    Raises:
        DataError: If there is no pair, or all are of one prompt.

    Example:
        >>> rows = {"chosen": ["**a**", "b", "c!"], "rejected": ["a", "**b**", "c"]}
        >>> table = pl.DataFrame(rows | {"prompt_id": ["p", "q", "r"], "flipped": [None] * 3})
        >>> row = measure_pairs(table).pairs.rows[1]
        >>> row.pattern, row.chosen, row.rejected, row.ratio
        ('bold', 1, 1, 1.0)
    """
    wanted = read_patterns() if patterns is None else patterns
    sets = [pairs] if before is None else [pairs, before]
    for one in sets:
        if one["prompt_id"].n_unique() < 2:
            raise DataError(
                f"preference pairs: {len(one)} pairs of {one['prompt_id'].n_unique()} prompts; an "
                "interval needs two prompts or more"
            )
    now, *rest = _count_sides(sets, wanted)
    flipped = pairs["flipped"]
    n_flipped = None if flipped.null_count() else int(flipped.sum())
    if before is None and n_flipped is not None:
        turned = flipped.to_numpy()[:, None]
        chosen = np.where(turned, now.rejected, now.chosen)
        rest = [_Counts(chosen, np.where(turned, now.chosen, now.rejected), now.prompts)]
    names = [pattern.name for pattern in wanted]
    then = rest[0] if rest else None
    return PairStyle(
        pairs=_table(now, names),
        before=_table(then, names) if then else None,
        changes=_changes(then, now, names) if then else (),
        n_flipped=n_flipped,
    )


def measure_spread(scores: pl.DataFrame) -> StyleSpread:
    """Style spread of RM-Bench scores: variance of the mean z-scores of the three styles (6.3).

    Args:
        scores: A score table of RM-Bench items, see `charm_rm.benchmarks.items`; all groups that
            are there enter together.

    Returns:
        The spread of chosen and of rejected responses.

    Raises:
        DataError: If the scores are not of RM-Bench, or a response is missing.
        ValueError: If all scores are equal.

    Example:
        >>> rows = [
        ...     (f"chat/{item}", f"{side}_{style}", 0, float(item % 3 + style * (side == "chosen")))
        ...     for item in range(9)
        ...     for side in ("chosen", "rejected")
        ...     for style in (1, 2, 3)
        ... ]
        >>> names = ["prompt_id", "policy", "sample", "score"]
        >>> table = pl.DataFrame(rows, schema=names, orient="row")
        >>> found = measure_spread(table.with_columns(reward_model=pl.lit("made up")))
        >>> [round(side.variance, 3) for side in found.sides]
        [0.333, 0.0]
    """
    groups = sides_by_group(scores, groups=tuple(COUNTS))
    arrays = {group: stack_items(group, items) for group, items in groups.items()}
    sizes = [len(array) for array in arrays.values()]
    found = style_spreads(
        np.concatenate([*arrays.values()]), groups=np.repeat(np.arange(len(sizes)), sizes)
    )
    return StyleSpread(
        reward_model=str(scores["reward_model"][0]),
        n_items={group: len(array) for group, array in arrays.items()},
        sides=tuple(
            SideSpread(
                side=side,
                means=dict(zip(STYLES, found.means[at].tolist(), strict=True)),
                variance=float(found.value[at]),
                low=_finite(found.low[at]),
                high=_finite(found.high[at]),
            )
            for at, side in enumerate(SIDES)
        ),
    )


def _count_sides(sets: Sequence[pl.DataFrame], patterns: Sequence[StylePattern]) -> list[_Counts]:
    """Counts of several sets of pairs with one numbering of prompts; each text is read once."""
    texts = pl.concat([one[side] for one in sets for side in SIDES]).unique(maintain_order=True)
    ids = pl.concat([one["prompt_id"] for one in sets]).unique(maintain_order=True)
    counts = count_patterns(texts, patterns).to_numpy().astype(np.float64)
    found = []
    for one in sets:
        chosen, rejected = (counts[_places(one[side], texts)] for side in SIDES)
        found.append(_Counts(chosen, rejected, _places(one["prompt_id"], ids)))
    return found


def _places(values: pl.Series, among: pl.Series) -> Codes:
    known = pl.DataFrame({"value": among}).with_row_index("at")
    joined = pl.DataFrame({"value": values}).join(known, on="value", maintain_order="left")
    return joined["at"].cast(pl.Int64).to_numpy()


def _table(counts: _Counts, names: Sequence[str]) -> StyleTable:
    """The rows of Table 6; the first column of the counts is the length."""
    n = len(counts.prompts)
    ours, theirs = counts.chosen[:, 1:] > 0, counts.rejected[:, 1:] > 0
    found = preference_ratios(ours, theirs, prompts=counts.prompts)
    rows = []
    for at, (name, ratio, low, high) in enumerate(_entries(found, names)):
        n_chosen, n_rejected = int(ours[:, at].sum()), int(theirs[:, at].sum())
        shares = {"chosen_share": n_chosen / n, "rejected_share": n_rejected / n}
        rows.append(
            StyleRatio(name, n_chosen, n_rejected, **shares, ratio=ratio, low=low, high=high)
        )
    lengths = counts.chosen[:, :1], counts.rejected[:, :1]
    means = mean_ratios(*lengths, prompts=counts.prompts)
    for name, ratio, low, high in _entries(means, [LENGTH]):
        chosen, rejected = (float(side.mean()) for side in lengths)
        rows.append(StyleRatio(name, chosen, rejected, None, None, ratio=ratio, low=low, high=high))
    return StyleTable(n_pairs=n, n_prompts=len(np.unique(counts.prompts)), rows=tuple(rows))


def _changes(before: _Counts, after: _Counts, names: Sequence[str]) -> tuple[RatioChange, ...]:
    sides = [
        tuple(
            np.column_stack([side[:, 1:] > 0, side[:, :1]])
            for side in (counts.chosen, counts.rejected)
        )
        for counts in (before, after)
    ]
    found = ratio_changes(
        (sides[0][0], sides[0][1]),
        (sides[1][0], sides[1][1]),
        prompts=(before.prompts, after.prompts),
    )
    return tuple(RatioChange(*entry) for entry in _entries(found, [*names, LENGTH]))


def _entries(
    ratios: Ratios, names: Sequence[str]
) -> list[tuple[str, float | None, float, float | None]]:
    rows = zip(names, ratios.value, ratios.low, ratios.high, strict=True)
    return [(name, _finite(value), float(low), _finite(high)) for name, value, low, high in rows]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
