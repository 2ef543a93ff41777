"""The paper's figures for one's own models: Vega-Lite charts of an audit, before and after.

A chart draws the numbers that an `Audit` carries and computes none; the regression line is
Vega-Lite's. Names are placed for one width of the plot, so every chart function takes a width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import altair as alt
import vl_convert

from charm_rm.data.tables import refuse_existing, replacing
from charm_rm.report.labels import text_width
from charm_rm.report.layers import (
    NARROW,
    TOOLTIP,
    Plane,
    Row,
    axis_ends,
    chart_of,
    finish,
    legend,
    names,
    points,
    segments,
    verdicts,
    written,
)
from charm_rm.report.theme import AFTER, FONT_SIZE, MARKS, verdict
from charm_rm.report.words import (
    UNKNOWN,
    elo_and_interval,
    number,
    percent,
    rate_and_interval,
    sample_size,
)

if TYPE_CHECKING:
    from charm_rm.audit import Audit, PolicyAudit

WIDE = 740  # plot width on a desk and on paper, in pixels
LONGEST_NAME = 300.0  # room for names beside bars, in pixels
PNG_SCALE = 2.0  # pixels of the file for each pixel of the chart


def draw_figures(
    audit: Audit, after: Audit | None = None, *, width: int = WIDE
) -> dict[str, alt.LayerChart]:
    """All figures of a report, by the name of their file.

    Args:
        audit: The audit of the scores as they are.
        after: The audit of the calibrated scores.
        width: Width of the plots in pixels.

    Example:
        >>> import polars as pl
        >>> from charm_rm.audit import audit_scores
        >>> from charm_rm.data.arena import read_elo
        >>> rows = [(f"p{i}", f"vicuna-{b}b", 0, i % b, "toy") for i in range(40) for b in (7, 13)]
        >>> names = ["prompt_id", "policy", "sample", "score", "reward_model"]
        >>> audit = audit_scores(pl.DataFrame(rows, schema=names, orient="row"), read_elo("table7"))
        >>> list(draw_figures(audit))
        ['mean-score-and-elo', 'win-rates', 'mismatch']
    """
    return {
        "mean-score-and-elo": elo_scatter(audit, width=width),
        "win-rates": win_rate_scatter(audit, after, width=width),
        "mismatch": mismatch_bars(audit, after, width=width),
    }


def elo_scatter(audit: Audit, *, width: int = WIDE) -> alt.LayerChart:
    """Mean score against Elo (the paper's Figure 1), with the name of every policy.

    A horizontal line through a point is the interval of its rating; the long line is the
    least-squares fit.

    Args:
        audit: What to draw.
        width: Width of the plot in pixels.

    Example:
        >>> import polars as pl
        >>> from charm_rm.audit import audit_scores
        >>> from charm_rm.data.arena import read_elo
        >>> rows = [(f"p{i}", f"vicuna-{b}b", 0, i % b, "toy") for i in range(40) for b in (7, 13)]
        >>> names = ["prompt_id", "policy", "sample", "score", "reward_model"]
        >>> audit = audit_scores(pl.DataFrame(rows, schema=names, orient="row"), read_elo("table7"))
        >>> elo_scatter(audit).title.text
        'Mean score of toy against Arena rating'
    """
    rows = [_row(p, audit) for p in audit.policies]
    rated = [r for r in rows if r["elo_low"] is not None and r["elo_high"] is not None]
    plane = Plane(
        "elo",
        axis_ends([r[e] for r in rows for e in ("elo", "elo_low", "elo_high")], room=(0.06, 0.14)),
        "mean_score",
        axis_ends([r["mean_score"] for r in rows], room=(0.08, 0.08)),
        (width, round(width * (0.62 if width >= NARROW else 1.5))),
    )
    titles = ("Arena rating (Elo points)", "Mean score (score points)")
    base = chart_of(rows).encode(*plane.axes(titles=titles, formats=("d", "")))
    spans = [((r["elo_low"], r["mean_score"]), (r["elo_high"], r["mean_score"])) for r in rated]
    agreement = f"Pearson r = {number(audit.pearson)}, Spearman r = {number(audit.spearman)}"
    return finish(
        [
            base.mark_line(style="faint", aria=False).transform_regression("elo", "mean_score"),
            segments(spans, plane),
            points(base, rows, width=width),
            *names(rows, plane, clear_of=spans),
        ],
        size=plane.size,
        title=f"Mean score of {audit.reward_model} against Arena rating",
        subtitle=f"{agreement}; {sample_size(audit)}",
    )


def win_rate_scatter(
    before: Audit, after: Audit | None = None, *, width: int = WIDE
) -> alt.LayerChart:
    """The reward model's win rate against the Elo-expected one (the paper's Figure 2).

    On the dashed diagonal both agree; above it the reward model over-values a policy. A line
    leads from each policy that calibration moved to where it went.

    Args:
        before: The audit of the scores as they are.
        after: The audit of the calibrated scores.
        width: Width of the plot in pixels.

    Example:
        >>> import polars as pl
        >>> from charm_rm.audit import audit_scores
        >>> from charm_rm.data.arena import read_elo
        >>> rows = [(f"p{i}", f"vicuna-{b}b", 0, i % b, "toy") for i in range(40) for b in (7, 13)]
        >>> names = ["prompt_id", "policy", "sample", "score", "reward_model"]
        >>> audit = audit_scores(pl.DataFrame(rows, schema=names, orient="row"), read_elo("table7"))
        >>> win_rate_scatter(audit).title.text
        'Win rate against vicuna-13b: reward model and Elo'
    """
    moved = _moves(before, after)
    rows = [*(_row(p, before) for p in before.policies), *(new for _, new in moved)]
    plane = Plane(
        "expected",
        axis_ends([r["expected"] for r in rows], room=(0.06, 0.14)),
        "win_rate",
        axis_ends([r["win_rate"] for r in rows], room=(0.07, 0.07)),
        (width, round(width * (0.72 if width >= NARROW else 1.3))),
    )
    titles = ("Win rate that Elo expects", "Win rate by the reward model")
    base = chart_of(rows).encode(*plane.axes(titles=titles, formats=(".0%", ".0%")))
    low, high = max(plane.x_ends[0], plane.y_ends[0]), min(plane.x_ends[1], plane.y_ends[1])
    steps = [((a["expected"], a["win_rate"]), (b["expected"], b["win_rate"])) for a, b in moved]
    return finish(
        [
            segments([((low, low), (high, high))], plane, strokeDash=[5, 4]),
            segments(steps, plane, color=MARKS[AFTER][0], strokeWidth=1.6),
            points(base, rows, width=width),
            *names(rows, plane, clear_of=steps),
        ],
        size=plane.size,
        title=f"Win rate against {before.reference}: reward model and Elo",
        subtitle=f"{before.win_rate_kind.capitalize()} win rate; {sample_size(before)}",
    )


def mismatch_bars(audit: Audit, after: Audit | None = None, *, width: int = WIDE) -> alt.LayerChart:
    """Signed mismatch of every policy with its interval (Eq. 5), highest first.

    A square marks where calibration put a policy.

    Args:
        audit: The audit of the scores as they are.
        after: The audit of the calibrated scores.
        width: Width of the plot and the names beside it, in pixels.

    Example:
        >>> import polars as pl
        >>> from charm_rm.audit import audit_scores
        >>> from charm_rm.data.arena import read_elo
        >>> rows = [(f"p{i}", f"vicuna-{b}b", 0, i % b, "toy") for i in range(40) for b in (7, 13)]
        >>> names = ["prompt_id", "policy", "sample", "score", "reward_model"]
        >>> audit = audit_scores(pl.DataFrame(rows, schema=names, orient="row"), read_elo("table7"))
        >>> mismatch_bars(audit).title.text
        'Mismatch against vicuna-13b'
    """
    others = [p for p in audit.policies if p.policy != audit.reference]
    others.sort(key=lambda p: -p.signed_mismatch)
    rows, moved = [_row(p, audit) for p in others], [new for _, new in _moves(audit, after)]
    beside = width >= NARROW  # else the names stand above their bars
    by_policy = alt.Y(
        "policy:N",
        sort=[p.policy for p in others],
        title=None,
        axis=alt.Axis(labels=beside, grid=False, offset=4),
        scale=alt.Scale(paddingOuter=0.2 if beside else 0.5),
    )
    zero = "datum.value === 0 ? '0' : datum.label"
    signed = alt.Axis(format="+.0%", tickCount=6, labelExpr=zero)
    along = alt.X("mismatch:Q", title="Signed mismatch (over-valued to the right)", axis=signed)
    domain = verdicts(rows + moved)
    colours = alt.Scale(domain=domain, range=[MARKS[name][0] for name in domain])
    hue = alt.Fill("verdict:N", scale=colours, legend=legend(width))
    bars, put = chart_of(rows).encode(by_policy), chart_of(moved).encode(by_policy)
    span = {"x": alt.X("mismatch_low:Q"), "x2": alt.X2("mismatch_high")}
    layers = [
        bars.mark_bar(size=11 if beside else 9).encode(along, hue, tooltip=TOOLTIP),
        bars.mark_rule(style="firm", aria=False).encode(**span),
        put.mark_rule(style="firm", aria=False).encode(**span),
        put.mark_square(size=60, opacity=1).encode(along, hue, tooltip=TOOLTIP),
    ]
    if not beside:
        above = bars.encode(x=alt.value(0), text=alt.Text("policy:N"))
        layers += written(above, align="left", dy=-13)
    longest = max((text_width(p.policy, font_size=FONT_SIZE) for p in others), default=0.0)
    room = round(min(longest, LONGEST_NAME)) if beside else 0
    return finish(
        layers,
        size=(width - room, alt.Step(21 if beside else 34)),
        title=f"Mismatch against {audit.reference}",
        subtitle=f"95% intervals; {sample_size(audit)}",
    )


def save_figures(
    charts: Mapping[str, alt.TopLevelMixin],
    folder: Path,
    *,
    formats: Iterable[str] = ("svg", "png", "pdf"),
    force: bool = False,
) -> list[Path]:
    """Files of charts, ``<name>.<format>`` each, drawn without a browser or a network.

    Args:
        charts: Chart by file name.
        folder: Where they go; made if missing.
        formats: Of ``"svg"``, ``"pdf"`` and ``"png"`` (two pixels for each pixel of the chart).
        force: Whether existing files may be replaced.

    Returns:
        The paths written, chart by chart.

    Raises:
        ValueError: If a format is unknown.
        DataError: If a file exists and ``force`` is not set, or it can't be written.

    Example:
        >>> save_figures({}, Path("."))
        []
    """
    formats = list(formats)
    for suffix in formats:
        if suffix not in _DRAW:
            raise ValueError(f"unknown figure format {suffix!r}; give some of {', '.join(_DRAW)}")
    paths = {name: [folder / f"{name}.{suffix}" for suffix in formats] for name in charts}
    folder.mkdir(parents=True, exist_ok=True)
    for path in chain.from_iterable(paths.values()):
        refuse_existing(path, force=force)  # before anything is drawn
    for name, chart in charts.items():
        svg = vl_convert.vegalite_to_svg(chart.to_json())
        for path in paths[name]:
            content = _DRAW[path.suffix[1:]](svg)
            replacing(path, partial(Path.write_bytes, data=content), force=force)
    return list(chain.from_iterable(paths.values()))


_DRAW: dict[str, Callable[[str], bytes]] = {
    "svg": str.encode,
    "png": partial(vl_convert.svg_to_png, scale=PNG_SCALE),
    "pdf": vl_convert.svg_to_pdf,
}


def _row(policy: PolicyAudit, audit: Audit) -> Row:
    """What the charts plot and tell of one policy."""
    elo = elo_and_interval(policy.elo, low=policy.elo_low, high=policy.elo_high)
    mismatch = rate_and_interval(
        policy.signed_mismatch, low=policy.mismatch_low, high=policy.mismatch_high
    )
    own = policy.policy == audit.reference
    return {
        "policy": policy.policy,
        "verdict": verdict(policy, reference=audit.reference),
        "elo": policy.elo,
        "elo_low": policy.elo_low,
        "elo_high": policy.elo_high,
        "mean_score": policy.mean_score,
        "expected": policy.expected_win_rate,
        "win_rate": policy.win_rate,
        "mismatch": policy.signed_mismatch,
        "mismatch_low": policy.mismatch_low,
        "mismatch_high": policy.mismatch_high,
        "n_prompts": policy.n_prompts,
        "elo_text": _with_interval(*elo),
        "score_text": number(policy.mean_score),
        "expected_text": percent(policy.expected_win_rate),
        "win_rate_text": percent(policy.win_rate),
        "mismatch_text": UNKNOWN if own else _with_interval(*mismatch),
    }


def _with_interval(value: str, interval: str) -> str:
    return f"{value} ({interval})" if interval else value


def _moves(before: Audit, after: Audit | None) -> list[tuple[Row, Row]]:
    """Rows before and after of each policy that calibration moved."""
    if after is None:
        return []
    old = {p.policy: p for p in before.policies}
    return [
        (_row(old[new.policy], before), _row(new, after) | {"verdict": AFTER})
        for new in after.policies
        if new.policy in old and not math.isclose(new.win_rate, old[new.policy].win_rate)
    ]
