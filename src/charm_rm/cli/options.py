"""Options that mean the same in every command."""

from enum import StrEnum
from typing import Annotated

import typer


class WinRate(StrEnum):
    """How margins become win rates."""

    SIGMOID = "sigmoid"
    HARD = "hard"


Scores = Annotated[
    list[str],
    typer.Argument(
        metavar="SCORES...", help="Score tables: Parquet, CSV, JSONL.", show_default=False
    ),
]
Elo = Annotated[
    str, typer.Option(metavar="FILE|NAME", help="Elo table: a file, or a bundled one's name.")
]
WinRateOption = Annotated[
    WinRate, typer.Option("--win-rate", help="Win rate that the mismatch and offset are from.")
]
Temperature = Annotated[float, typer.Option(metavar="T", help="Score points per unit of log-odds.")]
By = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column of prompt categories.", show_default=False),
]
Resamples = Annotated[
    int, typer.Option("--resamples", metavar="N", min=2, max=1_000_000, help="Bootstrap resamples.")
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of everything random.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output, no words.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
