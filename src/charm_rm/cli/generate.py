"""``charm generate``: what a policy answers to prompts; long runs resume."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charm_rm.cli.console import print_json, record_run, say, warn
from charm_rm.cli.endpoint import refuse_options
from charm_rm.cli.generate_engines import Engine, choose_engine
from charm_rm.cli.generate_words import print_estimate, say_summary, warnings_about
from charm_rm.cli.options import (
    ChatTemplate,
    Device,
    Json,
    PolicyDtype,
    Ray,
    RayWorkers,
    Revision,
    Seed,
    TrustRemoteCode,
    WritersConcurrency,
)
from charm_rm.cli.progress import Meter, meter

if TYPE_CHECKING:
    import polars as pl

    from charm_rm.models.generating import Generated
    from charm_rm.models.generation_costs import Prices
    from charm_rm.models.policies import Request, Sampling


def generate(
    prompts: Annotated[
        list[str],
        typer.Option(
            metavar="FILE",
            help="Prompts, in any form that `charm prompts` reads; repeat for more files.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Directory for responses.parquet and failures.jsonl, of this policy alone.",
        ),
    ],
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What the policy is called.", show_default="the model's name"
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|HUB_ID|NAME",
            help="Causal language model to load; with --endpoint, what the server calls it.",
            show_default="the server's only one",
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Server with a chat API as OpenAI's; a key for it is read from CHARM_API_KEY.",
            show_default="write here",
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Draw N prompts at random.", show_default="all"),
    ] = None,
    samples: Annotated[int, typer.Option(metavar="K", min=1, help="Responses to each prompt.")] = 1,
    seed: Seed = 0,
    temperature: Annotated[
        float, typer.Option(metavar="T", min=0.0, max=10.0, help="0 decodes greedily.")
    ] = 0.7,
    top_p: Annotated[
        float,
        typer.Option("--top-p", metavar="P", help="Nucleus that tokens are drawn from, above 0."),
    ] = 0.9,
    max_new_tokens: Annotated[
        int,
        typer.Option(metavar="TOKENS", min=1, help="Longest response, reasoning included."),
    ] = 2048,
    system: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="System prompt for prompts that have no system turn.",
            show_default=False,
        ),
    ] = None,
    dtype: PolicyDtype = None,
    device: Device = None,
    revision: Revision = None,
    chat_template: ChatTemplate = None,
    trust_remote_code: TrustRemoteCode = False,
    concurrency: WritersConcurrency = None,
    ray: Ray = None,
    ray_workers: RayWorkers = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=1.0,
            help="Time that a server may take for one response.",
            show_default="600",
        ),
    ] = None,
    price_in: Annotated[
        float,
        typer.Option(metavar="PRICE", min=0.0, help="Price of a million prompt tokens."),
    ] = 0.0,
    price_out: Annotated[
        float,
        typer.Option(metavar="PRICE", min=0.0, help="Price of a million tokens written."),
    ] = 0.0,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Estimate tokens and cost of what is missing; ask nothing."),
    ] = False,
    probe: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="With --dry-run: ask N of the requests, keep their responses, measure on them.",
        ),
    ] = 0,
    json: Json = False,
) -> None:
    """Let a policy answer prompts: a model loaded here, on a cluster, or on a server.

    Run it again to resume, or to ask again for what failed.

    Example: charm generate --model HuggingFaceTB/SmolLM2-135M-Instruct --prompts prompts.parquet
    --out smollm2
    """
    _check_options(out, top_p=top_p, dry_run=dry_run, probe=probe)
    from charm_rm.models.generation_costs import Prices
    from charm_rm.models.policies import Sampling

    wanted = _read(prompts, n=sample, samples=samples, seed=seed, system=system)
    sampling = Sampling(temperature, top_p, max_new_tokens)
    local: dict[str, Any] = {
        "dtype": dtype.value if dtype else None,
        "device": device,
        "revision": revision,
        "chat_template": chat_template,
        "trust_remote_code": trust_remote_code,
        "ray": ray,
        "ray_workers": ray_workers,
    }
    opened = choose_engine(
        endpoint,
        model,
        local=local,
        sampling=sampling,
        concurrency=concurrency,
        timeout=timeout,
        ask=not dry_run or probe > 0,
    )
    with opened as engine:
        job = _Job(
            name=policy or engine.name,
            folder=out,
            settings={
                "policy": policy or engine.name,
                **engine.fingerprint,
                **asdict(sampling),
                "seed": seed,
                "system": system,
            },
            sampling=sampling,
            prices=Prices(price_in, price_out),
        )
        warn(engine.warnings)
        if dry_run:
            _estimate(wanted, engine, job, probe=probe, json=json)
            return
        generated, progress = _run(wanted, engine, job)
        made_by = record_run(prompts) | {"settings": job.settings} | engine.record()
    _finish(generated, job, progress, made_by=made_by, json=json)


@dataclass(frozen=True)
class _Wanted:
    """Prompts, and what is asked of the policy about them."""

    prompts: "pl.DataFrame"
    requests: "list[Request]"


@dataclass(frozen=True)
class _Job:
    """What decides the responses, where they go, and what they cost."""

    name: str
    folder: str
    settings: dict[str, Any]
    sampling: "Sampling"
    prices: "Prices"


def _check_options(out: str, *, top_p: float, dry_run: bool, probe: int) -> None:
    from charm_rm.data.tables import DataError

    if not 0.0 < top_p <= 1.0:
        raise typer.BadParameter(f"{top_p:g} is not above 0 and up to 1", param_hint="--top-p")
    if not dry_run:
        refuse_options({"--probe": probe}, because="measures for an estimate; give --dry-run")
    if Path(out).exists() and not Path(out).is_dir():
        raise DataError(f"{out}: is a file; give a directory")


def _read(
    files: list[str], *, n: int | None, samples: int, seed: int, system: str | None
) -> _Wanted:
    from charm_rm.data.prompt_ids import sample_prompts
    from charm_rm.data.prompts import read_prompts
    from charm_rm.models.generating import make_requests

    prompts = read_prompts(files)
    if n is not None:
        prompts = sample_prompts(prompts, n, seed=seed)
    requests = make_requests(prompts, samples=samples, seed=seed, system=system)
    return _Wanted(prompts, requests)


def _run(
    wanted: _Wanted, engine: Engine, job: _Job, *, limit: int | None = None
) -> "tuple[Generated, Meter]":
    from charm_rm.models.generating import generate_responses

    say(f"{len(wanted.requests):,} responses wanted; {engine.name} {engine.where}")
    with meter("responses") as progress:
        generated = generate_responses(
            wanted.prompts,
            wanted.requests,
            engine.policy,
            name=job.name,
            folder=job.folder,
            settings=job.settings,
            limit=limit,
            on_progress=progress.report_responses,
        )
    return generated, progress


def _finish(
    generated: "Generated", job: _Job, progress: Meter, *, made_by: dict[str, Any], json: bool
) -> None:
    """Writes the table, says what is in it, and fails if something is missing."""
    from charm_rm.data.tables import DataError
    from charm_rm.models.generation_costs import tally_responses
    from charm_rm.models.response_folder import FAILURES, TABLE, write_responses

    tally = tally_responses(generated.table, max_new_tokens=job.sampling.max_new_tokens)
    cost = job.prices.cost(tally.n_prompt_tokens, tally.n_tokens)
    n_failed, n_new = len(generated.failures), tally.n_responses - generated.n_before
    write_responses(
        generated.table,
        job.folder,
        made_by=made_by,
        n_there=generated.n_in_table,
        complete=generated.complete,
    )
    table = str(Path(job.folder) / TABLE)
    if json:
        print_json(
            {
                "policy": job.name,
                "out": table,
                "n_wanted": generated.n_wanted,
                **asdict(tally),
                "n_failed": n_failed,
                "n_before": generated.n_before,
                "n_this_run": n_new,
                "n_tokens_this_run": generated.n_tokens,
                "seconds": round(progress.seconds, 3),
                "cost": cost,
                "made_by": made_by,
            }
        )
    warn(warnings_about(generated, tally, sampling=job.sampling))
    say_summary(generated, tally, progress, table, cost=cost)
    if n_failed:
        raise DataError(
            f"{Path(job.folder) / FAILURES}: {n_failed:,} of {generated.n_wanted:,} requests "
            f"failed, the first with: {generated.failures[0].reason[:200]}; run again to ask for "
            "these alone"
        )


def _estimate(wanted: _Wanted, engine: Engine, job: _Job, *, probe: int, json: bool) -> None:
    """Tokens, cost and time of what is missing, from assumptions or from a probe."""
    from charm_rm.models.generating import find_missing
    from charm_rm.models.generation_costs import estimate_run

    rate = None
    if probe:
        generated, progress = _run(wanted, engine, job, limit=probe)
        n_new = len(generated.table) - generated.n_before
        rate = progress.seconds / n_new if n_new else None
        if failed := generated.failures:
            warn([f"{len(failed):,} requests of the probe failed, as by: {failed[0].reason}"])
    missing, stored = find_missing(
        wanted.prompts, wanted.requests, folder=job.folder, settings=job.settings
    )
    estimate = estimate_run(
        wanted.requests,
        missing,
        stored,
        max_new_tokens=job.sampling.max_new_tokens,
        prices=job.prices,
    )
    seconds = None if rate is None else rate * estimate.n_requests
    if json:
        print_json({"policy": job.name, **asdict(estimate), "seconds": seconds})
        return
    print_estimate(estimate, limit=job.sampling.max_new_tokens, seconds=seconds, probe=probe)
