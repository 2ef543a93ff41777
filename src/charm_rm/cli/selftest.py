"""``charm selftest``: does the instrument find what was planted, and nothing else?

The rule is `find_faults`, and a line below the table states it. A failed check ends with status 1.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from charm_rm.cli.console import page, print_json, say
from charm_rm.cli.options import Json, Seed

if TYPE_CHECKING:
    from charm_rm.planted import Recovery

LONG = (1000, 1000)  # repetitions, and bootstrap resamples of each
QUICK = (20, 200)
BAND = (0.93, 0.97)  # wanted of the coverage of 95% intervals
MAX_FALSE_DISCOVERIES = 0.05
MAX_LEAN = 0.25  # of the mean offset, in standard deviations: it costs 0.7% of coverage
FALSE_ALARMS = 0.05  # chance that a sound instrument fails any check of a run
NORMAL_95 = 1.96  # half width of a 95% normal interval, in standard errors
N_CHECKS = 4  # of each row
COLUMNS = (
    "\nprompts",
    "\nplanted",
    "offset\ntrue",
    "\nfound",
    "\ncovered",
    "mismatch\ntrue",
    "\nfound",
    "\ncovered",
    "called\nrightly",
    "\nwrongly",
)
RULE = (
    "Covered: share of the 95% intervals that hold the truth, with its binomial margin. Called "
    "rightly: share of the audits that call the planted policy over-valued; wrongly: mean share "
    "of false ones among all that an audit calls over- or under-valued. A row passes with coverage "
    "{low:.3f} to {high:.3f}, false discoveries up to {most:.3f} and a mean offset off by at most "
    f"{MAX_LEAN} of its spread. Wanted are {BAND[0]} to {BAND[1]} and "
    f"{MAX_FALSE_DISCOVERIES}; the room beyond is what chance takes in {{n_repetitions}} "
    f"repetitions: one sound instrument in {1 / FALSE_ALARMS:.0f} fails any of {{n_checks}} checks."
)


def selftest(
    repetitions: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=2, help="Samples of each scenario.", show_default=str(LONG[0])
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help=f"A few seconds: {QUICK[0]} samples, short bootstraps."),
    ] = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Plant biases of known size in synthetic scores, and check what audit and calibrate find.

    Example: charm selftest --quick
    """
    default, n_resamples = QUICK if quick else LONG
    wanted = repetitions or default
    found = list(_run_all(wanted, n_resamples=n_resamples, seed=seed))
    n_checks = N_CHECKS * len(found)
    faults = [find_faults(recovery, n_checks=n_checks) for recovery in found]
    low, high = coverage_band(wanted, n_checks=n_checks)
    most = most_false_discoveries(wanted, n_checks=n_checks)
    rule = RULE.format(low=low, high=high, most=most, n_repetitions=wanted, n_checks=n_checks)
    if json:
        settings = {"repetitions": wanted, "resamples": n_resamples, "seed": seed, "rule": rule}
        rows = [
            asdict(recovery) | {"faults": list(failed)}
            for recovery, failed in zip(found, faults, strict=True)
        ]
        print_json({**settings, "passed": not any(faults), "rows": rows})
    else:
        _print_table(found, faults, rule=rule)
    n_failed = sum(map(bool, faults))
    if n_failed:
        raise ValueError(
            f"selftest: {n_failed} of {len(found)} rows fail; do not trust results of that kind, "
            f"and report it with the version and --repetitions {wanted} --seed {seed}"
        )


def find_faults(recovery: "Recovery", *, n_checks: int) -> tuple[str, ...]:
    """The checks that a recovery fails; four are made, each with room for chance.

    Args:
        recovery: From `charm_rm.planted.run_scenario`.
        n_checks: Checks in the whole run, which share the chance of a false alarm.

    Returns:
        Names of the failed checks.

    Example:
        >>> from charm_rm.planted import SCENARIOS, run_scenario
        >>> (recovery,) = run_scenario(SCENARIOS[1], repetitions=5, n_resamples=50)
        >>> find_faults(recovery, n_checks=4)
        ()
    """
    from scipy.special import stdtrit

    n, tail = recovery.n_repetitions, 0.5 * FALSE_ALARMS / n_checks
    low, high = coverage_band(n, n_checks=n_checks)
    lean = (MAX_LEAN - float(stdtrit(n - 1, tail)) / n**0.5) * recovery.offset_spread
    most = most_false_discoveries(n, n_checks=n_checks)
    checks = {
        "offset leans": abs(recovery.mean_offset - recovery.truth.offset) <= lean,
        "offset coverage": low <= recovery.offset_coverage <= high,
        "mismatch coverage": low <= recovery.mismatch_coverage <= high,
        "false discoveries": recovery.false_discoveries <= most,
    }
    return tuple(name for name, passed in checks.items() if not passed)


def coverage_band(n_repetitions: int, *, n_checks: int) -> tuple[float, float]:
    """Shares of covering 95% intervals that pass: 0.93 to 0.97, or as far off as chance goes.

    Chance goes to the ends of the exact binomial interval around 0.95 at the level 1 - 0.05 /
    n_checks. From 2,000 repetitions on, these are inside 0.93 to 0.97.

    Args:
        n_repetitions: Number of intervals.
        n_checks: Checks in the whole run.

    Returns:
        Lowest and highest share that pass.

    Example:
        >>> coverage_band(2000, n_checks=72)
        (0.93, 0.97)
    """
    from scipy.stats import binom

    tail = 0.5 * FALSE_ALARMS / n_checks
    low, high = binom.ppf([tail, 1.0 - tail], n_repetitions, 0.95) / n_repetitions
    return min(BAND[0], float(low)), max(BAND[1], float(high))


def most_false_discoveries(n_repetitions: int, *, n_checks: int) -> float:
    """Largest mean share of false discoveries that passes: what 0.05 reaches by chance.

    Args:
        n_repetitions: Number of audits.
        n_checks: Checks in the whole run.

    Returns:
        The upper end of the exact binomial interval at the level 1 - 0.05 / n_checks.

    Example:
        >>> most_false_discoveries(1000, n_checks=72)
        0.073
    """
    from scipy.stats import binom

    most = binom.isf(FALSE_ALARMS / n_checks, n_repetitions, MAX_FALSE_DISCOVERIES)
    return float(most) / n_repetitions


def _run_all(repetitions: int, *, n_resamples: int, seed: int) -> Iterator["Recovery"]:
    """Every scenario in its order, on all cores; the longest starts first."""
    import signal
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import active_children, get_context

    from charm_rm.planted import SCENARIOS, run_scenario

    settings = {"repetitions": repetitions, "n_resamples": n_resamples, "seed": seed}
    pool = ProcessPoolExecutor(
        mp_context=get_context("spawn"),
        initializer=signal.signal,  # Ctrl-C is for this process, which then ends the others
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        longest_first = sorted(SCENARIOS, key=lambda scenario: -scenario.n_prompts)
        tasks = {
            scenario.name: pool.submit(run_scenario, scenario, **settings)
            for scenario in longest_first
        }
        for number, scenario in enumerate(SCENARIOS, start=1):
            yield from tasks[scenario.name].result()
            say(f"{number} of {len(SCENARIOS)}: {scenario.name}")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in active_children():
            process.terminate()


def _print_table(found: "list[Recovery]", faults: list[tuple[str, ...]], *, rule: str) -> None:
    from rich.table import Table

    first = found[0]
    table = Table(
        title=f"What was planted, and what {first.n_repetitions} audits and calibrations found",
        title_justify="left",
        caption=rule,
        caption_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("\nscenario", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right")
    table.add_column("\nverdict")
    for recovery, failed in zip(found, faults, strict=True):
        table.add_row(*_table_row(recovery), "FAIL: " + ", ".join(failed) if failed else "pass")
    page().print(table)


def _table_row(recovery: "Recovery") -> tuple[str, ...]:
    truth, n = recovery.truth, recovery.n_repetitions
    part = f": {recovery.category}" if recovery.category else ""
    return (
        recovery.scenario + part,
        f"{recovery.n_prompts:.0f}",
        f"{truth.bias:.4g}",
        f"{_tidy(truth.offset, recovery.offset_spread):.4g}",
        f"{recovery.mean_offset:.4g}",
        _share(recovery.offset_coverage, n),
        f"{truth.signed_mismatch:z.3f}",
        f"{recovery.mean_mismatch:z.3f}",
        _share(recovery.mismatch_coverage, n),
        f"{recovery.found:.3f}" if truth.bias else "",
        f"{recovery.false_discoveries:.3f}",
    )


def _tidy(value: float, spread: float) -> float:
    """A value, or 0 where only rounding keeps it from 0."""
    return value if abs(value) > 1e-6 * spread else 0.0


def _share(share: float, n_repetitions: int) -> str:
    """A share with its 95% binomial margin (Wilson's, which 0 and 1 have as well)."""
    square = NORMAL_95**2 / n_repetitions
    margin = (share * (1.0 - share) * square + 0.25 * square**2) ** 0.5 / (1.0 + square)
    return f"{share:.3f} ±{margin:.3f}"
