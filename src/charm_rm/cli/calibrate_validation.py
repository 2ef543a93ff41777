"""``charm calibrate --cross-validate``: held-out mismatches, as a table."""

from typing import TYPE_CHECKING, Any

from charm_rm.cli.console import page, print_json, warn
from charm_rm.cli.options import choose_temperature
from charm_rm.report.words import RATINGS_DRAWN

if TYPE_CHECKING:
    import polars as pl

    from charm_rm.cross_validate import CrossValidation
    from charm_rm.data.arena import EloTable


def validate_offsets(
    table: "pl.DataFrame",
    ratings: "EloTable",
    *,
    labels: list[str] | None,
    made_by: dict[str, Any] | None,
    settings: dict[str, Any],
) -> None:
    """The table of held-out mismatches, by method and kind of win rate."""
    from charm_rm.cross_validate import cross_validate
    from charm_rm.data.preferences import read_labels

    fitted = None
    if labels is not None:
        _, fitted = choose_temperature(table, None, labels=labels)
        settings["labels"] = read_labels(labels)
    result = cross_validate(table, ratings, **settings)
    warn(result.warnings)
    if made_by is not None:
        fit = {"temperature_fit": fitted.to_json()} if fitted else {}
        print_json(result.to_json() | fit | {"made_by": made_by})
    else:
        print_held_out(result)


def print_held_out(result: "CrossValidation") -> None:
    """Held-out mismatches as a table for people."""
    from rich.table import Table

    table = Table(
        title=f"{result.over_valued} against {result.reference}: {result.n_prompts} prompts, each "
        f"measured by a fit on the other {result.n_folds - 1} of {result.n_folds} parts",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("method", no_wrap=True)
    for name in ("win rate", "mismatch", "95% interval", "by category", "other policies", "matrix"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result.rows:
        table.add_row(
            row.method,
            row.win_rate,
            f"{row.signed_mismatch:+.3f}",
            f"{row.mismatch_low:+.3f} {row.mismatch_high:+.3f}",
            *(
                "" if x is None else f"{x:.3f}"
                for x in (row.category_mismatch, row.others_mismatch)
            ),
            f"{row.matrix_rmse:.3f}",
        )
    console = page()
    console.print(table)
    console.print(
        "\nMismatch: signed (Eq. 5). By category, other policies: mean Mismatch Degree. "
        "Matrix: root mean square of win rate minus expected win rate over all pairs. "
        f"{RATINGS_DRAWN[result.elo_errors]}"
    )
    if any(row.method.startswith("temperature") for row in result.rows):
        console.print(
            "Temperature: fitted to the labels of the other parts; the other rows read margins at "
            f"{result.temperature:g}. It moves no hard win rate."
        )
