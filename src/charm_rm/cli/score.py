"""``charm score``: what a reward model gives to responses; long runs resume."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charm_rm.cli.console import print_json, record_run, require_extra, say, warn, words
from charm_rm.cli.options import (
    BaseModel,
    Device,
    Dtype,
    Force,
    Json,
    Like,
    MaxLength,
    NoSystemPrompt,
    Ray,
    RayWorkers,
    Revision,
    TrustRemoteCode,
)

if TYPE_CHECKING:
    import polars as pl

SUFFIXES = (".parquet", ".csv", ".jsonl")  # checked before the scoring, not after it
SECONDS_BETWEEN_LINES = 60.0  # of progress, where standard error is no terminal


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
    base_model: BaseModel = None,
    like: Like = None,
    revision: Revision = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Score this policy only; repeat for more.", show_default="all"
        ),
    ] = None,
    dtype: Dtype = None,
    device: Device = None,
    max_length: MaxLength = None,
    batch_tokens: Annotated[
        int,
        typer.Option(
            metavar="TOKENS",
            min=1,
            help="Padded tokens per batch on a GPU; a killed run loses about as many, with --ray "
            "about four times as many for each worker.",
        ),
    ] = 16_384,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Compute each response alone: nothing else enters its score."),
    ] = False,
    ray: Ray = None,
    ray_workers: RayWorkers = None,
    no_system_prompt: NoSystemPrompt = False,
    trust_remote_code: TrustRemoteCode = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Score responses with a reward model. Run it again to resume.

    Example: charm score model_outputs.json --reward-model Skywork/Skywork-Reward-V2-Qwen3-0.6B
    --out scores.parquet
    """
    for module in ("torch", "transformers"):
        require_extra("charm score", module, "models")
    parts = _check_output(out, force=force, inputs=responses)

    from charm_rm.data.parts import remove_parts
    from charm_rm.data.provenance import library_versions, write_scores
    from charm_rm.data.responses import read_responses

    table = _choose_policies(read_responses(responses), policy)

    from charm_rm.models.reward_models import load_reward_model

    load = partial(
        load_reward_model,
        reward_model if ray is None else _absolute(reward_model),
        base_model=base_model if ray is None or base_model is None else _absolute(base_model),
        like=like,
        revision=revision,
        dtype=dtype.value if dtype else None,
        device=device,
        max_length=max_length,
        exact=exact,
        system_prompt=not no_system_prompt,
        trust_remote_code=trust_remote_code,
    )
    opened, run = _choose_place(load, ray=ray, n_workers=ray_workers, device=device)
    with opened as model:
        warn(model.warnings)
        say(f"{len(table)} responses; {model.name} in {model.dtype} on {model.device}")
        with _meter() as meter:
            scores = run(
                table,
                model,
                parts=parts,
                batch_tokens=batch_tokens,
                on_progress=meter.report,
            )
    made_by = record_run(responses) | {
        "model": model.fingerprint(),
        "n_truncated": int(scores["truncated"].sum()),
        "libraries": library_versions(),
    }
    write_scores(scores, out, made_by=made_by, force=force)
    remove_parts(parts)
    summary = _summarise(table, scores, meter)
    if json:
        print_json({"reward_model": model.name, "out": out, **summary, "made_by": made_by})
    _say_summary(summary, out)


def _choose_place(
    load: Callable[[], Any], *, ray: str | None, n_workers: int | None, device: str | None
) -> tuple[Any, Callable[..., "pl.DataFrame"]]:
    """The model in a context, here or on a cluster, and the function that scores with it."""
    if ray is None:
        from charm_rm.models.scoring import score_responses

        run = partial(score_responses, on_warning=lambda line: warn([line]))
        return nullcontext(load()), run
    from charm_rm.models.cluster_scoring import model_on_cluster, score_on_cluster

    return model_on_cluster(load, address=ray, n_workers=n_workers, device=device), score_on_cluster


def _absolute(model: str) -> str:
    """A directory by its whole path: workers start elsewhere. A hub id stays as it is."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


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
            self.started, self.first = time.monotonic(), done
        self.done, self.total, self.seconds = done, total, time.monotonic() - self.started
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
            progress.update(
                task, total=meter.total, completed=meter.done, speed=meter.tokens_per_second
            )

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
            raise not_found("policy", name, known, where="responses")
    return table.filter(table["policy"].is_in(wanted)) if wanted else table


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
