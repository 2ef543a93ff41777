"""What `charm style --json` prints, small and written by hand."""

from typing import Any

from builders import MINI, SIMPO


def row(pattern: str, chosen: float, rejected: float, **given: Any) -> dict[str, Any]:
    ratio = chosen / rejected if rejected else None
    shares = {"chosen_share": chosen / 100, "rejected_share": rejected / 100}
    ends = {"ratio": ratio, "low": 0.8 * (ratio or 4.0), "high": 1.2 * ratio if ratio else None}
    return {"pattern": pattern, "chosen": chosen, "rejected": rejected, **shares, **ends, **given}


def table(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"n_pairs": 100, "n_prompts": 90, "rows": list(rows)}


PAIRS: dict[str, Any] = {
    "pairs": table(row("bold", 30, 20), row("emoji", 5, 0), row("length", 900.5, 800.5)),
    "before": table(row("bold", 40, 10), row("emoji", 5, 0), row("length", 990.5, 700.5)),
    "changes": [
        {"pattern": name, "change": change, "low": 0.2, "high": 0.9}
        for name, change in (("bold", 0.375), ("emoji", None), ("length", 0.795))
    ],
    "n_flipped": 12,
}
MARGINS: dict[str, Any] = {
    "reward_model": "toy-rm",
    "reference": MINI,
    "policies": [
        {
            "policy": SIMPO,
            "n_prompts": 80,
            "mean_margin": {"value": 1.25, "low": 1.05, "high": 1.45},
            "explained": {"value": 0.75, "low": 0.55, "high": 0.95},
            "rest": {"value": 0.5, "low": 0.3, "high": 0.7},
            "r_squared": 0.375,
            "parts": [
                {"pattern": "bold", "part": 0.625, "low": 0.5, "high": 0.75}
                | {"slope": 2.0, "mean_difference": 0.3125}
            ],
            "too_rare": ["table"],
            "offset": -1.375,
            "offset_alike": -0.5625,
        }
    ],
    "n_resamples": 1000,
    "seed": 0,
}
SPREAD: dict[str, Any] = {
    "reward_model": "toy-rm",
    "n_items": {"chat": 65, "code": 114},
    "sides": [
        {"side": side, "means": {"concise": -0.25, "markdown": 0.25}, "variance": 0.0417}
        | {"low": 0.01, "high": 0.09}
        for side in ("chosen", "rejected")
    ],
}
