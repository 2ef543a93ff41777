"""Elo tables: the bundled ones against the paper and the Arena, and bad files."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from charm_rm.data.arena import bundled_elo_names, read_elo
from charm_rm.data.tables import DataError


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
        ("model,elo,date\na,1,2024-01-01\nb,2,2025-01-01\n", "ratings of 2 dates"),
        ("model,elo,board\na,1,text\nb,2,vision\n", "ratings of 2 boards"),
    ],
)
def test_a_table_that_cannot_be_trusted_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "elo.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_elo(tmp_path / "elo.csv")
