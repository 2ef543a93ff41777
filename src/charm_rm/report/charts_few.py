"""Charts of what calibration found and training logged: offsets, differences, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import altair as alt

from charm_rm.report.charts import WIDE, name_room
from charm_rm.report.layers import (
    NARROW,
    PARAMS,
    SHOWN,
    Row,
    axis_ends,
    chart_of,
    finish,
    lit,
    tooltip,
    written,
)
from charm_rm.report.rows import THEN
from charm_rm.report.theme import AFTER, MARKS, OVER, PLAIN, UNCLEAR, UNDER, theme

# Hues of Okabe and Ito's palette for runs, with a dash each.
RUNS = ("#1F83C4", "#D55E00", "#009E73", "#9467BD", "#C4679A", "#7F7F7F")
# Learning rates read better as powers of ten.
SMALL = "datum.value != 0 && abs(datum.value) < 1e-3 ? format(datum.value, '.1~e') : datum.label"
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 4], [10, 4])


def interval_dots(
    rows: Sequence[Row], *, title: str, subtitle: str, axis: str, form: str = "", width: int = WIDE
) -> alt.LayerChart:
    """Signed values with their 95% intervals, one line each, zero marked.

    Args:
        rows: Each ``label, value, low, high`` (ends None where unknown), ``policy`` and ``text``,
            in their order.
        title: Of the chart.
        subtitle: What the values are, and the sample size.
        axis: Title of the axis.
        form: Number format of the axis.
        width: Width of the plot and the names beside it, in pixels.

    Example:
        >>> row = {
        ...     "label": "a",
        ...     "value": -1.0,
        ...     "low": -1.2,
        ...     "high": -0.9,
        ...     "policy": "a",
        ...     "text": "",
        ... }
        >>> interval_dots([row], title="Offsets", subtitle="n = 1", axis="Points").title.text
        'Offsets'
    """
    beside = width >= NARROW
    order = [row["label"] for row in rows]
    rows = [row | {"side": _side(row)} for row in rows]
    by_label = alt.Y(
        "label:N",
        sort=order,
        title=None,
        axis=alt.Axis(labels=beside, grid=False, offset=4),
        scale=alt.Scale(domain=order),
    )
    ends = axis_ends(
        [0.0, *(row[end] for row in rows for end in ("value", "low", "high"))], room=(0.04, 0.04)
    )
    scale = alt.Scale(domain=list(ends), zero=False, nice=False)
    along = alt.X("value:Q", title=axis, scale=scale, axis=alt.Axis(format=form, tickCount=7))
    domain = [name for name in (OVER, UNDER, UNCLEAR) if any(r["side"] == name for r in rows)]
    hue = alt.Fill(
        "side:N",
        scale=alt.Scale(domain=domain, range=[MARKS[name][0] for name in domain]),
        legend=None,
    )
    told = tooltip(text=axis, n_text="Prompts or items")
    told[0] = alt.Tooltip("label:N", title="title")
    base = chart_of(rows).encode(by_label, opacity=lit("policy"))
    zero = chart_of([{"at": 0.0}]).mark_rule(style="faint", aria=False).encode(x="at:Q")
    layers = [
        zero,
        base.mark_rule(style="firm", aria=False).encode(x="low:Q", x2="high"),
        base.mark_circle(size=80).encode(along, hue, tooltip=told),
    ]
    if not beside:
        above = base.encode(x=alt.value(0), text=alt.Text("label:N"))
        layers += written(above, align="left", dy=-13, limit=width)
    room = name_room(order) if beside else 0
    return finish(
        layers,
        size=(width - room, alt.Step(24 if beside else 36)),
        title=title,
        subtitle=subtitle,
    )


def _side(row: Row) -> str:
    """Which way an interval lies from zero: a negative offset takes from an over-valued policy."""
    low, high = row["low"], row["high"]
    if low is None or high is None or low <= 0.0 <= high:
        return UNCLEAR
    return OVER if (high < 0.0) == row.get("flip", False) else UNDER


def ratio_dots(
    rows: Sequence[Row], *, title: str, subtitle: str, width: int = WIDE
) -> alt.LayerChart:
    """Ratios with their 95% intervals on a logarithmic axis, 1 marked, before and after.

    Args:
        rows: Each ``label, value, low, high`` (ends None where there is no bound), ``shown``,
            ``text`` and ``counts``.
        title: Of the chart.
        subtitle: What the ratios are of.
        width: Width of the plot and the names beside it, in pixels.

    Example:
        >>> row = {"label": "bold", "value": 1.5, "low": 1.1, "high": 2.0, "shown": "both"}
        >>> row |= {"text": "1.5", "counts": "60 and 40"}
        >>> ratio_dots([row], title="Style", subtitle="100 pairs").title.text
        'Style'
    """
    order = list(dict.fromkeys(row["label"] for row in rows))
    beside = width >= NARROW
    stages = [name for name in (PLAIN, AFTER) if any(_stage(row) == name for row in rows)]
    rows = [row | {"stage": _stage(row)} for row in rows]
    known = [row[end] for row in rows for end in ("value", "low", "high") if row[end]]
    ends = [min([0.9, *known]) * 0.95, max([1.1, *known]) * 1.05]
    scale = alt.Scale(type="log", domain=ends, nice=False)
    looks = {PLAIN: MARKS[PLAIN], AFTER: MARKS[AFTER]}
    channels = [
        channel(
            "stage:N",
            scale=alt.Scale(domain=stages, range=[looks[name][part] for name in stages]),
            legend=None,
        )
        for channel, part in ((alt.Fill, 0), (alt.Shape, 1))
    ]
    told = tooltip(text="Chosen over rejected", counts="Chosen and rejected")
    told[0] = alt.Tooltip("label:N", title="title")
    shift = alt.YOffset("stage:N", scale=alt.Scale(domain=stages)) if len(stages) > 1 else None
    by_label = alt.Y(
        "label:N",
        title=None,
        axis=alt.Axis(labels=beside, grid=False, offset=4),
        scale=alt.Scale(domain=order),
    )
    base = chart_of(rows).transform_filter(SHOWN).encode(by_label)
    moved = base.encode(shift) if shift is not None else base
    bounded = moved.transform_filter("isValid(datum.low) && isValid(datum.high)")
    along = alt.X("value:Q", title="Chosen over rejected", scale=scale, axis=alt.Axis(tickCount=6))
    layers = [
        chart_of([{"at": 1.0}]).mark_rule(style="faint", aria=False).encode(x="at:Q"),
        bounded.mark_rule(style="firm", aria=False).encode(x=alt.X("low:Q"), x2="high"),
        moved.mark_point(size=70, strokeWidth=0, opacity=1).encode(along, *channels, tooltip=told),
    ]
    if not beside:
        above = chart_of([{"label": name} for name in order]).encode(by_label)
        layers += written(
            above.encode(x=alt.value(0), text=alt.Text("label:N")), align="left", dy=-15
        )
    return finish(
        layers,
        size=(width - (name_room(order) if beside else 0), len(order) * (26 if beside else 42)),
        title=title,
        subtitle=subtitle,
    )


def _stage(row: Row) -> str:
    return AFTER if row["shown"] == THEN else PLAIN


def training_curves(
    curves: Mapping[str, Sequence[Row]], *, title: str, subtitle: str, width: int = WIDE
) -> alt.ConcatChart:
    """What training logged, a panel for each quantity, a line for each run.

    Args:
        curves: Quantity -> rows of ``run, step, value``.
        title: Of all panels.
        subtitle: Runs and steps.
        width: Width of all panels with their axes, in pixels.

    Example:
        >>> rows = [{"run": "a", "step": at, "value": 1.0 / at} for at in (1, 2)]
        >>> len(training_curves({"loss": rows}, title="Training", subtitle="2 steps").concat)
        1
    """
    n_columns = 2 if width >= NARROW and len(curves) > 1 else 1
    side = width // n_columns - (60 if n_columns > 1 else 0)
    runs = list(dict.fromkeys(row["run"] for rows in curves.values() for row in rows))
    looks = [RUNS[at % len(RUNS)] for at in range(len(runs))]
    dashes = [DASHES[at % len(DASHES)] for at in range(len(runs))]
    key = alt.Legend(title=None, orient="top", columns=n_columns) if len(runs) > 1 else None
    panels = []
    for name, rows in curves.items():
        lines = chart_of(rows).encode(
            alt.X("step:Q", title="Step", axis=alt.Axis(tickCount=5, format="d")),
            alt.Y(
                "value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(labelExpr=SMALL)
            ),
            color=alt.Color("run:N", scale=alt.Scale(domain=runs, range=looks), legend=key),
        )
        dash = alt.StrokeDash("run:N", scale=alt.Scale(domain=runs, range=dashes), legend=key)
        told = [
            alt.Tooltip("run:N", title="title"),
            alt.Tooltip("step:Q", title="Step"),
            alt.Tooltip("value:Q", title=name, format=".4~g"),
        ]
        layers = [
            lines.mark_line(strokeWidth=1.8).encode(dash),
            lines.mark_circle(size=26, opacity=1).encode(tooltip=told),
        ]
        heading = alt.Title(name, fontSize=13, fontWeight="normal", offset=4)
        panels.append(alt.LayerChart(layer=layers, title=heading, width=side, height=170))
    chart = alt.ConcatChart(
        concat=panels,
        columns=n_columns,
        params=PARAMS,
        title=alt.Title(title, subtitle=subtitle),
        description=f"{title}. {subtitle}.",
    )
    return cast("alt.ConcatChart", chart.configure(**theme()))
