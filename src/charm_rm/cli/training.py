"""The stages of ``charm train``: settings, checks, estimate, one training for each model."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charm_rm.cli.console import record_run, require_extra, say
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

UNCALIBRATED = "-uncalibrated"  # behind the name of the output
FIRST = os.environ.get("RANK", "0") == "0"  # of several processes, the one that speaks


def tell(message: str) -> None:
    """One line on standard error, by the first process alone."""
    if FIRST:
        say(message)


@dataclass(frozen=True)
class Arm:
    """One of the models that a command trains."""

    name: str
    out: str
    pairs: "TrainingPairs"
    run: "Run"


def resolve(config: str | None, options: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Settings by TRL's names and the batch; a tracker that is not installed is refused."""
    from charm_rm.models.train_settings import read_config, resolve_settings

    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    given = read_config(config) if config else {}
    tracker = given.get("report_to")
    if options["report_to"] is None and tracker not in (None, "none"):
        require_extra(f"report_to: {tracker}", str(tracker), extra="train")
    return resolve_settings(given, options, n_processes=n_processes)


def prepare_arms(
    pairs: str,
    model: str,
    out: str,
    *,
    uncalibrated: bool,
    force: bool,
    keep_adapter: bool,
    finding: Mapping[str, Any],
    settings: tuple[dict[str, Any], int],
    preparing: Mapping[str, Any],
) -> list[Arm]:
    """Everything that can be refused before weights are loaded, for each of the models."""
    from charm_rm.data.training_pairs import read_training_pairs, undo_calibration
    from charm_rm.models.train_model import inspect_model
    from charm_rm.models.train_run import prepare_run
    from charm_rm.models.training import (
        check_adapter,
        check_target,
        is_finished,
        trainer_arguments,
        unfinished_folder,
    )

    texts = {"calibrated": (out, read_training_pairs(pairs))}
    if uncalibrated:
        raw = undo_calibration(texts["calibrated"][1])
        texts["uncalibrated"] = (f"{out.rstrip('/')}{UNCALIBRATED}", raw)
    arms = []
    for name, (target, chosen) in texts.items():
        unfinished = unfinished_folder(Path(target))
        run = prepare_run(
            chosen,
            inspect_model(model, **finding),
            settings=settings[0],
            batch=settings[1],
            unfinished=unfinished,
            **preparing,
        )
        trainer_arguments(run, unfinished)
        check_adapter(run, keep_adapter=keep_adapter)
        if uncalibrated and not force and is_finished(run, Path(target)):
            tell(f"{target}: is there already, made by this run")
            continue
        check_target(Path(target), force=force)
        arms.append(Arm(name, target, chosen, run))
    return arms


def estimate(run: "Run") -> dict[str, Any]:
    """What a run will take, said before it starts."""
    from charm_rm.models.train_estimate import measure_speed

    speed = measure_speed(run.model.source.config, device=run.device, bf16=run.bf16)
    found = describe_run(run, speed=speed)
    if FIRST:
        say_run(found)
    return found


def train_arm(
    arm: Arm,
    *,
    force: bool,
    keep_adapter: bool,
    offsets: str | None,
    licence: str | None,
    inputs: list[str],
) -> dict[str, Any]:
    """Trains one of the models, and says what came out."""
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
