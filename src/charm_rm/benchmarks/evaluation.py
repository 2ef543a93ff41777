"""Every figure of a benchmark that some scores allow, each with its interval."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from charm_rm.benchmarks.figures import (
    Measured,
    Weights,
    figure_interval,
    figure_value,
    known_figures,
    resample_means,
)
from charm_rm.benchmarks.items import GroupOf, Sides, sides_by_group

LISTED = 5  # groups that a warning names


@dataclass(frozen=True)
class Benchmark:
    """What one benchmark is: where it lies, and its arithmetic as two functions.

    Attributes:
        name: In commands and files, such as ``"rm-bench"``.
        title: For people.
        hub: Data set on the hub.
        split: Its split.
        counts: Published number of items of each group.
        shown: Measures that a table for people shows, in their order.
        group_of: Gives the group of a row of the data.
        measure: Scores of a group's items -> what they contribute.
        weigh: Numbers of items by group -> the weights of every figure that they allow, by (part,
            measure); ``"overall"`` is a part if nothing is missing.
    """

    name: str
    title: str
    hub: str
    split: str
    counts: Mapping[str, int]
    shown: tuple[str, ...]
    group_of: GroupOf
    measure: Callable[[str, Mapping[str, Sides]], Measured]
    weigh: Callable[[Mapping[str, int]], dict[tuple[str, str], Weights]]


@dataclass(frozen=True)
class Figure:
    """One figure of a benchmark.

    Attributes:
        part: Group, section, or ``"overall"``.
        measure: Which figure of that part.
        value: A fraction.
        low: Lower end of its 95% interval; None where a group has a single item.
        high: Upper end.
        n_items: Items behind it.
        n_published: Items that the whole benchmark has there.
    """

    part: str
    measure: str
    value: float
    low: float | None
    high: float | None
    n_items: int
    n_published: int


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate_scores`.

    Attributes:
        benchmark: Name of the benchmark.
        reward_model: Whose scores these are.
        figures: In the order of the benchmark; ``"overall"`` only if no group is missing.
        missing: Groups without items.
        n_truncated: Responses that were scored without their end; None where unknown.
        n_resamples: Bootstrap resamples behind the intervals.
        seed: Of the bootstrap.
        warnings: Sentences for the user.
    """

    benchmark: str
    reward_model: str
    figures: tuple[Figure, ...]
    missing: tuple[str, ...]
    n_truncated: int | None
    n_resamples: int
    seed: int
    warnings: tuple[str, ...]

    def figure(self, part: str, measure: str) -> Figure:
        """One figure.

        Raises:
            KeyError: If it is not there.
        """
        for figure in self.figures:
            if (figure.part, figure.measure) == (part, measure):
                return figure
        raise KeyError((part, measure))

    def to_json(self) -> dict[str, Any]:
        """The evaluation as one document."""
        return asdict(self)


def evaluate_scores(
    scores: pl.DataFrame, benchmark: Benchmark, *, n_resamples: int = 10_000, seed: int = 0
) -> Evaluation:
    """Every figure of a benchmark that the scores allow, with a 95% bootstrap interval.

    Args:
        scores: A score table of benchmark items, see `charm_rm.benchmarks.items`.
        benchmark: Which one.
        n_resamples: Bootstrap resamples; items are drawn again within each group.
        seed: Of the bootstrap.

    Returns:
        The figures. A group that is missing leaves out what it belongs to.

    Raises:
        DataError: If the scores are not of this benchmark, or a response is missing.
        ValueError: If there are fewer than two resamples.

    Example:
        >>> from charm_rm.benchmarks.reward_bench import REWARD_BENCH
        >>> rows = [
        ...     (f"llmbar-natural/{item}", place, 0, float(item % 4 > 0) * (place == "chosen_1"))
        ...     for item in range(8)
        ...     for place in ("chosen_1", "rejected_1")
        ... ]
        >>> names = ["prompt_id", "policy", "sample", "score"]
        >>> table = pl.DataFrame(rows, schema=names, orient="row")
        >>> table = table.with_columns(reward_model=pl.lit("made up"))
        >>> evaluate_scores(table, REWARD_BENCH, n_resamples=100).figures[0].value
        0.75
    """
    groups = sides_by_group(scores, groups=tuple(benchmark.counts))
    measured = {group: benchmark.measure(group, items) for group, items in groups.items()}
    counts = {group: len(items) for group, items in groups.items()}
    weights = known_figures(benchmark.weigh(counts), measured)
    means = resample_means(measured, tuple(benchmark.counts), n_resamples=n_resamples, seed=seed)
    figures = []
    for (part, measure), weight in weights.items():
        low, high = figure_interval(weight, measured, means)
        inside = {group for group, _ in weight}
        figures.append(
            Figure(
                part=part,
                measure=measure,
                value=figure_value(weight, measured),
                low=low,
                high=high,
                n_items=sum(counts[group] for group in inside),
                n_published=sum(benchmark.counts[group] for group in inside),
            )
        )
    missing = tuple(group for group in benchmark.counts if group not in groups)
    n_truncated = int(scores["truncated"].sum()) if "truncated" in scores.columns else None
    return Evaluation(
        benchmark=benchmark.name,
        reward_model=str(scores["reward_model"][0]),
        figures=tuple(figures),
        missing=missing,
        n_truncated=n_truncated,
        n_resamples=n_resamples,
        seed=seed,
        warnings=_warnings(benchmark, counts, missing, n_truncated),
    )


def _warnings(
    benchmark: Benchmark,
    counts: Mapping[str, int],
    missing: tuple[str, ...],
    n_truncated: int | None,
) -> tuple[str, ...]:
    found = []
    if missing:
        listed = ", ".join(missing[:LISTED])
        listed += f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        found.append(f"{benchmark.title}: no items of {listed}; so there is no overall figure")
    partial = [
        f"{group} {n} of {benchmark.counts[group]}"
        for group, n in counts.items()
        if n != benchmark.counts[group]
    ]
    if partial:
        found.append(f"{benchmark.title}: not the published items: {', '.join(partial)}")
    if n_truncated:
        found.append(f"{n_truncated} responses were scored without their end; see 'truncated'")
    return tuple(found)
