"""Battles and leaderboards that can't be rated or read: one line, status 1, nothing written."""

import json
from pathlib import Path

import pytest
from builders import Run, state

HEAD = "model_a,model_b,winner\n"
BATTLE_FILES = {
    "none.csv": (None, "none.csv: no such file"),
    "empty.csv": (HEAD, "no rows; give a file with battles"),
    "columns.csv": ("a,b\nx,y\n", "no column 'model_a', 'model_b'"),
    "draw.csv": (HEAD + "x,y,draw\n", "draw.csv:2: winner is 'draw'; it must be one of model_a"),
    "nobody.csv": (HEAD + "x,y,\n", "nobody.csv:2: winner is None"),
    "itself.csv": (HEAD + "x,x,tie\n", "that battle is of a model against itself"),
    "no-model.csv": (HEAD + ",x,tie\n", "that battle has no model_a"),
    "apart.csv": (
        HEAD + "a,b,tie\nc,d,model_a\n",
        "2 groups of models never met, so their ratings do not compare: a, b | c, d",
    ),
    "kinds.csv": (
        "model_a,model_b,winner,vote_type\na,b,tie,human\na,b,tie,gpt4\n",
        "votes of 2 kinds (gpt4, human)",
    ),
    "hot.csv": (
        "model_a,model_b,winner_model_a,winner_model_b,winner_tie\na,b,1,1,0\n",
        "that battle does not have one winner",
    ),
    "milliseconds.csv": (
        "model_a,model_b,winner,tstamp\na,b,tie,1717200000000\n",
        "milliseconds.csv:2: that battle has a tstamp that is not in seconds since 1970",
    ),
    "truths.csv": (
        "model_a,model_b,winner,timestamp\na,b,tie,true\n",
        "column 'timestamp' holds Boolean, not dates",
    ),
    "lists.jsonl": (
        '{"model_a": ["a"], "model_b": "b", "winner": "tie"}\n',
        "lists.jsonl: column 'model_a' holds List(String), not one value a row",
    ),
}


@pytest.mark.parametrize("name", BATTLE_FILES)
def test_battles_that_cannot_be_rated_are_refused(
    run_charm: Run, workplace: Path, name: str
) -> None:
    text, message = BATTLE_FILES[name]
    if text is not None:
        Path(name).write_text(text)
    before = state(workplace)
    assert message in run_charm("elo", "fit", name, "--out", "elo.csv").error
    assert message in run_charm("elo", name, "--json").error
    assert state(workplace) == before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no style to count"),
        ([{"response_a": 3, "response_b": 4}], "row 1: response_a is '3'; give a text"),
        ([{"response_a": "x", "response_b": {"text": "y"}}], "row 1: response_b is"),
        ([{"response_a": "x", "response_b": [{"role": "user"}]}], "row 1: response_b is"),
        ([{"response_a": "x", "response_b": None}], "row 1: length_b"),
        ([{"response_a": "x", "response_b": "y"}], "no style feature ever differs"),
    ],
)
def test_battles_without_texts_have_no_style(
    run_charm: Run, workplace: Path, rows: list[dict[str, object]], message: str
) -> None:
    battle = {"model_a": "a", "model_b": "b", "winner": "tie"}
    lines = [json.dumps(battle | row) for row in rows or [{}]]
    Path("battles.jsonl").write_text("\n".join(lines))
    before = state(workplace)
    error = run_charm("elo", "fit", "battles.jsonl", "--style-control", "--out", "elo.csv").error
    assert message in error
    assert state(workplace) == before


@pytest.mark.parametrize("resamples", ["0", "50"])
def test_separable_and_undecided_battles_are_finite_and_said_so(
    run_charm: Run, resamples: str
) -> None:
    Path("won.csv").write_text(HEAD + "a,b,model_a\nb,c,tie\n")
    won = run_charm("elo", "won.csv", "--resamples", resamples, "--json")
    assert won.err.startswith("warning: the battles do not bound every rating (a: never took")
    assert json.loads(won.out)["ridge"] > 0
    Path("tied.csv").write_text(HEAD + "a,b,tie\n")
    tied = run_charm("elo", "tied.csv", "--resamples", resamples, "--json")
    assert tied.err.startswith("warning: every battle of a, b is a tie, which says nothing")
    for row in json.loads(tied.out)["ratings"]:
        assert row["elo_high"] - row["elo_low"] > 300  # one battle says next to nothing


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (None, (), "board.csv: no such file"),
        ("a,b\n1,2\n", (), "no column that holds the model"),
        ("model,rating\na,1200\n", (), "no column of dates; say of which date it is"),
        ("model,rating\na,high\n", ("--date", "2025-01-01"), "elo of 'a' is 'high', not a number"),
        ("model,rating\na,1200\n", ("--date", "May"), "date is 'May'; give one like 2025-03-03"),
        ("model,rating\na,1\na,2\n", ("--date", "2025-01-01"), "'a' is rated more than once"),
        (
            "model,rating,board,date\na,1200,text,2025-01-01\na,1300,vision,2025-01-01\n",
            (),
            "ratings of 2 boards (text, vision), which do not compare",
        ),
        (
            "model,rating,date\na,1200,2025-01-01\na,1300,2025-02-01\n",
            (),
            "ratings of 2 dates",
        ),
        ("model,rating\na,1\n", ("--date", "2025-01-01", "--names", "zz"), "none of the names is"),
        (  # a list that is too long for the name of a file
            "model,rating\na,1\n",
            ("--date", "2025-01-01", "--names", ",".join(["some-model"] * 30)),
            "none of the names is rated: 'some-model'",
        ),
        (
            "model,rating,board,date\na,1200,text,2025-01-01\n",
            ("--board", "webdev"),
            "no ratings of board 'webdev'",
        ),
    ],
)
def test_leaderboards_that_cannot_be_read_are_refused(
    run_charm: Run, workplace: Path, text: str | None, options: tuple[str, ...], message: str
) -> None:
    if text is not None:
        Path("board.csv").write_text(text)
    before = state(workplace)
    assert message in run_charm("elo", "import", "board.csv", *options, "--out", "elo.csv").error
    assert state(workplace) == before


def test_a_leaderboard_of_lists_and_names_that_are_no_text_are_refused(
    run_charm: Run, workplace: Path
) -> None:
    Path("board.jsonl").write_text('{"model": "a", "rating": 1200, "category": ["overall"]}')
    Path("board.csv").write_text("model,rating\na,1200\n")
    Path("names.txt").write_bytes(b"\xff\xfe")
    before = state(workplace)
    error = run_charm("elo", "import", "board.jsonl", "--date", "2025-01-01").error
    assert "board.jsonl: column 'category' holds List(String)" in error
    named = ("elo", "import", "board.csv", "--date", "2025-01-01", "--names", "names.txt")
    assert "names.txt: not a readable text" in run_charm(*named).error
    assert state(workplace) == before
