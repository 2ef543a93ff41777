"""``charm generate``: what a policy answers to prompts; long runs resume."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charm_rm.cli.console import print_json, record_run, require_extra, say, warn
from charm_rm.cli.endpoint import Concurrency, Endpoint, refuse_options
from charm_rm.cli.generate_words import print_estimate, say_summary, warnings_about
from charm_rm.cli.options import Json, Seed
from charm_rm.cli.progress import Meter, meter

if TYPE_CHECKING:
    import polars as pl

    from charm_rm.models.endpoint_policy import EndpointPolicy
    from charm_rm.models.generating import Generated
    from charm_rm.models.generation_costs import Prices
    from charm_rm.models.policies import Request, Sampling

LIBRARIES = ("charm-rm", "httpx2", "polars")


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
            metavar="NAME",
            help="What the server calls the model.",
            show_default="its only one",
        ),
    ] = None,
    endpoint: Endpoint = None,
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
    concurrency: Concurrency = None,
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
    """Let a policy answer prompts, behind an OpenAI-compatible endpoint.

    Run it again to resume, or to ask again for what failed.

    Example: charm generate --policy llama-3-8b --prompts prompts.parquet
    --endpoint http://127.0.0.1:8000 --model meta-llama/Meta-Llama-3-8B-Instruct --out llama-3-8b
    """
    _check_options(out, top_p=top_p, dry_run=dry_run, probe=probe, endpoint=endpoint)
    from charm_rm.models.generation_costs import Prices
    from charm_rm.models.policies import Sampling

    sampling = Sampling(temperature, top_p, max_new_tokens)
    offline = dry_run and not probe and model is not None
    engine = _connect(
        str(endpoint), model, sampling, concurrency=concurrency, timeout=timeout, ask=not offline
    )
    wanted = _read(prompts, n=sample, samples=samples, seed=seed, system=system)
    job = _Job(
        name=policy or engine.name,
        folder=out,
        settings={
            "policy": policy or engine.name,
            **engine.fingerprint(),
            **asdict(sampling),
            "seed": seed,
            "system": system,
        },
        prices=Prices(price_in, price_out),
        limit=sampling.max_new_tokens,
    )
    if dry_run:
        _estimate(wanted, engine, job, probe=probe, json=json)
        return
    generated, progress = _run(wanted, engine, job)
    made_by = record_run(prompts) | {"settings": job.settings, **_provenance(engine)}
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
    prices: "Prices"
    limit: int


def _check_options(
    out: str, *, top_p: float, dry_run: bool, probe: int, endpoint: str | None
) -> None:
    from charm_rm.data.tables import DataError

    if endpoint is None:
        raise typer.BadParameter("give the address of a server", param_hint="--endpoint")
    if not 0.0 < top_p <= 1.0:
        raise typer.BadParameter(f"{top_p:g} is not above 0 and up to 1", param_hint="--top-p")
    if not dry_run:
        refuse_options({"--probe": probe}, because="measures for an estimate; give --dry-run")
    if Path(out).exists() and not Path(out).is_dir():
        raise DataError(f"{out}: is a file; give a directory")


def _connect(
    url: str,
    model: str | None,
    sampling: "Sampling",
    *,
    concurrency: int | None,
    timeout: float | None,
    ask: bool,
) -> "EndpointPolicy":
    """The served model; nothing is asked where its name is all that is needed."""
    require_extra("charm generate --endpoint", "httpx2", extra="endpoint")
    from charm_rm.models.endpoint_policy import TIMEOUT, EndpointPolicy, find_policy
    from charm_rm.models.endpoints import CONCURRENCY, Endpoint, parse_address

    where = Endpoint(
        parse_address(url), concurrency=concurrency or CONCURRENCY, timeout=timeout or TIMEOUT
    )
    if model is not None and not ask:
        return EndpointPolicy(model, where, sampling)
    return find_policy(where, model=model, sampling=sampling)


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
    wanted: _Wanted, engine: "EndpointPolicy", job: _Job, *, limit: int | None = None
) -> "tuple[Generated, Meter]":
    from charm_rm.models.generating import generate_responses

    say(f"{len(wanted.requests):,} responses wanted; {engine.name} on {engine.endpoint.url}")
    with meter("responses") as progress:
        generated = generate_responses(
            wanted.prompts,
            wanted.requests,
            engine,
            name=job.name,
            folder=job.folder,
            settings=job.settings,
            limit=limit,
            on_progress=progress.report_responses,
        )
    return generated, progress


def _provenance(engine: "EndpointPolicy") -> dict[str, Any]:
    from charm_rm.data.provenance import library_versions

    return {
        "server": {
            "endpoint": engine.endpoint.url,
            "owner": engine.owner,
            "answered_as": dict(engine.answered_as),
            "left_out": list(engine.left_out),
        },
        "libraries": library_versions(LIBRARIES),
    }


def _finish(
    generated: "Generated", job: _Job, progress: Meter, *, made_by: dict[str, Any], json: bool
) -> None:
    """Writes the table, says what is in it, and fails if something is missing."""
    from charm_rm.data.tables import DataError
    from charm_rm.models.generation_costs import tally_responses
    from charm_rm.models.response_folder import FAILURES, TABLE, write_responses

    tally = tally_responses(generated.table, max_new_tokens=job.limit)
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
    warn(warnings_about(generated, tally, limit=job.limit))
    say_summary(generated, tally, progress, table, cost=cost)
    if n_failed:
        raise DataError(
            f"{Path(job.folder) / FAILURES}: {n_failed:,} of {generated.n_wanted:,} requests "
            f"failed, the first with: {generated.failures[0].reason[:200]}; run again to ask for "
            "these alone"
        )


def _estimate(
    wanted: _Wanted, engine: "EndpointPolicy", job: _Job, *, probe: int, json: bool
) -> None:
    """Tokens, cost and time of what is missing, from assumptions or from a probe."""
    from charm_rm.models.generating import find_missing
    from charm_rm.models.generation_costs import estimate_run

    rate = None
    if probe:
        generated, progress = _run(wanted, engine, job, limit=probe)
        n_new = len(generated.table) - generated.n_before
        rate = progress.seconds / n_new if n_new else None
    missing, stored = find_missing(
        wanted.prompts, wanted.requests, folder=job.folder, settings=job.settings
    )
    estimate = estimate_run(
        wanted.requests, missing, stored, max_new_tokens=job.limit, prices=job.prices
    )
    seconds = None if rate is None else rate * estimate.n_requests
    if json:
        print_json({"policy": job.name, **asdict(estimate), "seconds": seconds})
        return
    print_estimate(estimate, limit=job.limit, seconds=seconds, probe=probe)
