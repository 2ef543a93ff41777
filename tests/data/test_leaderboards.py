"""Leaderboards: lmarena's exports, the older CSV, the dated history, and what is never mixed."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from charm_rm.data.arena import read_elo
from charm_rm.data.leaderboards import read_leaderboard
from charm_rm.data.tables import DataError, write_table


@pytest.fixture
def history(shared: Path) -> Path:
    return shared / "data/arena/leaderboards.parquet"


def export(folder: Path, **columns: list[object]) -> Path:
    """A file in the layout of lmarena's leaderboard dataset."""
    rows = {
        "model_name": ["gemini-3.1-pro-preview", "gpt-4o-2024-05-13"] * 2,
        "organization": ["google", "openai"] * 2,
        "rating": [1486.81, 1285.0, 1500.0, 1300.0],
        "rating_lower": [1483.65, 1282.0, 1495.0, 1298.0],
        "rating_upper": [1489.97, 1288.0, 1505.0, 1302.0],
        "variance": [2.6, 2.3, 6.5, 1.0],
        "vote_count": [106951, 117747, 5000, 6000],
        "rank": [1, 2, 1, 2],
        "category": ["overall", "overall", "coding", "coding"],
        "leaderboard_publish_date": ["2026-09-13"] * 4,
    }
    path = folder / "text_style_control" / "latest-00000-of-00001.parquet"
    path.parent.mkdir()
    pl.DataFrame(rows | columns).write_parquet(path)
    return path


def test_lmarenas_export_is_read(tmp_path: Path) -> None:
    table = read_leaderboard(export(tmp_path), category="overall")
    assert table.models == ["gemini-3.1-pro-preview", "gpt-4o-2024-05-13"]
    assert table.ratings(["gemini-3.1-pro-preview"])[0].tolist() == [1486.81, 1483.65, 1489.97]
    assert table.date == "2026-09-13"
    assert table.board == "text_style_control overall"
    assert table.frame["votes"].to_list() == [106951, 117747]


def test_a_missing_interval_comes_from_the_variance(tmp_path: Path) -> None:
    path = export(tmp_path, rating_lower=[None] * 4, rating_upper=[None] * 4)
    low, high = read_leaderboard(path, category="overall").ratings(["gpt-4o-2024-05-13"])[0, 1:]
    assert (high - 1285, 1285 - low) == pytest.approx((1.959964 * 2.3**0.5,) * 2)


def test_categories_are_not_mixed_silently(tmp_path: Path) -> None:
    path = export(tmp_path)
    with pytest.raises(DataError, match=r"ratings of 2 categories \(coding, overall\).*--category"):
        read_leaderboard(path)
    with pytest.raises(DataError, match="no ratings of category 'overal'; nearest: overall"):
        read_leaderboard(path, category="overal")


def test_dates_are_not_mixed_silently_and_the_latest_can_be_asked_for(tmp_path: Path) -> None:
    path = export(
        tmp_path,
        category=["overall"] * 4,
        leaderboard_publish_date=["2026-01-01", "2026-01-01", "2026-02-01", "2026-02-01"],
    )
    with pytest.raises(DataError, match=r"ratings of 2 dates \(2026-01-01, 2026-02-01\).*--date"):
        read_leaderboard(path)
    assert read_leaderboard(path, date="latest").ratings(["gpt-4o-2024-05-13"])[0, 0] == 1300
    assert read_leaderboard(path, date="2026-01-01").ratings(["gpt-4o-2024-05-13"])[0, 0] == 1285
    with pytest.raises(
        DataError, match="no ratings of date '2026-01-15'; nearest: 2026-01-01, 2026"
    ):
        read_leaderboard(path, date="2026-01-15")


OLD = "Rank* (UB),Model,Arena Score,95% CI,Votes,Organization\n"


def test_the_older_csv_is_read(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard_table_20241028.csv"
    path.write_text(
        OLD
        + "1,ChatGPT-4o-latest (2024-09-03),1338,+3/-5,24135,OpenAI\n"
        + "2,o1-mini,1314,+6 / -4.5,9,OpenAI\n"
    )
    table = read_leaderboard(path, date="2024-10-28", board="chatbot-arena text")
    assert table.ratings(table.models).tolist() == [[1338, 1333, 1341], [1314, 1309.5, 1320]]
    assert (table.board, table.date) == ("chatbot-arena text", "2024-10-28")


def test_the_lower_case_csv_is_read(tmp_path: Path) -> None:
    path = tmp_path / "lmsys.csv"
    path.write_text("rank,model,arena_score,95_pct_ci,votes\n1,Gemini-2.5-Pro,1477,+5/-5,15769\n")
    table = read_leaderboard(path, date="2025-06-20")
    assert table.ratings(["Gemini-2.5-Pro"]).tolist() == [[1477, 1472, 1482]]
    assert table.board == "lmsys"


def test_the_history_gives_the_papers_table_7(history: Path, shared: Path) -> None:
    known = pl.read_csv(shared / "data/arena/table7_vs_arena.csv")
    table = read_leaderboard(history, date="2025-03-03", source="chatbot-arena-history")
    found = table.ratings(known["arena_key"].to_list())
    assert np.abs(found[:, 0] - known["rating_20250303"].to_numpy()).max() < 1e-9
    assert np.isnan(found[:, 1:]).all()
    assert table.frame["source"][0] == "chatbot-arena-history"


def test_the_history_gives_published_intervals_and_votes(history: Path, shared: Path) -> None:
    known = pl.read_csv(shared / "data/arena/table7_vs_arena.csv")
    table = read_leaderboard(history, date="2025-03-04")
    found = table.ratings(known["arena_display"].to_list())
    wanted = known.select("rating_20250304", "rating_ci_low", "rating_ci_high").to_numpy()
    assert np.array_equal(found, wanted)


def test_sources_and_style_controlled_boards_are_not_mixed_silently(history: Path) -> None:
    with pytest.raises(DataError, match=r"ratings of 4 sources \(Reward-Calibration, .*--source"):
        read_leaderboard(history)
    with pytest.raises(
        DataError, match=r"2 categories \(text_overall, text_overall_style_and_leng"
    ):
        read_leaderboard(history, date="2024-08-28", source="Reward-Calibration")
    with pytest.raises(DataError, match=r"105 dates \(2023-05-08 to 2025-03-26\).*--date"):
        read_leaderboard(history, source="chatbot-arena-history")


def test_a_table_read_is_an_elo_table_when_written(history: Path, tmp_path: Path) -> None:
    table = read_leaderboard(
        history, date="2024-08-28", category="text_overall", source="Reward-Calibration"
    )
    write_table(table.frame, tmp_path / "elo.csv")
    again = read_elo(tmp_path / "elo.csv")
    assert again.frame.equals(table.frame)
    assert again.date == "2024-08-28"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OLD + "1,a,1338,+3/-5,9,x\n", "arena.csv: no column of dates; say of which date"),
        (OLD + "1,a,1338,3,9,x\n", r"interval of 'a' is '?3'?; it should be like '\+3/-5'"),
        (OLD + "1,a,1338,+3,9,x\n", r"interval of 'a' is '?\+?3'?; it should be"),
        (OLD + "1,a,high,+3/-5,9,x\n", "elo of 'a' is 'high', not a number"),
        (OLD + "1,a,1338,+3/-5,many,x\n", "votes of 'a' is 'many', not a number"),
        (OLD + "1,a,,+3/-5,9,x\n", "elo of 'a' is 'None', not a finite number"),
        (OLD + "1,,1338,+3/-5,9,x\n", "row 1 has no model"),
        (OLD + "1,a,1,+3/-5,9,x\n2,a,2,+3/-5,9,x\n", "model 'a' is rated more than once"),
        (OLD, "no rows"),
        ("model,score\na,82.6\n", "no column that holds the elo, such as 'rating'; it has model"),
        ("name,rating\na,1338\n", "no column that holds the model, such as 'model_name'"),
        ("model,rating,rating_lower,rating_upper\na,1300,1310,1320\n", "does not hold its rating"),
    ],
)
def test_a_leaderboard_that_cannot_be_trusted_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "arena.csv").write_text(text)
    date = None if "which date" in message else "2024-10-28"
    with pytest.raises(DataError, match=message):
        read_leaderboard(tmp_path / "arena.csv", date=date)


@pytest.mark.parametrize("date", ["latest", "yesterday", "28.10.2024"])
def test_a_file_without_dates_needs_a_real_one(tmp_path: Path, date: str) -> None:
    (tmp_path / "arena.csv").write_text("model,rating\na,1300\n")
    with pytest.raises(DataError, match=f"date is '{date}'; give one like 2025-03-03"):
        read_leaderboard(tmp_path / "arena.csv", date=date)
