"""``charm train``: fine-tuning on preference pairs."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charm_rm.cli.console import print_json, record_run, require_extra, say
from charm_rm.cli.options import BaseModel, Device, Force, Json, Like, Revision, TrustRemoteCode
from charm_rm.cli.progress import meter
from charm_rm.cli.training_words import (
    describe_result,
    describe_run,
    say_result,
    say_run,
    say_step,
)

if TYPE_CHECKING:
    from charm_rm.data.training_pairs import TrainingPairs
    from charm_rm.models.train_run import Run
    from charm_rm.models.training import TrainedModel

train = typer.Typer(
    name="train", help="Fine-tune a model on preference pairs.", no_args_is_help=True
)
UNCALIBRATED = "-uncalibrated"  # behind the name of the output
RECORD = "training.json"
FIRST = os.environ.get("RANK", "0") == "0"  # of several processes, the one that speaks

Licence = Annotated[
    str | None,
    typer.Option("--license", metavar="ID", help="Licence, for the card.", show_default=False),
]
PushToHub = Annotated[
    str | None,
    typer.Option(
        metavar="HUB_ID",
        help="Upload the model to this repository, private if it is new; nothing else ever leaves "
        "the machine.",
        show_default=False,
    ),
]


class TrainingPrecision(StrEnum):
    """What layers compute in; weights, optimizer and head are float32."""

    BF16 = "bf16"
    FP32 = "fp32"


class Tracker(StrEnum):
    """Where a run is logged."""

    NONE = "none"
    TRACKIO = "trackio"
    WANDB = "wandb"
    TENSORBOARD = "tensorboard"


@train.callback()
def _group() -> None:
    """Fine-tune a model on preference pairs."""


@train.command()
def reward(
    pairs: Annotated[
        str,
        typer.Option(metavar="PAIRS", help="Preference pairs with texts, as charm pairs writes."),
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="DIR|HUB_ID", help="Reward model, or a causal model that gets a new head."
        ),
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="Model directory to write.")],
    base_model: BaseModel = None,
    like: Like = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="YAML",
            help="Settings by TRL's names; the options here win.",
            show_default=False,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="RATE", min=0.0, show_default="2e-6")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(metavar="W", min=0.0, show_default="0.001")
    ] = None,
    warmup: Annotated[
        float | None,
        typer.Option(metavar="SHARE", min=0.0, help="Share of the steps.", show_default="0.03"),
    ] = None,
    epochs: Annotated[float | None, typer.Option(metavar="N", min=0.0, show_default="1")] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Steps, whatever the epochs.", show_default=False),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="PAIRS", min=1, help="Pairs of a step, over all processes.", show_default="64"
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(metavar="TOKENS", min=1, help="Leave longer pairs out.", show_default="4096"),
    ] = None,
    margin: Annotated[
        bool, typer.Option("--margin", help="Ask for the pairs' margins in the loss.")
    ] = False,
    center: Annotated[
        float | None,
        typer.Option(
            metavar="W", min=0.0, help="Draw scores to a mean of 0.", show_default="not at all"
        ),
    ] = None,
    lora: Annotated[
        int | None,
        typer.Option(
            metavar="RANK", min=1, help="Train LoRA and the head.", show_default="all weights"
        ),
    ] = None,
    keep_adapter: Annotated[
        bool, typer.Option("--keep-adapter", help="Write LoRA's adapter, not merged.")
    ] = False,
    eval_fraction: Annotated[
        float,
        typer.Option(metavar="SHARE", min=0.0, max=0.9, help="Share of the prompts held out."),
    ] = 0.0,
    precision: Annotated[
        TrainingPrecision | None,
        typer.Option(
            help="What layers compute in; weights are float32.",
            show_default="bf16 where the device computes in it",
        ),
    ] = None,
    micro_batch_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            min=1,
            help="Most tokens that go through the model together; changes no result.",
            show_default="by device and memory",
        ),
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            help="Compute layers again to save memory; changes no result.",
            show_default="if memory needs it",
        ),
    ] = None,
    device: Device = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Of order, head, split.", show_default="0"),
    ] = None,
    with_uncalibrated_arm: Annotated[
        bool,
        typer.Option(
            "--with-uncalibrated-arm",
            help=f"Train a second model, DIR{UNCALIBRATED}, on the choice of the raw scores.",
        ),
    ] = False,
    report_to: Annotated[
        Tracker | None, typer.Option(help="Where to log the run.", show_default="none")
    ] = None,
    offsets: Annotated[
        str | None,
        typer.Option(
            metavar="OFFSETS", help="Offsets that made the pairs, for the card.", show_default=False
        ),
    ] = None,
    licence: Licence = None,
    push_to_hub: PushToHub = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, estimate and print; load no weights.")
    ] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Fine-tune a reward model on preference pairs (Eq. 1), by the paper's recipe.

    Run it again to resume. Several GPUs: accelerate launch -m charm_rm train reward ...

    Example: charm train reward --pairs pairs.parquet --model Skywork/Skywork-Reward-V2-Qwen3-0.6B
    --out calibrated
    """
    for module in ("torch", "transformers", "trl", "peft"):
        require_extra("charm train", module, extra="train")
    if report_to not in (None, Tracker.NONE):
        require_extra(f"--report-to {report_to.value}", report_to.value, extra="train")
    if keep_adapter and lora is None and config is None:
        raise typer.BadParameter("goes with --lora", param_hint="--keep-adapter")
    if with_uncalibrated_arm and margin:
        raise typer.BadParameter(
            "the margins are those of the calibrated scores; leave one out", param_hint="--margin"
        )

    options = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "warmup_steps": warmup,
        "num_train_epochs": epochs,
        "max_steps": max_steps,
        "batch_size": batch_size,
        "max_length": max_length,
        "center_rewards_coefficient": center,
        "bf16": None if precision is None else precision is TrainingPrecision.BF16,
        "gradient_checkpointing": gradient_checkpointing,
        "seed": seed,
        "report_to": None if report_to is None else report_to.value,
        "use_peft": None if lora is None else True,
        "lora_r": lora,
        "lora_alpha": None if lora is None else 2 * lora,
    }
    arms = _prepare_arms(
        pairs,
        model,
        out,
        uncalibrated=with_uncalibrated_arm,
        force=force,
        finding={
            "base_model": base_model,
            "like": like,
            "revision": revision,
            "trust_remote_code": trust_remote_code,
        },
        settings=_resolve(config, options),
        preparing={
            "eval_fraction": eval_fraction,
            "margin": margin,
            "device": device,
            "micro_batch_tokens": micro_batch_tokens,
        },
    )
    found = _estimate(arms[0].run)
    documents = (
        []
        if dry_run
        else [
            _train_arm(
                arm,
                force=force,
                keep_adapter=keep_adapter,
                offsets=offsets,
                licence=licence,
                inputs=[pairs, *([offsets] if offsets else []), *([config] if config else [])],
            )
            for arm in arms
        ]
    )
    if push_to_hub is not None and not dry_run and FIRST:
        _push(out, push_to_hub)
    if json and FIRST:
        print_json({"estimate": found, "models": documents})


@dataclass(frozen=True)
class _Arm:
    """One of the models that a command trains."""

    name: str
    out: str
    pairs: "TrainingPairs"
    run: "Run"


def _resolve(config: str | None, options: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    from charm_rm.models.train_settings import read_config, resolve_settings

    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    given = read_config(config) if config else {}
    tracker = given.get("report_to")
    if options["report_to"] is None and tracker not in (None, "none"):
        require_extra(f"report_to: {tracker}", str(tracker), extra="train")
    return resolve_settings(given, options, n_processes=n_processes)


def _prepare_arms(
    pairs: str,
    model: str,
    out: str,
    *,
    uncalibrated: bool,
    force: bool,
    finding: Mapping[str, Any],
    settings: tuple[dict[str, Any], int],
    preparing: Mapping[str, Any],
) -> list[_Arm]:
    """Everything that can be refused before weights are loaded, for each of the models."""
    from charm_rm.data.training_pairs import read_training_pairs, undo_calibration
    from charm_rm.models.train_model import inspect_model
    from charm_rm.models.train_run import prepare_run
    from charm_rm.models.training import check_target, unfinished_folder

    texts = {"calibrated": (out, read_training_pairs(pairs))}
    if uncalibrated:
        raw = undo_calibration(texts["calibrated"][1])
        texts["uncalibrated"] = (f"{out.rstrip('/')}{UNCALIBRATED}", raw)
    arms = []
    for name, (target, chosen) in texts.items():
        check_target(Path(target), force=force)
        run = prepare_run(
            chosen,
            inspect_model(model, **finding),
            settings=settings[0],
            batch=settings[1],
            unfinished=unfinished_folder(Path(target)),
            **preparing,
        )
        arms.append(_Arm(name, target, chosen, run))
    return arms


def _estimate(run: "Run") -> dict[str, Any]:
    from charm_rm.models.train_estimate import measure_speed

    speed = measure_speed(run.model.source.config, device=run.device, bf16=run.bf16)
    found = describe_run(run, speed=speed)
    if FIRST:
        say_run(found)
    return found


def _train_arm(
    arm: _Arm,
    *,
    force: bool,
    keep_adapter: bool,
    offsets: str | None,
    licence: str | None,
    inputs: list[str],
) -> dict[str, Any]:
    from charm_rm.models.train_record import describe_training
    from charm_rm.models.training import train_reward
    from charm_rm.report.model_card import render_model_card

    made_by = record_run(inputs)

    def describe(result: "TrainedModel") -> tuple[dict[str, Any], str]:
        record = describe_training(
            arm.run,
            result,
            arm.pairs,
            made_by=made_by,
            arm=arm.name,
            offsets=offsets,
            keep_adapter=keep_adapter,
        )
        return record, render_model_card(record, name=Path(arm.out).name, licence=licence)

    per_step = arm.run.n_tokens // arm.run.n_steps
    with meter() as progress:

        def on_step(done: int, total: int, figures: Mapping[str, float]) -> None:
            say_step(done, total, figures)
            progress.report(done * per_step, total * per_step)

        result = train_reward(
            arm.run,
            out=arm.out,
            force=force,
            keep_adapter=keep_adapter,
            on_step=on_step,
            describe=describe,
        )
    if FIRST:
        say_result(result)
    return describe_result(result)


@train.command()
def card(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Model that charm train wrote.")],
    evaluation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="JSON",
            help="What charm evaluate --json printed of the model; repeat for more.",
            show_default=False,
        ),
    ] = None,
    licence: Licence = None,
    push_to_hub: PushToHub = None,
) -> None:
    """Write a trained model's card again, with what was measured since.

    Example: charm train card calibrated --evaluation battles.json --evaluation rm-bench.json
    """
    from charm_rm.data.provenance import read_json
    from charm_rm.data.tables import write_text
    from charm_rm.report.model_card import render_model_card

    record = read_json(folder / RECORD)
    evaluations = [read_json(path) for path in evaluation or []]
    text = render_model_card(
        record, name=folder.resolve().name, evaluations=evaluations, licence=licence
    )
    write_text(text, folder / "README.md", force=True)
    say(f"wrote {folder / 'README.md'}")
    if push_to_hub is not None:
        _push(str(folder), push_to_hub)


def _push(folder: str, hub_id: str) -> None:
    """The one way by which anything leaves the machine."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    from charm_rm.data.tables import DataError

    api = HfApi()
    try:
        api.create_repo(hub_id, private=True, exist_ok=True)
        api.upload_folder(repo_id=hub_id, folder_path=folder, commit_message="Upload reward model")
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise DataError(
            f"{hub_id}: the hub does not take {folder} ({text}); check the id and HF_TOKEN, then "
            f"charm train card {folder} --push-to-hub {hub_id}"
        ) from error
    say(f"uploaded {folder} to {hub_id}")
