"""Names of points: where they are written."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from charm_rm.report.labels import CANDIDATES, Label, place_labels, text_width


def boxes_of(points: np.ndarray, names: list[str], labels: list[Label | None]) -> np.ndarray:
    shift = {"left": 0.0, "center": 0.5, "right": 1.0}
    boxes = []
    for (x, y), name, label in zip(points, names, labels, strict=True):
        if label is not None:
            width = text_width(name, font_size=11)
            left = x + label.dx - shift[label.align] * width
            boxes.append([left, y + label.dy - 5.5, left + width, y + label.dy + 5.5])
    return np.array(boxes).reshape(-1, 4)


@given(
    st.lists(
        st.tuples(st.floats(0, 600), st.floats(0, 400), st.text("abcW-1", max_size=30)),
        max_size=12,
    )
)
def test_labels_that_may_be_left_out_hardly_touch_each_other(
    rows: list[tuple[float, float, str]],
) -> None:
    points = np.array([row[:2] for row in rows]).reshape(-1, 2)
    names = [row[2] for row in rows]
    marks = np.hstack([points - 5, points + 5])
    optional = [False] * len(rows)
    places = place_labels(
        points, names, marks=marks, size=(600, 400), font_size=11, must_show=optional
    )
    boxes = boxes_of(points, names, places)
    for at, box in enumerate(boxes):
        low = np.maximum(box[:2], boxes[at + 1 :, :2])
        high = np.minimum(box[2:], boxes[at + 1 :, 2:])
        assert np.prod(np.clip(high - low, 0, None), axis=1).sum() <= 12.0 + 1e-9


def test_a_name_that_must_show_shows_even_where_there_is_no_room() -> None:
    points = np.full((6, 2), 20.0)
    must_show = [True, False, True, False, False, False]
    marks = np.array([[0.0, 0.0, 40.0, 40.0]])
    places = place_labels(
        points, ["a long name"] * 6, marks=marks, size=(40, 40), font_size=11, must_show=must_show
    )
    assert places[0] in CANDIDATES
    assert places[2] in CANDIDATES
    assert places[1] is places[3] is None
