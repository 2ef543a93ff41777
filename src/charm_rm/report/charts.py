"""The paper's Figures 1 and 2 for one's own models, and the mismatch of every policy.

A chart draws the rows that it is given and computes none; the regression line is Vega-Lite's.
Names are placed for one width of the plot, so every chart function takes a width.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from charm_rm.report.labels import text_width
from charm_rm.report.layers import (
    NARROW,
    SHOWN,
    Plane,
    Point,
    Row,
    axis_ends,
    chart_of,
    finish,
    legend,
    lit,
    names,
    points,
    segments,
    verdicts,
    written,
)
from charm_rm.report.rows import FIRST, ONLY_THEN, THEN
from charm_rm.report.theme import AFTER, FONT_SIZE, LONGEST_NAME, MARKS, REFERENCE

WIDE = 740  # plot width on a desk and on paper, in pixels


def elo_scatter(
    rows: Sequence[Row],
    *,
    title: str,
    subtitle: str,
    tooltip: list[alt.Tooltip],
    width: int = WIDE,
) -> alt.LayerChart:
    """Mean score against Elo (the paper's Figure 1), with the name of every policy.

    A horizontal line through a point is the interval of its rating; the long line is the
    least-squares fit. A file shows the scores before calibration.

    Args:
        rows: Of `charm_rm.report.rows.audit_rows`.
        title: Of the chart.
        subtitle: Its correlation and sample size.
        tooltip: What is told of a point.
        width: Width of the plot in pixels.

    Example:
        >>> row = {"elo": 1216.0, "elo_low": None, "elo_high": None, "mean_score": 0.8}
        >>> row |= {"policy": "gemma", "verdict": "over-valued", "shown": "both", "named": True}
        >>> other = row | {"elo": 1273.0, "mean_score": 0.7, "policy": "gpt-4o-mini"}
        >>> elo_scatter([row, other], title="Elo", subtitle="n = 2", tooltip=[]).title.text
        'Elo'
    """
    stages = {THEN: ONLY_THEN}
    rows = [row | {"shown": stages.get(row["shown"], row["shown"])} for row in rows]
    rated = [r for r in rows if r["elo_low"] is not None and r["elo_high"] is not None]
    plane = Plane(
        "elo",
        axis_ends([r[e] for r in rows for e in ("elo", "elo_low", "elo_high")], room=(0.06, 0.14)),
        "mean_score",
        axis_ends([r["mean_score"] for r in rows], room=(0.08, 0.08)),
        (width, round(width * (0.62 if width >= NARROW else 1.5))),
    )
    titles = ("Arena rating (Elo points)", "Mean score (score points)")
    base = chart_of(rows).transform_filter(SHOWN)
    base = base.encode(*plane.axes(titles=titles, formats=("d", "")))
    spans = [((r["elo_low"], r["mean_score"]), (r["elo_high"], r["mean_score"])) for r in rated]
    return finish(
        [
            base.mark_line(style="faint", aria=False).transform_regression("elo", "mean_score"),
            segments(rated, spans, plane=plane),
            points(base, rows, width=width, tooltip=tooltip),
            *names_by_stage(rows, plane, clear_of=spans),
        ],
        size=plane.size,
        title=title,
        subtitle=subtitle,
    )


def names_by_stage(
    rows: Sequence[Row], plane: Plane, *, clear_of: Sequence[tuple[Point, Point]]
) -> list[alt.Chart]:
    """Names placed for where a file starts, and again for the stage after, where points moved.

    Example:
        >>> row = {"policy": "gpt-4o", "verdict": "reference", "named": True, "x": 0.5, "y": 0.5}
        >>> unit = Plane("x", (0.0, 1.0), "y", (0.0, 1.0), (200, 100))
        >>> stay = row | {"shown": "both before after"}
        >>> len(names_by_stage([stay], unit, clear_of=[]))
        3
        >>> len(
        ...     names_by_stage(
        ...         [row | {"shown": s} for s in ("both before", "after")], unit, clear_of=[]
        ...     )
        ... )
        6
    """
    lines = list(clear_of)
    moved = any(row["shown"] in (THEN, ONLY_THEN) for row in rows)
    if not moved:
        return names(rows, plane, clear_of=lines)
    start = [r | {"named": "before" in r["shown"], "shown": FIRST} for r in rows]
    start = [r for r, row in zip(start, rows, strict=True) if "both" in row["shown"]]
    then = [r | {"shown": ONLY_THEN} for r in rows if "after" in r["shown"]]
    return [*names(start, plane, clear_of=lines), *names(then, plane, clear_of=[])]


def win_rate_scatter(
    rows: Sequence[Row],
    *,
    title: str,
    subtitle: str,
    tooltip: list[alt.Tooltip],
    width: int = WIDE,
) -> alt.LayerChart:
    """The reward model's win rate against the Elo-expected one (the paper's Figure 2).

    On the dashed diagonal both agree; above it the reward model over-values a policy. A line
    leads from each policy that calibration moved to where it went.

    Args:
        rows: Of `charm_rm.report.rows.audit_rows` or `battle_rows`.
        title: Of the chart.
        subtitle: Kind of win rate and sample size.
        tooltip: What is told of a point.
        width: Width of the plot in pixels.

    Example:
        >>> row = {"expected": 0.4, "win_rate": 0.6, "policy": "gemma", "verdict": "over-valued"}
        >>> row |= {"shown": "both", "named": True}
        >>> win_rate_scatter([row], title="Win rate", subtitle="n = 1", tooltip=[]).title.text
        'Win rate'
    """
    rows = [row | {"verdict": AFTER} if row["shown"] == THEN else row for row in rows]
    plane = Plane(
        "expected",
        axis_ends([r["expected"] for r in rows], room=(0.06, 0.14)),
        "win_rate",
        axis_ends([r["win_rate"] for r in rows], room=(0.07, 0.07)),
        (width, round(width * (0.72 if width >= NARROW else 1.3))),
    )
    titles = ("Win rate that Elo expects", "Win rate by the reward model")
    base = chart_of(rows).transform_filter(SHOWN)
    base = base.encode(*plane.axes(titles=titles, formats=(".0%", ".0%")))
    low, high = max(plane.x_ends[0], plane.y_ends[0]), min(plane.x_ends[1], plane.y_ends[1])
    started = {row["policy"]: row for row in rows if row["shown"] == FIRST}
    moved = [row for row in rows if row["shown"] == THEN and row["policy"] in started]
    steps = [
        ((old["expected"], old["win_rate"]), (new["expected"], new["win_rate"]))
        for new in moved
        for old in [started[new["policy"]]]
    ]
    arrows = [row | {"shown": "both"} for row in moved]
    return finish(
        [
            segments([{}], [((low, low), (high, high))], plane=plane, strokeDash=[5, 4]),
            segments(arrows, steps, plane=plane, color=MARKS[AFTER][0], strokeWidth=1.6),
            points(base, rows, width=width, tooltip=tooltip),
            *names_by_stage(rows, plane, clear_of=steps),
        ],
        size=plane.size,
        title=title,
        subtitle=subtitle,
    )


def mismatch_bars(
    rows: Sequence[Row],
    *,
    title: str,
    subtitle: str,
    tooltip: list[alt.Tooltip],
    width: int = WIDE,
) -> alt.LayerChart:
    """Signed mismatch of every policy with its interval (Eq. 5), highest first.

    A square marks where calibration put a policy.

    Args:
        rows: Of `charm_rm.report.rows.audit_rows` or `battle_rows`.
        title: Of the chart.
        subtitle: What the intervals are, and the sample size.
        tooltip: What is told of a bar.
        width: Width of the plot and the names beside it, in pixels.

    Example:
        >>> row = {"mismatch": 0.3, "mismatch_low": 0.2, "mismatch_high": 0.4, "shown": "both"}
        >>> row |= {"policy": "gemma", "verdict": "over-valued"}
        >>> mismatch_bars([row], title="Mismatch", subtitle="n = 1", tooltip=[]).title.text
        'Mismatch'
    """
    rows = [row for row in rows if row["verdict"] != REFERENCE]
    moved = [row | {"verdict": AFTER} for row in rows if row["shown"] == THEN]
    started = sorted((r for r in rows if r["shown"] != THEN), key=lambda r: -r["mismatch"])
    order = [row["policy"] for row in started]
    beside = width >= NARROW  # else the names stand above their bars
    by_policy = alt.Y(
        "policy:N",
        sort=order,
        title=None,
        axis=alt.Axis(labels=beside, grid=False, offset=4),
        scale=alt.Scale(domain=order, paddingOuter=0.2 if beside else 0.5),
    )
    zero = "datum.value === 0 ? '0' : datum.label"
    signed = alt.Axis(format="+.0%", tickCount=6, labelExpr=zero)
    known = [row[end] for row in rows for end in ("mismatch", "mismatch_low", "mismatch_high")]
    ends = axis_ends([0.0, *known], room=(0.03, 0.03))
    title_along = "Signed mismatch (over-valued to the right)"
    scale = alt.Scale(domain=list(ends), nice=True)  # the same at every stage
    along = alt.X("mismatch:Q", title=title_along, axis=signed, scale=scale)
    domain = verdicts(started + moved)
    colours = alt.Scale(domain=domain, range=[MARKS[name][0] for name in domain])
    hue = alt.Fill("verdict:N", scale=colours, legend=legend(width))
    bars, put = (
        chart_of(some).transform_filter(SHOWN).encode(by_policy) for some in (started, moved)
    )
    span = {"x": alt.X("mismatch_low:Q"), "x2": alt.X2("mismatch_high"), "opacity": lit("policy")}
    told = {"tooltip": tooltip, "opacity": lit("policy")}
    layers = [
        bars.mark_bar(size=11 if beside else 9).encode(along, hue, **told),
        bars.mark_rule(style="firm", aria=False).encode(**span),
        put.mark_rule(style="firm", aria=False).encode(**span),
        put.mark_square(size=60).encode(along, hue, **told),
    ]
    if not beside:
        above = chart_of(started).encode(by_policy, x=alt.value(0), text=alt.Text("policy:N"))
        layers += written(above.encode(opacity=lit("policy")), align="left", dy=-13, limit=width)
    return finish(
        layers,
        size=(width - (name_room(order) if beside else 0), alt.Step(21 if beside else 34)),
        title=title,
        subtitle=subtitle,
    )


def name_room(policies: Sequence[str]) -> int:
    """Pixels that the longest of some names takes beside a plot.

    Example:
        >>> name_room(["gpt-4o"])
        36
    """
    longest = max((text_width(name, font_size=FONT_SIZE) for name in policies), default=0.0)
    return round(min(longest, LONGEST_NAME))
