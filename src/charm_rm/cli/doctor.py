"""``charm doctor``: is a reward model read as it must be, and can its scores be trusted?"""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from charm_rm.cli.console import page, print_json, require_extra, say
from charm_rm.cli.options import (
    BaseModel,
    Device,
    Dtype,
    Json,
    Like,
    MaxLength,
    NoSystemPrompt,
    Revision,
    TrustRemoteCode,
)

if TYPE_CHECKING:
    from charm_rm.models.doctor import Finding

COLOURS = {"pass": "green", "warn": "yellow", "fail": "red"}


def doctor(
    model: Annotated[
        str,
        typer.Argument(metavar="DIR|HUB_ID", help="Reward model to look at.", show_default=False),
    ],
    base_model: BaseModel = None,
    like: Like = None,
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    max_length: MaxLength = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Measure it as charm score --exact computes it.")
    ] = False,
    no_system_prompt: NoSystemPrompt = False,
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
) -> None:
    """Check a reward model: how it reads text, its head, and how steady its scores are.

    Exit status 1 if a check fails. Example: charm doctor Skywork/Skywork-Reward-V2-Qwen3-0.6B
    """
    for module in ("torch", "transformers"):
        require_extra("charm doctor", module, extra="models")
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # read when torch is imported

    from charm_rm.models.doctor import examine, open_case
    from charm_rm.models.doctor_input import INPUT_CHECKS
    from charm_rm.models.doctor_runs import RUN_CHECKS
    from charm_rm.models.doctor_weights import WEIGHT_CHECKS

    case = open_case(
        model,
        base_model=base_model,
        like=like,
        revision=revision,
        dtype=dtype.value if dtype else None,
        device=device,
        max_length=max_length,
        exact=exact,
        system_prompt=not no_system_prompt,
        trust_remote_code=trust_remote_code,
    )
    findings = examine(case, {**INPUT_CHECKS, **WEIGHT_CHECKS, **RUN_CHECKS})
    counts = {status: sum(f.status == status for f in findings) for status in COLOURS}
    if json:
        print_json(
            {
                "model": model,
                "row": case.row,
                **{f"n_{status}": n for status, n in counts.items()},
                "findings": [vars(finding) for finding in findings],
            }
        )
    else:
        _print(findings)
    say(f"{model}: " + ", ".join(f"{n} {status}" for status, n in counts.items()))
    if counts["fail"]:
        raise typer.Exit(1)


def _print(findings: "tuple[Finding, ...]") -> None:
    """A line a check, and under it the cure."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        cure = f"\n-> {finding.cure}" if finding.cure else ""
        status = Text(finding.status, style=COLOURS[finding.status])
        table.add_row(status, finding.name, Text(finding.figure + cure))
    page().print(table)
