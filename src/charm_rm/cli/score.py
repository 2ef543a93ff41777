"""``charm score``: what a reward model gives to responses; long runs resume."""

import json as json_module
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charm_rm.cli.console import print_json, record_run, require_extra, say, warn, words
from charm_rm.cli.options import Force, Json

if TYPE_CHECKING:
    import polars as pl

SUFFIXES = (".parquet", ".csv", ".jsonl")  # checked before the scoring, not after it
SECONDS_BETWEEN_LINES = 60.0  # of progress, where standard error is no terminal


class Precision(StrEnum):
    """Precision of the backbone; the head is float32."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


def score(
    responses: Annotated[
        list[str],
        typer.Argument(
            metavar="RESPONSES...",
            help="Responses: Parquet, JSONL, CSV, AlpacaEval JSON, Hugging Face data set.",
            show_default=False,
        ),
    ],
    reward_model: Annotated[
        str, typer.Option(metavar="DIR|HUB_ID", help="Sequence classifier with one output.")
    ],
    out: Annotated[
        str, typer.Option(metavar="SCORES", help="Scores to write: .parquet, .csv or .jsonl.")
    ],
    base_model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|HUB_ID",
            help="Base of a reward model that holds its trained part alone.",
            show_default="what its config.json names",
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Score this policy only; repeat for more.", show_default="all"
        ),
    ] = None,
    dtype: Annotated[
        Precision | None,
        typer.Option(
            help="Precision of the model; its head is always float32.",
            show_default="bfloat16 where the device computes in it",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE", help="PyTorch device.", show_default="the GPU if there is one"
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            min=1,
            help="Cut longer conversations at their end.",
            show_default="what the model takes",
        ),
    ] = None,
    batch_tokens: Annotated[
        int,
        typer.Option(
            metavar="TOKENS",
            min=1,
            help="Padded tokens per batch on a GPU; a killed run loses about as many.",
        ),
    ] = 16_384,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Score responses with a reward model. Run it again to resume.

    Example: charm score model_outputs.json --reward-model Skywork/Skywork-Reward-V2-Qwen3-0.6B
    --out scores.parquet
    """
    for module in ("torch", "transformers"):
        require_extra("charm score", module, extra="models")
    parts = _check_output(out, force=force, inputs=responses)

    from charm_rm.data.parts import remove_parts
    from charm_rm.data.responses import read_responses

    table = _choose_policies(read_responses(responses), policy)

    from charm_rm.models.reward_models import load_reward_model
    from charm_rm.models.scoring import score_responses

    model = load_reward_model(
        reward_model,
        base_model=base_model,
        dtype=dtype.value if dtype else None,
        device=device,
        max_length=max_length,
        trust_remote_code=trust_remote_code,
    )
    warn(model.warnings)
    say(f"{len(table)} responses; {model.name} in {model.dtype} on {model.device}")
    with _meter() as meter:
        scores = score_responses(
            table, model, parts=parts, batch_tokens=batch_tokens, on_progress=meter.report
        )
    made_by = record_run(responses) | {"model": model.fingerprint()}
    _write_scores(scores, out, made_by=made_by, force=force)
    remove_parts(parts)
    summary = _summarise(table, scores, meter)
    if json:
        print_json({"reward_model": model.name, "out": out, **summary, "made_by": made_by})
    _say_summary(summary, out)


@dataclass
class _Meter:
    """Tokens of this run against the clock; what an earlier run did counts for nothing."""

    show: Callable[["_Meter"], None]
    started: float = 0.0
    seconds: float = 0.0
    first: int = 0
    done: int = 0
    total: int = 0

    def report(self, done: int, total: int) -> None:
        """Takes the state from `score_responses`, of which the first call is the start."""
        if not self.started:
            self.started, self.first, self.total = time.monotonic(), done, total
        self.done, self.seconds = done, time.monotonic() - self.started
        self.show(self)

    @property
    def tokens_per_second(self) -> float:
        return (self.done - self.first) / self.seconds if self.seconds else 0.0


@contextmanager
def _meter() -> Iterator[_Meter]:
    """Progress by tokens: a bar on a terminal, elsewhere a line a minute."""
    console = words()
    if not console.is_terminal:
        yield _Meter(show=_line_a_minute())
        return
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[speed]:,.0f} tokens/s, left"),
        # Chunks take seconds: a short memory would see too few of them.
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, speed_estimate_period=300, transient=True) as progress:
        task = progress.add_task("", total=None, speed=0.0, start=False)

        def show(meter: _Meter) -> None:
            if meter.done == meter.first:
                progress.reset(task, total=meter.total, completed=meter.done, speed=0.0)
            progress.update(task, completed=meter.done, speed=meter.tokens_per_second)

        yield _Meter(show=show)


def _line_a_minute() -> Callable[[_Meter], None]:
    next_line = 0.0

    def show(meter: _Meter) -> None:
        nonlocal next_line
        if meter.seconds < next_line:
            return
        next_line = meter.seconds + SECONDS_BETWEEN_LINES
        line = f"{meter.done:,} of {meter.total:,} tokens"
        if speed := meter.tokens_per_second:
            minutes = (meter.total - meter.done) / speed / 60
            line += f", {speed:,.0f} tokens/s, about {minutes:,.0f} minutes left"
        say(line)

    return show


def _check_output(out: str, *, force: bool, inputs: list[str]) -> Path:
    """Where the parts go, once it is sure that the scores can be written when they are there."""
    from charm_rm.data.tables import DataError, refuse_existing

    path = Path(out)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{out}: unknown kind of table; give one of {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise DataError(f"{out}: is a directory; give a file")
    refuse_existing(path, force=force, inputs=inputs)
    return path.with_name(f"{path.name}.parts")


def _choose_policies(table: "pl.DataFrame", wanted: list[str] | None) -> "pl.DataFrame":
    from charm_rm.data.tables import not_found

    known = table["policy"].unique().sort().to_list()
    for name in wanted or []:
        if name not in known:
            raise not_found("policy", name, names=known, where="responses")
    return table.filter(table["policy"].is_in(wanted)) if wanted else table


def _write_scores(
    scores: "pl.DataFrame", out: str, *, made_by: dict[str, Any], force: bool
) -> None:
    """Writes the table; in Parquet, what made it stands in the file's metadata."""
    from charm_rm.data.tables import replacing, write_table

    if Path(out).suffix.lower() != ".parquet":
        write_table(scores, out, force=force)
        return
    metadata = {"charm_rm": json_module.dumps(made_by, ensure_ascii=False)}
    replacing(out, lambda part: scores.write_parquet(part, metadata=metadata), force=force)


def _summarise(
    responses: "pl.DataFrame", scores: "pl.DataFrame", meter: _Meter
) -> dict[str, int | float]:
    return {
        "n_responses": len(scores),
        "n_policies": scores["policy"].n_unique(),
        "n_prompts": scores["prompt_id"].n_unique(),
        "n_tokens": int(scores["n_tokens"].sum()),
        "n_truncated": int(scores["truncated"].sum()),
        "n_empty": int((responses["response"].str.strip_chars() == "").sum()),
        "n_tokens_this_run": meter.done - meter.first,
        "seconds": round(meter.seconds, 3),
        "tokens_per_second": round(meter.tokens_per_second, 1),
    }


def _say_summary(summary: dict[str, int | float], out: str) -> None:
    say(
        f"wrote {out}: {summary['n_responses']:,} scores of {summary['n_policies']:,} policies, "
        f"{summary['n_tokens']:,} tokens, {summary['tokens_per_second']:,.0f} tokens/s, "
        f"{summary['n_truncated']:,} truncated, {summary['n_empty']:,} empty"
    )
