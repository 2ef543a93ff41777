"""The measured claims, as one table: `make bench`. Writes nothing but with --json PATH.

All scores are synthetic and seeded: a prompt effect that both policies share (standard deviation
4 score points, as some prompts draw high scores from every policy), noise of each response (1.5),
and 2 points too many for the over-valued policy, where its Elo expects a win rate of 0.4187. Times
are the best of several runs (of one for the released algorithm, which takes seconds); read them as
ratios within one table. Whole processes show their median too, and bare Python beside them.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.table import Table

import charm_rm
from charm_rm.core.battles import count_battles
from charm_rm.core.intervals import resample_counts
from charm_rm.core.joint import solve_joint_offsets
from charm_rm.core.joint_bootstrap import solve_resampled_joint_hard_offsets
from charm_rm.core.ratings import fit_ratings, resample_ratings
from charm_rm.core.win_rates import Floats
from charm_rm.data.arena import read_elo

OVER_VALUED, REFERENCE = "gemma-2-9b-it-SimPO", "gpt-4o-mini-2024-07-18"


@dataclass(frozen=True)
class Result:
    """One line of the table: what was measured, what came out, and what it should be."""

    what: str
    value: str
    goal: str = ""
    met: bool | None = None


def draw_scores(n_prompts: int, n_policies: int, *, rng: np.random.Generator) -> Floats:
    """Scores with a shared prompt effect, shape (n_prompts, n_policies); the first is favoured."""
    scores = rng.normal(0.0, 4.0, (n_prompts, 1)) + rng.normal(0.0, 1.5, (n_prompts, n_policies))
    scores[:, 0] += 2.0
    return scores


def released_offset(
    over_valued: Floats, reference: Floats, *, target: float, all_blocks: bool, seed: int = 0
) -> float:
    """Offset as the released algorithm finds it: gradient descent on cross-prompt pairs.

    Written afresh from a description, not from its source: a small network is fed zeros, its
    output is the offset, and 100 steps of Adam fit the mean of sigmoid(margin / 0.1) over the
    cross-prompt matrix (scores of all prompts against scores of all prompts) in blocks of 1000.
    Where the description is silent (16 hidden units, step size 0.05), the choice converges.

    Args:
        over_valued: Scores of the over-valued policy, in score points, shape (n_prompts,).
        reference: Scores of the reference model, shape (n_prompts,).
        target: Win rate to reach.
        all_blocks: Whether every block of one meets every block of the other, or only its own
            twin: the cheaper reading of the same description.
        seed: Of the network's first weights.

    Returns:
        The offset in score points.
    """
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    adam = torch.optim.Adam(network.parameters(), lr=0.05)
    rows, columns = tensor_blocks(over_valued), tensor_blocks(reference)
    blocks = list(product(rows, columns) if all_blocks else zip(rows, columns, strict=True))
    for _ in range(100):
        offset = network(torch.zeros(1, 1)).squeeze()
        rates = [torch.sigmoid((a[:, None] + offset - b) / 0.1).mean() for a, b in blocks]
        loss = (torch.stack(rates).mean() - target) ** 2
        adam.zero_grad()
        loss.backward()
        adam.step()
    return float(network(torch.zeros(1, 1)).item())


def tensor_blocks(scores: Floats, *, size: int = 1000) -> list[torch.Tensor]:
    """The scores in single precision, cut into blocks of equal size but for the last."""
    starts = range(0, len(scores), size)
    return [torch.tensor(scores[at : at + size], dtype=torch.float32) for at in starts]


def bench_offset(n_prompts: int = 4000) -> list[Result]:
    """Eq. 4 as a root against the released algorithm: the time, and the mismatch each leaves."""
    over_valued, reference = draw_scores(n_prompts, 2, rng=np.random.default_rng(0)).T
    margins = over_valued - reference
    target = float(charm_rm.expected_win_rate(1216, 1273))

    def left(offset: float) -> float:
        rate = charm_rm.sigmoid_win_rate(margins + offset)
        return float(charm_rm.signed_mismatch(rate, target))

    residual = abs(left(charm_rm.solve_offset(margins, target)))
    ours = best_time(lambda: charm_rm.solve_offset(margins, target), n_runs=50)
    results = [
        Result(f"solve_offset, {n_prompts:,} prompts", f"{1e3 * ours:.3f} ms"),
        Result("  mismatch left", f"{residual:.0e}", "< 1e-09", residual < 1e-9),
    ]
    for name, all_blocks in (("all blocks", True), ("twin blocks", False)):
        start = time.perf_counter()
        fitted = released_offset(over_valued, reference, target=target, all_blocks=all_blocks)
        taken = time.perf_counter() - start
        ratio = f"{taken:.2f} s = {taken / ours:,.0f} x"
        met = taken / ours >= 10_000 if all_blocks else None
        results += [
            Result(f"released algorithm, {name}", ratio, ">= 10,000 x" * all_blocks, met),
            Result("  signed mismatch left", f"{left(fitted):+.3f}"),
        ]
    return results


def bench_interval(n_prompts: int = 20_000) -> list[Result]:
    """Offset, mismatch and their intervals from 1000 resamples, ratings drawn as well."""
    elo = read_elo("table7")
    drawn = draw_scores(n_prompts, 2, rng=np.random.default_rng(1))
    scores = score_table(drawn, [OVER_VALUED, REFERENCE])

    def calibrate() -> None:
        charm_rm.calibrate_pair(scores, elo, over_valued=OVER_VALUED, reference=REFERENCE)

    taken = best_time(calibrate, n_runs=3)
    what = f"calibrate_pair, {n_prompts:,} prompts"
    return [Result(what, f"{taken:.2f} s", "< 2 s", taken < 2.0)]


def bench_processes(n_runs: int = 5) -> list[Result]:
    """Whole processes as a shell starts them, from nothing to their exit."""
    charm = str(Path(sys.executable).with_name("charm"))
    policies = read_elo("table7").models[:20]
    scores = score_table(draw_scores(805, 20, rng=np.random.default_rng(2)), policies)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.parquet"
        scores.write_parquet(path)
        audit = [charm, "audit", str(path), "--elo", "table7", "--json"]
        return [
            time_process("python -c pass", [sys.executable, "-c", "pass"], n_runs=n_runs),
            time_process("charm --help", [charm, "--help"], n_runs=n_runs, at_most=0.3),
            time_process("charm audit, 20 x 805 scores", audit, n_runs=n_runs, at_most=1.5),
        ]


def score_table(scores: Floats, policies: list[str]) -> pl.DataFrame:
    """A scores table, one row per prompt and policy, from an array of that shape."""
    n_prompts = len(scores)
    return pl.DataFrame(
        {
            "prompt_id": np.repeat([f"prompt-{i}" for i in range(n_prompts)], len(policies)),
            "policy": policies * n_prompts,
            "sample": np.zeros(scores.size, dtype=np.int64),
            "score": scores.ravel(),
            "reward_model": ["synthetic"] * scores.size,
        }
    )


def bench_many() -> list[Result]:
    """Joint offsets of K policies on N prompts, and ratings from a million battles."""
    results = []
    for n_policies, n_prompts, goal in (
        (24, 805, 0.5),
        (24, 20_000, None),
        (96, 805, None),
        (223, 805, 30),
    ):
        rng = np.random.default_rng(0)
        scores = draw_scores(n_prompts, n_policies, rng=rng)
        elo = rng.normal(1200.0, 80.0, n_policies)
        start = time.perf_counter()
        found = solve_joint_offsets(scores, elo, reference=0)
        taken = time.perf_counter() - start
        what = f"joint offsets, {n_policies} policies, {n_prompts:,} prompts"
        shown = f"{taken:.2f} s, gradient {found.gradient_norm:.0e}"
        results.append(
            Result(what, shown, f"< {goal} s" if goal else "", taken < goal if goal else None)
        )
    results += bench_joint_hard()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    results.append(Result("  peak memory of the whole benchmark", f"{peak:.2f} GiB"))
    return [*results, *bench_ratings()]


def bench_joint_hard(n_policies: int = 24, n_prompts: int = 805) -> list[Result]:
    """Joint offsets of hard win rates, and their intervals from 1,000 resamples."""
    rng = np.random.default_rng(0)
    scores = draw_scores(n_prompts, n_policies, rng=rng)
    elo = rng.normal(1200.0, 80.0, n_policies)
    start = time.perf_counter()
    found = solve_joint_offsets(scores, elo, reference=0, kind="hard")
    fitted = time.perf_counter() - start
    counts = np.concatenate(list(resample_counts(n_prompts, n_resamples=1000, rng=rng)))
    start = time.perf_counter()
    solve_resampled_joint_hard_offsets(
        scores,
        counts,
        elo=np.tile(elo, (1000, 1)),
        elo_centre=elo,
        offsets=found.offsets,
        reference=0,
    )
    drawn = time.perf_counter() - start
    what = f"joint hard offsets, {n_policies} policies, {n_prompts:,} prompts"
    return [Result(what, f"{fitted:.2f} s"), Result("  1,000 resamples", f"{drawn:.1f} s")]


def bench_ratings(n_battles: int = 1_000_000, n_models: int = 100) -> list[Result]:
    """Bradley-Terry ratings of synthetic battles, 15% of them ties, from raw arrays."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, n_models, n_battles)
    second = (first + rng.integers(1, n_models, n_battles)) % n_models
    strength = rng.normal(0.0, 1.0, n_models)
    wins = rng.random(n_battles) < 1.0 / (1.0 + np.exp(strength[second] - strength[first]))
    outcomes = np.where(rng.random(n_battles) < 0.15, 0.5, wins.astype(np.float64))

    def fit() -> object:
        return fit_ratings(count_battles(first, second, outcomes=outcomes, n_models=n_models))

    counts = count_battles(first, second, outcomes=outcomes, n_models=n_models)
    fitted = best_time(fit, n_runs=5)
    start = time.perf_counter()
    resample_ratings(counts, fit_ratings(counts), n_resamples=1000, rng=rng)
    drawn = time.perf_counter() - start
    return [
        Result(f"ratings of {n_battles:,} battles", f"{fitted:.3f} s", "< 0.3 s", fitted < 0.3),
        Result("  1,000 resamples", f"{drawn:.1f} s", "< 15 s", drawn < 15),
    ]


def best_time(task: Callable[[], object], *, n_runs: int) -> float:
    """Least wall-clock time of one run, in seconds: what noise can only add to."""
    times = []
    for _ in range(n_runs):
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return min(times)


def time_process(
    what: str, command: list[str], *, n_runs: int, at_most: float | None = None
) -> Result:
    """Best and median wall-clock time of a command that must succeed; the goal is on the best."""
    times = []
    for _ in range(n_runs):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    shown = f"{min(times):.3f} s (median {median(times):.3f})"
    if at_most is None:
        return Result(what, shown)
    return Result(what, shown, f"< {at_most} s", min(times) < at_most)


def main() -> None:
    """Run all of it, print the table, and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results here")
    arguments = parser.parse_args()
    results = [*bench_offset(), *bench_interval(), *bench_processes(), *bench_many()]
    table = Table("measured", "result", "goal", "met", box=None)
    for result in results:
        met = {None: "", True: "yes", False: "MISSED"}[result.met]
        table.add_row(result.what, result.value, result.goal, met)
    console = Console(highlight=False)
    console.print(table)
    console.print(f"\n{machine()}", soft_wrap=True)
    if arguments.json:
        document = {"machine": machine(), "results": [asdict(result) for result in results]}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def machine() -> str:
    """What it ran on, in a line."""
    return (
        f"charm-rm {charm_rm.__version__}, Python {platform.python_version()}, "
        f"numpy {np.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{platform.machine()} {platform.system()}"
    )


if __name__ == "__main__":
    main()
