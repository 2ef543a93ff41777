"""What ``charm generate`` says: how a run ended, and what one would take."""

from pathlib import Path
from typing import TYPE_CHECKING

from charm_rm.cli.console import page, say
from charm_rm.cli.progress import Meter

if TYPE_CHECKING:
    from charm_rm.models.generating import Generated
    from charm_rm.models.generation_costs import Estimate, Tally
    from charm_rm.models.policies import Sampling

TOKENS_PER_SECOND = 1_000  # that the time of a dry run is given for, where nothing was measured


def warnings_about(generated: "Generated", tally: "Tally", *, sampling: "Sampling") -> list[str]:
    """What a user should know of a run that ended.

    Args:
        generated: What it left.
        tally: The same, counted.
        sampling: How the responses were to be drawn.
    """
    found = []
    if generated.n_dropped:
        found.append(
            f"{generated.n_dropped:,} damaged parts of an earlier run: their responses were asked "
            "for again"
        )
    if tally.n_too_long:
        found.append(
            f"{tally.n_too_long:,} responses are longer than {sampling.max_new_tokens:,} tokens: "
            "the server ignores --max-new-tokens"
        )
    if sampling.temperature and tally.n_same > tally.n_sampled / 2:
        found.append(
            f"{tally.n_same:,} of {tally.n_sampled:,} prompts have the same response in all "
            f"samples at temperature {sampling.temperature:g}: does the server draw at all?"
        )
    if tally.n_uncounted:
        found.append(
            f"{tally.n_uncounted:,} responses came without a count of their tokens: tokens and "
            "cost are of the others"
        )
    return found


def say_summary(
    generated: "Generated", tally: "Tally", progress: Meter, table: str, *, cost: float
) -> None:
    """How a run ended, in three lines."""
    reasons = ", ".join(f"{name} {n:,}" for name, n in tally.finish_reasons.items())
    n_new = tally.n_responses - generated.n_before
    where = table if tally.n_responses else str(Path(table).parent)
    say(
        f"{where}: {tally.n_responses:,} of {generated.n_wanted:,} responses, {n_new:,} of them "
        f"from this run; {len(generated.failures):,} failed"
    )
    if tally.n_responses:
        say(
            f"finish reasons: {reasons}; {tally.n_truncated:,} cut at the limit, "
            f"{tally.n_empty:,} empty, {tally.n_with_reasoning:,} with reasoning"
        )
        speed = f"; {progress.speed.partition(', ')[0]} in this run" if n_new else ""
        price = f", cost {cost:,.4g}" if cost else ""
        say(f"tokens: {tally.n_prompt_tokens:,} read, {tally.n_tokens:,} written{price}{speed}")


def print_estimate(estimate: "Estimate", *, limit: int, seconds: float | None, probe: int) -> None:
    """What a run would take, with what that rests on.

    Args:
        estimate: Tokens and cost.
        limit: Most new tokens of a response.
        seconds: Time at the speed of a probe, if there was one.
        probe: Requests of the probe.
    """
    from rich.table import Table

    measured = f"measured on {estimate.n_measured:,} responses"
    source = measured if estimate.n_measured else "assumed"
    most = f"at most {estimate.most_tokens:,} ({limit:,} each)"
    n_tokens = estimate.n_tokens
    lines = {
        "requests without a response": f"{estimate.n_requests:,}",
        "tokens to read": f"{estimate.n_prompt_tokens:,} ({estimate.chars_per_token:.2f} "
        f"characters a token, {source})",
        "tokens to write": most if n_tokens is None else f"{n_tokens:,} ({measured}), {most}",
    }
    if estimate.most_cost:
        likely = "" if estimate.cost is None else f"{estimate.cost:,.4g}, "
        lines["cost"] = f"{likely}at most {estimate.most_cost:,.4g}"
    if seconds is not None:
        lines["time"] = f"{_duration(seconds)}, at the speed of the {probe:,} of the probe"
    elif estimate.n_requests:
        tokens, bound = (
            (n_tokens, "") if n_tokens is not None else (estimate.most_tokens, "at most ")
        )
        lines["time"] = (
            f"{bound}{_duration(tokens / TOKENS_PER_SECOND)} if {TOKENS_PER_SECOND:,} tokens are "
            "written a second, which is an assumption; --probe 32 measures"
        )
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in lines.items():
        table.add_row(name, value)
    page().print(table)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"
