"""Where to write the names of points, so that they cover neither each other nor the points.

Plain geometry in pixels, y downwards; it knows nothing of charts. Deterministic: the same points
give the same labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Align = Literal["left", "center", "right"]
Boxes = NDArray[np.float64]  # shape (n, 4): left, top, right, bottom

RADII = (
    9.0,
    13.0,
    18.0,
    25.0,
    34.0,
    45.0,
    60.0,
)  # distances from the point that are tried, in pixels
LEADER_FROM = 20.0  # a label at least this far from its point gets a line to it, in pixels
TOLERANCE = 12.0  # overlap below which two things still read as apart, in square pixels
N_SWEEPS = 5  # rounds of moving every label to its best place; it settles in two or three

# Advance of a character, in em: Helvetica's, and a little more for wider system fonts.
_NARROW, _WIDE = frozenset("fijlrtI.,:;|!'()[]/- "), frozenset("mwMW@%GOQ")


@dataclass(frozen=True)
class Label:
    """A label's place, relative to its point.

    Attributes:
        dx: Pixels to the right of the point at which the text is anchored.
        dy: Pixels below the point of the text's middle line.
        align: Which end of the text lies at the anchor.
        leader: Whether the label is far enough off to need a line to its point.
    """

    dx: float
    dy: float
    align: Align
    leader: bool


def _directions() -> list[tuple[float, float, Align]]:
    """Unit steps (right, down) from a point, the most readable first, with the text's anchor."""
    side: list[tuple[float, float, Align]] = [(1, 0, "left"), (-1, 0, "right")]
    over: list[tuple[float, float, Align]] = [(0, -1, "center"), (0, 1, "center")]
    slant: list[tuple[float, float, Align]] = [
        (x * across, y * down, "left" if x > 0 else "right")
        for across, down in ((0.8, 0.6), (0.6, 0.8), (0.3, 0.95))
        for x in (1, -1)
        for y in (-1, 1)
    ]
    return side + over + slant


CANDIDATES: tuple[Label, ...] = tuple(
    Label(round(r * x, 2), round(r * y, 2), align, r >= LEADER_FROM)
    for r in RADII
    for x, y, align in _directions()
)
# Square pixels of overlap that one gladly accepts rather than go that much farther out.
_RELUCTANCE = np.array([0.2 * np.hypot(c.dx, c.dy) ** 1.3 for c in CANDIDATES]) + np.tile(
    np.linspace(0.0, 4.0, len(_directions())), len(RADII)
)

# Three spots along each candidate's line to its point, as boxes; none where it needs no line.
_LEADERS: Boxes = np.array(
    [
        [t * c.dx - 2, t * c.dy - 2, t * c.dx + 2, t * c.dy + 2] if c.leader else [np.nan] * 4
        for c in CANDIDATES
        for t in (0.4, 0.6, 0.8)
    ]
)


def text_width(text: str, *, font_size: float) -> float:
    """Estimated width of one line of sans-serif text, in pixels.

    Example:
        >>> text_width("gpt-4o", font_size=10)
        29.8
    """
    ems = sum(0.33 if c in _NARROW else 0.88 if c in _WIDE else 0.58 for c in text)
    return round(ems * font_size, 1)


def place_labels(
    points: NDArray[np.float64],
    names: Sequence[str],
    *,
    marks: Boxes,
    size: tuple[float, float],
    font_size: float,
    must_show: Sequence[bool],
    longest: float = math.inf,
) -> list[Label | None]:
    """Places for the names of points: each in turn goes where it covers least, a few times over.

    Args:
        points: Centres of the points in pixels, shape (n, 2), columns x and y, y downwards.
        names: The n texts.
        marks: What labels should leave free, such as the points' own symbols, shape (m, 4).
        size: Width and height of the plot in pixels; labels stay inside.
        font_size: Height of the text in pixels.
        must_show: Whether a name is written even where it covers something. These are placed
            first, so that the others make room.
        longest: Pixels at which a name is cut.

    Returns:
        One `Label` for each point, or None where the name found no free place.

    Example:
        >>> point, symbol = np.array([[95.0, 50.0]]), np.array([[91.0, 46.0, 99.0, 54.0]])
        >>> place_labels(
        ...     point, ["gpt-4o"], marks=symbol, size=(100, 99), font_size=10, must_show=[True]
        ... )  # no room on the right
        [Label(dx=-9.0, dy=0.0, align='right', leader=False)]
    """
    widths = [min(text_width(name, font_size=font_size), longest) for name in names]
    boxes = [_boxes(p, w, font_size) for p, w in zip(points, widths, strict=True)]
    leaders = [_LEADERS + np.tile(point, 2) for point in points]
    # What each place costs whatever the other names do; crossing a line is worse than touching.
    fixed = [
        2.0 * _overlap(box, marks)
        + 4.0 * _overlap(line, marks).reshape(-1, 3).sum(axis=1)
        + 30.0 * _outside(box, size)
        + _RELUCTANCE
        for box, line in zip(boxes, leaders, strict=True)
    ]
    order = sorted(range(len(names)), key=lambda i: not must_show[i])
    taken = np.full((len(names), 4), np.nan)  # NaN covers nothing
    chosen = [0] * len(names)
    for _ in range(N_SWEEPS):
        before = list(chosen)
        for i in order:
            taken[i] = np.nan
            crossed = _overlap(leaders[i], taken).reshape(-1, 3).sum(axis=1)
            cost = fixed[i] + 2.0 * _overlap(boxes[i], taken) + 4.0 * crossed
            chosen[i] = int(cost.argmin())
            taken[i] = boxes[i][chosen[i]]
        if chosen == before:
            break
    shown: list[Label | None] = [None] * len(names)
    kept = np.full_like(taken, np.nan)
    for i in order:
        covered = _overlap(taken[i : i + 1], kept) + _overlap(taken[i : i + 1], marks)
        if must_show[i] or covered[0] <= TOLERANCE:
            shown[i], kept[i] = CANDIDATES[chosen[i]], taken[i]
    return shown


def _boxes(point: NDArray[np.float64], width: float, height: float) -> Boxes:
    """What a text of that width and height would fill at each of `CANDIDATES`."""
    share_left = {"left": 0.0, "center": 0.5, "right": 1.0}
    left = [point[0] + c.dx - width * share_left[c.align] for c in CANDIDATES]
    top = [point[1] + c.dy - height / 2 for c in CANDIDATES]
    return np.column_stack([left, top, np.add(left, width), np.add(top, height)])


def _overlap(boxes: Boxes, others: Boxes) -> NDArray[np.float64]:
    """Area that each box shares with all the others together, in square pixels; shape (n,)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.asarray(np.nansum(np.prod(np.clip(high - low, 0.0, None), axis=2), axis=1))


def _outside(boxes: Boxes, size: tuple[float, float]) -> NDArray[np.float64]:
    """Pixels by which each box sticks out of the plot, summed over its sides; shape (n,)."""
    over = np.hstack([-boxes[:, :2], boxes[:, 2:] - np.asarray(size)])
    return np.asarray(np.clip(over, 0.0, None).sum(axis=1))
