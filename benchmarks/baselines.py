"""What each correction does to mismatches, on prompts that it was not fitted on.

    python benchmarks/baselines.py [DATA] [--json PATH]

The scores are the bundled ones, of the instructions that the small reward model's training did not
see. Of five parts, four fit and one is measured, in turn. Side by side stand the policy that is
calibrated, the audit's suggestion, and the mean over all other policies; both before and after, by
the sigmoid and by the hard win rate. DATA, a folder with alpaca_eval/ in it, adds what the bundled
table can't hold: GPT-4-turbo's labels of the same responses, which a temperature is fitted to;
the lengths of the responses in characters; and the five sets that AlpacaEval's instructions come
from, as categories.
"""

import argparse
import json
from importlib.resources import files
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from charm_rm.audit import audit_scores
from charm_rm.cross_validate import CrossValidation, HeldOut, cross_validate
from charm_rm.data.arena import read_elo
from charm_rm.data.prompts import as_messages, prompt_digest
from charm_rm.data.responses import read_responses
from charm_rm.data.scores import read_scores

REFERENCE = "gpt-4o-mini-2024-07-18"
BASELINE = "gpt4_1106_preview"  # that the judge compared every output with


def demo_scores() -> pl.DataFrame:
    """The bundled scores of the instructions that training did not see."""
    path = str(files("charm_rm.data") / "snapshots" / "demo_scores.parquet")
    scores = read_scores([path], by="half")
    return scores.filter(pl.col("category") == "audit").drop("category")


def judge_labels(folder: Path, instructions: pl.DataFrame) -> pl.DataFrame:
    """The judge's preferences in the columns of `charm_rm.data.preferences.read_labels`."""
    judged = pl.read_parquet(folder / "judge.parquet").join(instructions, on="instruction_id")
    return judged.filter(pl.col("model") != BASELINE).select(
        "prompt_id",
        pl.lit(0, dtype=pl.Int64).alias("sample"),
        pl.lit(BASELINE).alias("policy_a"),
        pl.col("model").alias("policy_b"),
        (2.0 - pl.col("preference")).alias("outcome"),
    )


def validate(data: Path | None) -> CrossValidation:
    """All methods on the bundled scores, with what the folder of data adds."""
    scores, elo = demo_scores(), read_elo("table7")
    pair = audit_scores(scores, elo, reference=REFERENCE).suggested_pair
    if pair is None:
        raise ValueError("no policy is over-valued, so there is nothing to calibrate")
    labels = responses = None
    if data is not None:
        folder = data / "alpaca_eval"
        instructions = read_instructions(folder)
        sets = instructions.select("prompt_id", pl.col("dataset").alias("category"))
        scores = scores.join(sets, on="prompt_id")
        labels = judge_labels(folder, instructions)
        responses = read_responses([folder / "outputs.parquet"])
    return cross_validate(
        scores,
        elo,
        over_valued=pair.over_valued,
        reference=REFERENCE,
        labels=labels,
        responses=responses,
    )


def read_instructions(folder: Path) -> pl.DataFrame:
    """AlpacaEval's instructions, with the ids that the bundled scores know them by."""
    digest = pl.col("instruction").map_elements(
        lambda text: prompt_digest(as_messages(text)), return_dtype=pl.String
    )
    return pl.read_parquet(folder / "instructions.parquet").with_columns(digest.alias("prompt_id"))


def print_table(found: CrossValidation) -> None:
    """One line per method: the calibrated policy and the others, by both win rates."""
    table = Table(
        title=f"{found.over_valued} against {found.reference}: {found.n_prompts} prompts, "
        f"{found.n_folds} parts, each measured by a fit on the others",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("method", no_wrap=True)
    for kind in ("sigmoid", "hard"):
        table.add_column(f"calibrated,\n{kind}", justify="right", no_wrap=True)
        table.add_column("95% interval", justify="right", no_wrap=True)
        table.add_column(f"others,\n{kind}", justify="right", no_wrap=True)
    by_kind = {(row.method, row.win_rate): row for row in found.rows}
    for method in dict.fromkeys(row.method for row in found.rows):
        sides = [by_kind.get((method, kind)) for kind in ("sigmoid", "hard")]
        table.add_row(method, *(cell for side in sides for cell in cells(side)))
    console = Console(highlight=False, width=120)
    console.print(table)
    console.print(
        "\nCalibrated: signed mismatch (Eq. 5) of the calibrated policy. Others: mean Mismatch "
        "Degree of all policies but it and the reference. Before is the row 'none'."
    )


def cells(row: HeldOut | None) -> tuple[str, str, str]:
    """Mismatch, interval and the others' mean mismatch; blank where the method has none."""
    if row is None:
        return "", "", ""
    others = "" if row.others_mismatch is None else f"{row.others_mismatch:.3f}"
    interval = f"{row.mismatch_low:+.3f} {row.mismatch_high:+.3f}"
    return f"{row.signed_mismatch:+.3f}", interval, others


def main() -> None:
    """Validate, print, and write the rows if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the rows here")
    arguments = parser.parse_args()
    found = validate(arguments.data)
    print_table(found)
    if arguments.json:
        text = json.dumps(found.to_json(), indent=2)
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
