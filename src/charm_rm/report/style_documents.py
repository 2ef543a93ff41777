"""What a page reads of the documents of ``charm style``: tables of patterns, spread, margins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PatternRatio:
    """One pattern: chosen and rejected responses that contain it, and their ratio (Table 6).

    Attributes:
        pattern: Its name, or ``"length"``.
        chosen: Chosen responses that contain it; of length the mean, in characters.
        rejected: The same of rejected responses.
        chosen_share: Share of the chosen responses; None for length.
        ratio: Chosen / rejected; None where no rejected response has it.
        low: Lower end of its 95% interval.
        high: Upper end; None where there is no bound.
    """

    pattern: str
    chosen: float
    rejected: float
    chosen_share: float | None
    ratio: float | None
    low: float
    high: float | None


@dataclass(frozen=True)
class PatternChange:
    """Ratio after a calibration over the ratio before it, with its 95% interval."""

    pattern: str
    change: float | None
    low: float
    high: float | None


@dataclass(frozen=True)
class PatternTable:
    """All patterns of one set of pairs."""

    n_pairs: int
    n_prompts: int
    rows: tuple[PatternRatio, ...]


@dataclass(frozen=True)
class StyleOfPairs:
    """Table 6 of pairs as they are and, where known, before the calibration."""

    pairs: PatternTable
    before: PatternTable | None
    changes: tuple[PatternChange, ...]


@dataclass(frozen=True)
class SideSpread:
    """Mean z-score by style of the chosen or the rejected responses, and their variance (6.3)."""

    side: str
    means: Mapping[str, float]
    variance: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class StyleSpread:
    """The style spread of one reward model on RM-Bench."""

    reward_model: str
    n_items: Mapping[str, int]
    sides: tuple[SideSpread, ...]


@dataclass(frozen=True)
class Estimate:
    """A value in score points with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class MarginPart:
    """The part of a mean margin that goes with one pattern, in score points, with its interval."""

    pattern: str
    part: float
    low: float
    high: float


@dataclass(frozen=True)
class MarginOfPolicy:
    """The mean margin of one policy against the reference, explained by patterns.

    Attributes:
        policy: Its name.
        n_prompts: Prompts that both answered.
        mean_margin: The sum of all parts and the rest.
        explained: Sum of the parts.
        rest: What the patterns do not explain.
        r_squared: Share of the variance of the margins that they explain.
        parts: By pattern.
    """

    policy: str
    n_prompts: int
    mean_margin: Estimate
    explained: Estimate
    rest: Estimate
    r_squared: float
    parts: tuple[MarginPart, ...]


@dataclass(frozen=True)
class StyleOfMargins:
    """What the margins of policies against one reference are made of."""

    reward_model: str
    reference: str
    policies: tuple[MarginOfPolicy, ...]


StyleDocument = StyleOfPairs | StyleSpread | StyleOfMargins
