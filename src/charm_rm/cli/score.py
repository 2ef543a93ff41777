"""``charm score``: what a reward model gives to responses; long runs resume."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charm_rm.cli.console import print_json, record_run, require_extra, say, warn
from charm_rm.cli.endpoint import (
    Api,
    ApiOption,
    Concurrency,
    Endpoint,
    ServedModel,
    Tokenizer,
    connect_model,
    refuse_options,
)
from charm_rm.cli.options import (
    BaseModel,
    Device,
    Dtype,
    Force,
    Json,
    Like,
    MaxLength,
    NoSystemPrompt,
    Precision,
    Ray,
    RayWorkers,
    Revision,
    TrustRemoteCode,
    resolve_directory,
)
from charm_rm.cli.progress import Meter, meter

if TYPE_CHECKING:
    import polars as pl

SUFFIXES = (".parquet", ".csv", ".jsonl")  # checked before the scoring, not after it
BATCH_TOKENS = 16_384


def score(
    responses: Annotated[
        list[str],
        typer.Argument(
            metavar="RESPONSES...",
            help="Responses: Parquet, JSONL, CSV, AlpacaEval JSON, Hugging Face data set.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str, typer.Option(metavar="SCORES", help="Scores to write: .parquet, .csv or .jsonl.")
    ],
    reward_model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|HUB_ID",
            help="Sequence classifier with one output; with --endpoint, what to compare it with.",
            show_default=False,
        ),
    ] = None,
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
    ] = BATCH_TOKENS,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Compute each response alone: nothing else enters its score."),
    ] = False,
    no_system_prompt: NoSystemPrompt = False,
    trust_remote_code: TrustRemoteCode = False,
    ray: Ray = None,
    ray_workers: RayWorkers = None,
    endpoint: Endpoint = None,
    served_model: ServedModel = None,
    tokenizer: Tokenizer = None,
    api: ApiOption = Api.AUTO,
    concurrency: Concurrency = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Score responses with a reward model, here, on a server or on a cluster.

    Run it again to resume.

    Example: charm score model_outputs.json --reward-model Skywork/Skywork-Reward-V2-Qwen3-0.6B
    --out scores.parquet
    """
    if endpoint is None and reward_model is None:
        raise typer.BadParameter("give a model, or --endpoint", param_hint="--reward-model")
    here: dict[str, Any] = {
        "dtype": dtype,
        "device": device,
        "exact": exact,
        "batch_tokens": batch_tokens,
        "ray": ray,
        "ray_workers": ray_workers,
    }
    on_server: dict[str, Any] = {
        "model": served_model,
        "api": api,
        "tokenizer": tokenizer,
        "concurrency": concurrency,
    }
    if endpoint is None:
        _refuse_given(on_server, because="is for a server; give its --endpoint")
    else:
        _refuse_given(here, because="is the server's choice with --endpoint; leave it out")
    if ray is None:
        _refuse_given({"ray_workers": ray_workers}, because="is for a cluster; give --ray")
    if reward_model is not None or tokenizer is not None:
        for module in ("torch", "transformers"):
            require_extra("charm score", module, extra="models")
    parts = _check_output(out, force=force, inputs=responses)

    from charm_rm.data.parts import remove_parts
    from charm_rm.data.provenance import write_scores
    from charm_rm.data.responses import read_responses

    table = _choose_policies(read_responses(responses), policy)
    loading: dict[str, Any] = {
        "like": like,
        "revision": revision,
        "max_length": max_length,
        "system_prompt": not no_system_prompt,
        "trust_remote_code": trust_remote_code,
    }
    if endpoint is None:
        place = _place_here(str(reward_model), base_model, **here, **loading)
    else:
        models = {"reward_model": reward_model, "base_model": base_model}
        place = _place_on_server(endpoint, **on_server, **models, **loading)
    scores, progress, made_by = _run(place, table, parts=parts)
    made_by = record_run(responses) | made_by
    write_scores(scores, out, made_by=made_by, force=force)
    remove_parts(parts)
    summary = _summarise(table, scores, progress)
    if json:
        name = made_by["model"]["reward_model"]
        print_json({"reward_model": name, "out": out, **summary, "made_by": made_by})
    _say_summary(summary, out, speed=f"{progress.per_second:,.0f} {place.unit}/s")


@dataclass(frozen=True)
class _Place:
    """Where the model computes: what opens it there, and what scores with it."""

    opened: Callable[[], AbstractContextManager[Any]]
    score: Callable[..., "pl.DataFrame"]
    describe: Callable[[Any], str]
    unit: str = "tokens"
    provenance: dict[str, str] = field(default_factory=dict)


def _place_here(
    name: str,
    base_model: str | None,
    *,
    ray: str | None,
    ray_workers: int | None,
    batch_tokens: int,
    dtype: Precision | None,
    **loading: Any,
) -> _Place:
    """On this machine, or on the workers of a cluster, which start in other directories."""
    from charm_rm.models.reward_models import load_reward_model

    loading["dtype"] = dtype.value if dtype else None
    if ray is None:
        from charm_rm.models.scoring import score_responses

        load = partial(load_reward_model, name, base_model=base_model, **loading)
        return _Place(
            opened=lambda: nullcontext(load()),
            score=partial(score_responses, batch_tokens=batch_tokens),
            describe=_say_device,
        )
    from charm_rm.models.cluster_scoring import model_on_cluster, score_on_cluster

    load = partial(
        load_reward_model,
        str(resolve_directory(name)),
        base_model=resolve_directory(base_model),
        **loading,
    )
    device = loading["device"]
    return _Place(
        opened=partial(model_on_cluster, load, address=ray, n_workers=ray_workers, device=device),
        score=partial(score_on_cluster, batch_tokens=batch_tokens),
        describe=_say_device,
    )


def _place_on_server(url: str, **connecting: Any) -> _Place:
    from charm_rm.models.endpoint_scoring import score_at_endpoint

    served = connect_model(url, **connecting)
    return _Place(
        opened=lambda: nullcontext(served),
        score=score_at_endpoint,
        describe=lambda model: f"on {model.endpoint.url}, {model.kind}; {model.checked}",
        unit=served.unit,
        provenance={"server": served.kind, "checked": served.checked},
    )


def _run(
    place: _Place, table: "pl.DataFrame", *, parts: Path
) -> tuple["pl.DataFrame", Meter, dict[str, Any]]:
    """The scores, how the run went, and what they were computed with."""
    from charm_rm.data.provenance import library_versions

    with place.opened() as model:
        warn(model.warnings)
        say(f"{len(table)} responses; {model.name} {place.describe(model)}")
        with meter(place.unit) as progress:
            scores = place.score(
                table,
                model,
                parts=parts,
                on_progress=progress.report,
                on_warning=lambda line: warn([line]),
            )
        made_by = {
            "model": model.fingerprint(),
            "n_truncated": int(scores["truncated"].sum()),
            "libraries": library_versions(),
            **place.provenance,
        }
    return scores, progress, made_by


def _say_device(model: Any) -> str:
    return f"in {model.dtype} on {model.device}"


def _refuse_given(options: Mapping[str, object], *, because: str) -> None:
    """Options that were given and would be ignored, by the names of their parameters."""
    unset = {"batch_tokens": BATCH_TOKENS, "api": Api.AUTO}
    refuse_options(
        {
            f"--{name.replace('_', '-')}": value not in (None, False, unset.get(name))
            for name, value in options.items()
        },
        because=because,
    )


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


def _summarise(
    responses: "pl.DataFrame", scores: "pl.DataFrame", meter: Meter
) -> dict[str, int | float]:
    return {
        "n_responses": len(scores),
        "n_policies": scores["policy"].n_unique(),
        "n_prompts": scores["prompt_id"].n_unique(),
        "n_tokens": int(scores["n_tokens"].sum()),
        "n_truncated": int(scores["truncated"].sum()),
        "n_empty": int((responses["response"].str.strip_chars() == "").sum()),
        f"n_{meter.unit}_this_run": meter.done - meter.first,
        "seconds": round(meter.seconds, 3),
        f"{meter.unit}_per_second": round(meter.per_second, 1),
    }


def _say_summary(summary: dict[str, int | float], out: str, *, speed: str) -> None:
    say(
        f"wrote {out}: {summary['n_responses']:,} scores of {summary['n_policies']:,} policies, "
        f"{summary['n_tokens']:,} tokens, {speed}, "
        f"{summary['n_truncated']:,} truncated, {summary['n_empty']:,} empty"
    )
