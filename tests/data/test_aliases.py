"""Names of models: what matches, what never does, and where each alias comes from."""

from collections import defaultdict
from importlib.resources import files
from pathlib import Path

import polars as pl
import pytest

from charm_rm.data.aliases import name_models, normalise_name, read_names
from charm_rm.data.arena import EloTable, bundled_elo_names, elo_table
from charm_rm.data.leaderboards import read_leaderboard
from charm_rm.data.tables import DataError


@pytest.fixture(scope="session")
def boards(shared: Path) -> pl.DataFrame:
    return pl.read_parquet(shared / "data/arena/leaderboards.parquet")


@pytest.fixture(scope="session")
def arena(shared: Path) -> EloTable:
    path = shared / "data/arena/leaderboards.parquet"
    return read_leaderboard(path, date="2025-03-03", source="chatbot-arena-history")


def aliases(source: str) -> list[tuple[str, str]]:
    """Name and Arena key of the aliases that rest on this source."""
    text = (files("charm_rm.data") / "snapshots" / "aliases.csv").read_bytes()
    frame = pl.read_csv(text).filter(pl.col("source").str.contains(source, literal=True))
    assert not frame.is_empty()
    return frame.select("name", pl.col("arena_key").fill_null("")).rows()


def small(*models: str) -> EloTable:
    return elo_table(pl.DataFrame({"model": models, "elo": range(len(models))}), name="small")


def test_every_policy_of_table_7_finds_its_arena_rating(arena: EloTable, shared: Path) -> None:
    known = pl.read_csv(shared / "data/arena/table7_vs_arena.csv")
    found = name_models(arena, known["model"])
    assert found.unmatched == {}
    assert list(found.matched.values()) == known["arena_key"].to_list()
    assert found.table.models == known["model"].to_list()


def test_display_names_of_another_export_are_found_too(shared: Path) -> None:
    known = pl.read_csv(shared / "data/arena/table7_vs_arena.csv")
    table = read_leaderboard(shared / "data/arena/leaderboards.parquet", date="2025-03-04")
    found = name_models(table, known["model"])
    assert list(found.matched.values()) == known["arena_display"].to_list()
    assert found.table.frame["votes"].to_list() == known["votes"].cast(pl.Int64).to_list()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("gpt4_0613", "gpt-4-0613"),
        ("openai/GPT-4-0613", "gpt-4-0613"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b-chat"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b-instruct"),
        ("princeton-nlp/gemma-2-9b-it-SimPO", "gemma-2-9b-it-simpo"),
        ("Claude 3 Opus", "claude-3-opus-20240229"),
        ("wizardlm-13b-v1.2", "wizardlm-13b"),
        ("Command R+ (04-2024)", "command-r-plus"),
    ],
)
def test_names_match_when_exact_after_normalising_or_by_an_alias(
    arena: EloTable, name: str, key: str
) -> None:
    assert name_models(arena, [name]).matched == {name: key}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gpt-4o", "nearest: gpt-4o-2024-05-13"),
        ("gpt4_1106_preview_verbose", "nearest: gpt-4-1106-preview"),
        ("claude-3.5-sonnet", "nearest: claude-3"),
        ("wizardlm-13b", "the Arena's wizardlm-13b is v1.2"),
        ("zzz", "no rated name is near"),
    ],
)
def test_names_that_are_merely_close_are_suggested_and_not_matched(
    arena: EloTable, name: str, why: str
) -> None:
    found = name_models(arena, [name, "vicuna-7b"])
    assert list(found.matched) == ["vicuna-7b"]
    assert found.unmatched[name].startswith(why)


def test_a_name_that_fits_two_rated_models_matches_neither_unless_it_is_one() -> None:
    table = small("gpt-4-0613", "GPT_4_0613", "other")
    found = name_models(table, ["gpt4-0613", "gpt-4-0613", "other"])
    assert found.matched == {"gpt-4-0613": "gpt-4-0613", "other": "other"}
    assert found.unmatched == {"gpt4-0613": "could be any of: gpt-4-0613, GPT_4_0613"}


def test_no_match_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="small: none of the names is rated: 'b' "):
        name_models(small("aaaa"), ["b"])


def test_no_two_models_of_a_leaderboard_have_one_normalised_name(boards: pl.DataFrame) -> None:
    name = pl.coalesce("model_key", "model_display")
    seen = defaultdict(set)
    for board in boards.group_by("source", "date", "category").agg(name.alias("name"))["name"]:
        for model in board:
            seen[normalise_name(model)].add(model)
        for models in seen.values():
            assert len(models) == 1
        seen.clear()


def test_aliases_of_table_7_stand_in_the_comparison_with_the_arena(shared: Path) -> None:
    known = pl.read_csv(shared / "data/arena/table7_vs_arena.csv")
    assert set(aliases("Table 7")) <= set(known.select("model", "arena_key").rows())


def test_aliases_of_display_names_stand_on_the_leaderboard(boards: pl.DataFrame) -> None:
    shown = boards.drop_nulls("model_key").select("model_display", "model_key").unique()
    for name, key in aliases("display name"):
        keys = shown.filter(pl.col("model_display") == name)["model_key"].to_list()
        assert keys == [key]


def test_aliases_of_alpaca_eval_have_the_arenas_rating_of_their_time(
    boards: pl.DataFrame,
) -> None:
    # AlpacaEval's column headed 2024-02-02 holds the Arena's ratings of late March 2024.
    theirs = boards.filter(pl.col("source") == "alpaca_eval_benchmarks_csv").sort("date")
    ours = boards.filter(
        (pl.col("source") == "chatbot-arena-history") & (pl.col("date") == pl.date(2024, 3, 27))
    )
    for name, key in aliases("benchmarks.csv"):
        rating = theirs.filter(pl.col("model_key") == name)["rating"][0]
        assert ours.filter(pl.col("model_key") == key)["rating"][0] == pytest.approx(rating, abs=5)


def test_aliases_of_the_hub_name_a_model_of_the_same_maker(boards: pl.DataFrame) -> None:
    for _, key in aliases("hub name"):
        makers = boards.filter(pl.col("model_key") == key)["organization"].drop_nulls().unique()
        assert makers.to_list() == ["Meta"]


def test_a_name_known_to_mislead_has_no_key(shared: Path) -> None:
    ((name, key),) = aliases("AlpacaEval's is not")
    assert key == ""
    names = pl.read_csv(shared / "data/alpaca_eval/leaderboard_v2.csv")["model"]
    assert {name, f"{name}-v1.1", f"{name}-v1.2"} <= set(names)


def test_the_aliases_are_no_elo_table() -> None:
    assert "aliases" not in bundled_elo_names()


def test_names_come_from_a_table_a_text_or_a_list(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("policy,score\na,1\nb,2\na,3\n")
    (tmp_path / "names.txt").write_text("a\n\n b \n")
    assert read_names(str(tmp_path / "scores.csv")) == ["a", "b"]
    assert read_names(str(tmp_path / "names.txt")) == ["a", "b"]
    assert read_names("a, b,,a") == ["a", "b"]


def test_names_that_are_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("score\n1\n")
    with pytest.raises(DataError, match="no column 'policy' or 'model'"):
        read_names(str(tmp_path / "scores.csv"))
    with pytest.raises(DataError, match="no names"):
        read_names(" , ")
