"""Elo tables: the bundled ones against the paper and the Arena, and bad files."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from charm_rm.data.arena import bundled_elo_names, elo_table, read_elo
from charm_rm.data.tables import DataError, write_table


def test_the_default_table_is_the_arenas_and_the_printed_one_is_the_papers(shared: Path) -> None:
    printed = pl.read_csv(shared / "data/arena/elo_table7.csv")
    for name, wrong_row in (("table7-as-printed", 1257), ("table7", 1187)):
        ours = read_elo(name).ratings(printed["model"].to_list())[:, 0]
        theirs = printed["elo"].to_numpy().copy()
        theirs[printed["model"].to_list().index("Qwen2-72B-Instruct")] = wrong_row
        assert (ours == theirs).all()


def test_the_default_table_agrees_with_the_dated_leaderboard(shared: Path) -> None:
    board = pl.read_csv(shared / "data/arena/table7_vs_arena.csv")
    table = read_elo("table7")
    assert table.date == "2025-03-03"
    found = table.ratings(board["model"].to_list())
    assert np.abs(found[:, 0] - board["rating_20250303"].to_numpy()).max() <= 0.5
    assert (found[:, 1] == board["rating_ci_low"].to_numpy()).all()
    assert (found[:, 2] == board["rating_ci_high"].to_numpy()).all()


def test_the_pairs_of_table_9_are_bundled(shared: Path) -> None:
    pairs = pl.read_csv(shared / "data/arena/elo_updates.csv")
    for row in pairs.iter_rows(named=True):
        table = read_elo(f"table9-{row['elo_version']}")
        found = table.ratings([row["ref_model"], row["overvalued_model"]])
        assert found[:, 0].tolist() == [row["ref_elo"], row["overvalued_elo"]]


def test_the_default_stands_first() -> None:
    assert bundled_elo_names()[0] == "table7"


def test_an_unknown_model_lists_the_nearest_names() -> None:
    with pytest.raises(DataError, match="no Elo rating for 'gpt-4o-mini'; nearest: gpt-4o-mini-2"):
        read_elo("table7").ratings(["gpt-4o-mini"])


def test_an_unknown_table_lists_the_bundled_ones() -> None:
    with pytest.raises(DataError, match="no Elo table 'table8'; nearest: table7"):
        read_elo("table8")


def test_a_file_with_two_columns_is_an_elo_table(tmp_path: Path) -> None:
    (tmp_path / "elo.csv").write_text("model,elo\na,1000\nb,1100.5\n")
    table = read_elo(tmp_path / "elo.csv")
    assert table.ratings(["b"])[0, 0] == 1100.5
    assert np.isnan(table.ratings(["b"])[0, 1:]).all()
    assert (table.board, table.date) == ("", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,elo\na,1000\na,1001\n", "model 'a' is rated more than once"),
        ("model,elo\na,high\nb,1\n", r"row 1: elo of 'a' is 'high', not a finite number"),
        ("model,elo\na,\nb,1\n", r"row 1: elo of 'a' is 'None'"),
        ("model,elo\na,nan\nb,1\n", r"row 1: elo of 'a' is 'nan'"),
        ("model,elo,elo_low\na,1000,inf\n", r"elo_low of 'a' is 'inf'"),
        ("model,elo,elo_low,elo_high\na,1000,1010,1020\n", "does not hold its rating"),
        ("model,elo,elo_low,elo_high\na,1000,990,\n", "has one end only"),
        ("model,elo\na,1000\nb,1e6\n", "ratings span 999000 points"),
        ("model,rating\na,1000\n", "no column 'elo'"),
        ("model,elo\n", "no rows"),
        ("model,elo,elo_error_1\na,1,0.5\nb,1,\n", "row 2: elo_error_1 of 'b' is 'None', not a"),
        ("model,elo,elo_error_7\na,1,inf\n", "elo_error_7 of 'a' is 'inf', not a finite number"),
        ("model,elo,elo_error_1\na,1,large\n", "elo_error_1 of 'a' is 'large', not a finite"),
        ("model,elo,date\na,1,2024-01-01\nb,2,2025-01-01\n", "ratings of 2 dates"),
        ("model,elo,board\na,1,text\nb,2,vision\n", "ratings of 2 boards"),
    ],
)
def test_a_table_that_cannot_be_trusted_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "elo.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_elo(tmp_path / "elo.csv")


def test_intervals_without_a_covariance_are_taken_as_independent() -> None:
    elo = read_elo("table7")
    assert elo.to_json()["errors"] == elo.errors == "independent"
    factor = elo.error_factor(["gpt4_0613", "vicuna-7b"])
    assert factor[0, 1] == factor[1, 0] == 0
    half = np.diff(elo.ratings(["gpt4_0613", "vicuna-7b"])[:, 1:])[:, 0] / 2
    assert np.diag(factor) == pytest.approx(half / 1.959964)
    assert read_elo("table9-old").errors == "none"
    assert not read_elo("table9-old").error_factor(["gemma-2-9b-it-SimPO"]).any()


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_a_covariance_survives_files_and_what_users_do_to_tables(
    tmp_path: Path, suffix: str
) -> None:
    errors = {"elo_error_1": [5.0, 0.1, 0.0], "elo_error_2": [0.0, -1 / 3, 2e-7]}
    rows = {"model": ["a", "b", "c"], "elo": [1000, 1100, 1200], "elo_low": [990, 1099, 1200]}
    full = elo_table(pl.DataFrame({**rows, "elo_high": [1010, 1101, 1200], **errors}), name="all")
    write_table(full.frame, tmp_path / f"elo.{suffix}")
    read = read_elo(tmp_path / f"elo.{suffix}")
    assert read.errors == "covariance"
    assert (read.error_factor(["a", "b", "c"]) == full.error_factor(["a", "b", "c"])).all()
    renamed = pl.col("model").replace({"b": "another"})
    part = read.frame.with_columns(renamed).sort("elo", descending=True).head(2)
    write_table(part, tmp_path / f"part.{suffix}")
    few = read_elo(tmp_path / f"part.{suffix}").error_factor(["another", "c"])
    assert few @ few.T == pytest.approx((np.transpose([*errors.values()])[1:] @ few.T), rel=1e-15)
    with pytest.raises(DataError, match="no Elo rating for 'a'"):
        read_elo(tmp_path / f"part.{suffix}").error_factor(["a"])
