"""The report page: an audit, what calibration changed, and how to rebuild it, as one HTML file.

The page opens without a network and runs no code but its own: names, texts and commands are
escaped, and a content security policy allows only the scripts that it was written with.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
import vl_convert

from charm_rm import __version__
from charm_rm.report import words
from charm_rm.report.charts import draw_figures
from charm_rm.report.theme import OVER, UNCLEAR, UNDER, theme, verdict

if TYPE_CHECKING:
    from charm_rm.audit import Audit
    from charm_rm.data.offsets import Calibration
    from charm_rm.pairs import PreferencePairs

PHONE = 300  # plot width of the figures on a phone, in pixels

# Figures take their colours from the style sheet, so they follow the reader's dark or light mode
# and print on white without being drawn again.
PAGE_THEME = theme(
    ink="var(--ink)",
    muted="var(--muted)",
    line="var(--line)",
    paper="var(--paper)",
) | {"padding": 2}


def render_page(
    *,
    audit: Audit,
    title: str,
    provenance: Mapping[str, str],
    after: Audit | None = None,
    calibration: Calibration | None = None,
    pairs: PreferencePairs | None = None,
    commands: Sequence[str] = (),
) -> str:
    """The page as one string of HTML that needs nothing else.

    Args:
        audit: The audit of the scores as they are.
        title: Of the browser's window, and the line above the headline.
        provenance: What the scores are and where they come from: heading and sentence.
        after: The audit of the calibrated scores.
        calibration: The offsets that lie between the two audits.
        pairs: The preference pairs that the calibrated scores give.
        commands: Shell commands that build the page again, in order.

    Example:
        >>> import polars as pl
        >>> from charm_rm.audit import audit_scores
        >>> from charm_rm.data.arena import read_elo
        >>> rows = [(f"p{i}", f"vicuna-{b}b", 0, i % b, "toy") for i in range(40) for b in (7, 13)]
        >>> names = ["prompt_id", "policy", "sample", "score", "reward_model"]
        >>> audit = audit_scores(pl.DataFrame(rows, schema=names, orient="row"), read_elo("table7"))
        >>> page = render_page(audit=audit, title="Two vicunas", provenance={"Scores": "made up"})
        >>> "<title>Two vicunas</title>" in page
        True
    """
    engine, script = _engine(), _own("page.js")
    figures = _figures(audit, after)
    pair = audit.suggested_pair
    verdicts = Counter(verdict(p, reference=audit.reference) for p in audit.policies)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            audit=audit,
            title=title,
            provenance=provenance,
            calibration=calibration,
            pairs=pairs,
            commands=commands,
            warnings=[*audit.warnings, *(calibration.warnings if calibration else ())],
            worst=next((p for p in audit.policies if pair and p.policy == pair.over_valued), None),
            counts={name: verdicts[name] for name in (OVER, UNDER, UNCLEAR)},
            categories=bool(calibration and any(o.category for o in calibration.offsets)),
            figures=figures,
            specifications={name: figure["specifications"] for name, figure in figures.items()},
            security_policy=_security_policy(engine, script),
            style=_own("page.css"),
            script=script,
            engine=engine,
            version=__version__,
        )
    )


CAPTIONS = {
    "mean-score-and-elo": (
        "Each point is a policy: across, its Arena rating, with a line for its 95% interval where "
        "that is known; up, the mean of its scores. The long line is the least-squares fit. A "
        "policy far above it scores better than people rate it."
    ),
    "win-rates": (
        "Each point is a policy against the reference: across, the win rate that the ratings "
        "expect (Eq. 2); up, the win rate that the scores give (Eq. 3). On the dashed line both "
        "agree; above it the reward model over-values the policy."
    ),
    "mismatch": (
        "How far the win rate by the reward model lies from the expected one (Eq. 5), with 95% "
        "intervals over prompts and ratings. A bar is coloured where the mismatch stays clear "
        "after allowing for the number of policies."
    ),
}
MOVED = " Calibration moved a policy to the square."
TOUCH = " Point at a mark, or touch it, for its name and numbers."


def _figures(audit: Audit, after: Audit | None) -> dict[str, dict[str, Any]]:
    """Each figure's words, taken out of the chart so that they wrap, and its charts by width."""
    drawn = {
        "wide": draw_figures(audit, after),
        "narrow": draw_figures(audit, after, width=PHONE),
    }
    figures: dict[str, dict[str, Any]] = {}
    for name, caption in CAPTIONS.items():
        specifications = {
            width: charts[name].to_dict(validate=False) for width, charts in drawn.items()
        }
        for specification in specifications.values():
            heading = specification.pop("title")
            specification["config"] = PAGE_THEME
        moved = after is not None and name != "mean-score-and-elo"
        figures[name] = {
            "title": heading["text"],
            "subtitle": heading["subtitle"],
            "caption": caption + MOVED * moved + TOUCH,
            "specifications": specifications,
        }
    return figures


@cache
def _engine() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the offline renderer."""
    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub lacks the default
    return bundle.replace("</script", r"<\/script")


def _own(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _security_policy(*scripts: str) -> str:
    """A policy that runs these scripts alone and loads nothing at all."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        function.__name__: function
        for function in (
            words.count,
            words.elo_and_interval,
            words.number,
            words.number_and_interval,
            words.percent,
            words.rate_and_interval,
            verdict,
        )
    }
    return environment
