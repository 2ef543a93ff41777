"""Bad input, entry by entry and command by command: one line, status 1, nothing half-written.

Commands run within this process, through the entry point of the command line; what only a process
of its own shows (closed streams, signals, a kill) is in ``test_cli_streams.py``.
"""

import errno
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from builders import MINI, SIMPO, make_responses, make_scores

from charm_rm.cli.main import main

PAIR = ("--over-valued", SIMPO, "--reference", MINI)
CALIBRATE = ("calibrate", "scores.parquet", *PAIR)
PAIRS = ("pairs", "scores.parquet", "--offsets", "offsets.json", "--out", "p.parquet")
# Every command that reads scores; {} stands for the file.
READ_SCORES = {
    "audit": ("audit", "{}"),
    "audit by category": ("audit", "{}", "--by", "category"),
    "audit of two tables": ("audit", "{}", "--elo", "table7", "--elo", "table7-as-printed"),
    "calibrate": ("calibrate", "{}", *PAIR, "--out", "o.json"),
    "calibrate by category": ("calibrate", "{}", *PAIR, "--by", "category", "--out", "o.json"),
    "calibrate jointly": ("calibrate", "{}", "--joint", "--reference", MINI, "--out", "o.json"),
    "cross-validate": ("calibrate", "{}", *PAIR, "--cross-validate", "5"),
    "z-scores": ("calibrate", "{}", *PAIR, "--method", "z-score", "--out", "z.parquet"),
    "length": ("calibrate", "{}", *PAIR, "--method", "length", "--out", "z.csv"),
    "pairs": ("pairs", "{}", "--offsets", "offsets.json", "--out", "p.parquet"),
    "pairs of raw scores": ("pairs", "{}", "--uncalibrated", "--out", "p"),
}
COMPARES = [name for name in READ_SCORES if not name.startswith("pairs")]  # by their Elo


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: object
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a command that was refused as it should be."""
        assert self.status == 1, self
        assert "Traceback" not in self.err
        lines = self.err.splitlines()
        assert [line.startswith("error: ") for line in lines].count(True) == 1, self.err
        assert lines[-1].startswith("error: ")
        return lines[-1]


Run = Callable[..., Ended]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with good scores, responses, offsets and labels in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    scores = good_scores()
    scores.write_parquet("scores.parquet")
    make_responses(scores).write_parquet("responses.parquet")
    Path("offsets.json").write_text(json.dumps(offsets_document()), encoding="utf-8")
    return tmp_path


@pytest.fixture
def charm(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `charm` in that folder."""

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["charm", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        words = capsys.readouterr()
        return Ended(end.value.code, words.out, words.err)

    assert folder == Path.cwd()
    return run


def good_scores(n_prompts: int = 80) -> pl.DataFrame:
    number = pl.col("prompt_id").str.slice(1).cast(pl.Int64)
    return make_scores(n_prompts).with_columns(
        category=(number % 2).cast(pl.String), n_tokens=20 + number
    )


def offsets_document() -> dict[str, object]:
    """The least that an offsets file holds."""
    rates = ("win_rate_before", "win_rate_after", "mismatch_before", "mismatch_after")
    hard = ("expected_win_rate", "hard_win_rate_before", "hard_win_rate_after")
    entry: dict[str, object] = dict.fromkeys((*rates, *hard), 0.5) | {
        "policy": SIMPO,
        "category": None,
        "n_prompts": 80,
    }
    ends = {"offset": -3.0, "offset_low": -3.5, "offset_high": -2.5}
    return {
        "reward_model": "toy-rm",
        "elo": {"board": "b", "date": "d"},
        "reference": MINI,
        "win_rate": "sigmoid",
        "temperature": 1.0,
        "offsets": [entry | ends],
    }


def state(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too, with its content."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def row_3(value: object, column: str = "score") -> pl.DataFrame:
    """Good scores but for one value in the fourth row."""
    fourth = pl.int_range(pl.len()) == 3
    return good_scores().with_columns(
        pl.when(fourth).then(pl.lit(value)).otherwise(column).alias(column)
    )


def write_scores(name: str) -> None:
    """The bad score table of that name."""
    good = good_scores()
    tables = {
        "no-score.parquet": lambda: good.drop("score"),
        "no-policy.csv": lambda: good.drop("policy"),
        "nan.parquet": lambda: row_3(math.nan),
        "inf.parquet": lambda: row_3(-math.inf),
        "null.parquet": lambda: row_3(None),
        "word.csv": lambda: row_3("high", "score"),
        "dates.parquet": lambda: good.with_columns(score=pl.lit(date(2025, 3, 3))),
        "truths.parquet": lambda: good.with_columns(score=pl.col("score") > 0),
        "nested.parquet": lambda: good.with_columns(score=pl.concat_list("score")),
        "no-id.parquet": lambda: row_3(None, "prompt_id"),
        "twice.parquet": lambda: pl.concat([good, good.head(1)]),
        "empty.parquet": lambda: good.head(0),
        "mixed.parquet": lambda: row_3("other-rm", "reward_model"),
        "few.parquet": lambda: good_scores(29),
        "single.parquet": lambda: good.filter(pl.col("policy") == SIMPO),
        "unrated.parquet": lambda: good.with_columns(pl.col("policy").replace(MINI, "my-model")),
        "no-category.parquet": lambda: good.drop("category"),
        "null-category.parquet": lambda: row_3(None, "category"),
        "apart.parquet": lambda: good.filter(
            (pl.col("policy") == SIMPO) == (pl.col("prompt_id") < "p040")
        ),
    }
    if name in tables:
        frame = tables[name]()
        frame.write_csv(name) if name.endswith(".csv") else frame.write_parquet(name)
    texts = {
        "text.parquet": "no table",
        "text.csv": "\0\1\2",
        "list.jsonl": "[1, 2]\n",
        "a.xml": "",
    }
    if name in texts:
        Path(name).write_text(texts[name], encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.parquet", "none.parquet: no such file; check the path"),
        ("text.parquet", "text.parquet: not a readable table"),
        ("text.csv", "text.csv: no"),
        ("list.jsonl", "list.jsonl: no"),
        ("a.xml", "a.xml: unknown kind of table; give one of .parquet"),
        ("no-score.parquet", "no-score.parquet: no column 'score'; it has prompt_id, policy"),
        ("no-policy.csv", "no-policy.csv: no column 'policy'"),
        ("nan.parquet", f"nan.parquet: row 4: score of '{SIMPO}' is 'nan'; mend that row"),
        ("inf.parquet", f"inf.parquet: row 4: score of '{SIMPO}' is '-inf'"),
        ("null.parquet", f"null.parquet: row 4: score of '{SIMPO}' is 'None'"),
        ("word.csv", f"word.csv:5: score of '{SIMPO}' is 'high'"),
        ("dates.parquet", "dates.parquet: column 'score' holds Date, not numbers"),
        ("truths.parquet", "truths.parquet: column 'score' holds Boolean, not numbers"),
        ("nested.parquet", "nested.parquet: column 'score' holds List(Float64), not one value"),
        ("no-id.parquet", f"no-id.parquet: row 4: prompt_id of '{SIMPO}' is 'None'"),
        ("twice.parquet", f"prompt 'p000', policy '{SIMPO}', sample 0 stands more than once"),
        ("empty.parquet", "empty.parquet: no rows; give a file with scores"),
        ("mixed.parquet", "scores of 2 reward models (other-rm, toy-rm)"),
    ],
)
@pytest.mark.parametrize("command", READ_SCORES)
def test_bad_scores_are_refused_by_every_command(
    charm: Run, folder: Path, command: str, name: str, message: str
) -> None:
    write_scores(name)
    before = state(folder)
    arguments = (word.format(name) for word in READ_SCORES[command])
    assert message in charm(*arguments).error
    assert state(folder) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("few.parquet", "share 29 prompts; at least 30 are needed"),
        ("apart.parquet", "share 0 prompts; at least 30 are needed"),
        ("unrated.parquet", "table7: no Elo rating for 'my-model'; there are: gpt-4o-2024-05-13"),
        ("single.parquet", "only the policy"),
    ],
)
@pytest.mark.parametrize("command", COMPARES)
def test_scores_that_elo_cannot_be_held_against_are_refused(
    charm: Run, folder: Path, command: str, name: str, message: str
) -> None:
    write_scores(name)
    before = state(folder)
    arguments = [word.format(name) for word in READ_SCORES[command]]
    if name == "unrated.parquet":
        arguments = [word.replace(MINI, "my-model") for word in arguments]
    allowed = [message, "no category has 30 prompts of every policy"]
    if name == "single.parquet":
        allowed = [message, "no policy 'gpt-4o-mini", "no reference 'gpt-4o-mini"]
    error = charm(*arguments).error
    assert any(text in error for text in allowed), error
    assert state(folder) == before


@pytest.mark.parametrize("command", COMPARES[3:])
def test_a_policy_that_is_not_there_lists_the_nearest(
    charm: Run, folder: Path, command: str
) -> None:
    before = state(folder)
    arguments = [word.format("scores.parquet") for word in READ_SCORES[command]]
    error = charm(*(word.replace(MINI, "gpt-4o-mini") for word in arguments)).error
    assert "'gpt-4o-mini'; nearest: gpt-4o-mini-2024-07-18" in error
    if SIMPO in arguments:
        error = charm(*(word.replace(SIMPO, "SimPO") for word in arguments)).error
        assert "no policy 'SimPO'; nearest: gemma-2-9b-it-SimPO" in error
    assert state(folder) == before


ELO_FILES = {
    "repeated.csv": ("model,elo\na,1\na,2\n", "model 'a' is rated more than once"),
    "words.csv": ("model,elo\na,good\nb,1\n", "row 1: elo of 'a' is 'good', not a finite number"),
    "infinite.csv": ("model,elo\na,inf\nb,1\n", "elo of 'a' is 'inf'"),
    "empty.csv": ("model,elo\n", "no rows; give a table with ratings"),
    "columns.csv": ("name,rating\na,1\n", "no column 'model', 'elo'; it has name, rating"),
    "boards.csv": (
        "model,elo,board\na,1,text\nb,2,vision\n",
        "ratings of 2 boards (text, vision); ratings compare only within one",
    ),
    "dates.csv": (
        "model,elo,date\na,1,2025-01-01\nb,2,2025-02-01\n",
        "ratings of 2 dates (2025-01-01, 2025-02-01)",
    ),
    "half.csv": ("model,elo,elo_low,elo_high\na,5,1,\n", "the interval of 'a' has one end only"),
    "turned.csv": ("model,elo,elo_low,elo_high\na,5,6,7\n", "does not hold its rating"),
    "odds.csv": ("model,elo\na,1\nb,90000\n", "ratings span 89999 points"),
}


@pytest.mark.parametrize("name", ELO_FILES)
@pytest.mark.parametrize(
    "command",
    [
        ("audit", "scores.parquet", "--elo"),
        ("audit", "scores.parquet", "--elo", "table7", "--elo"),
        (*CALIBRATE, "--out", "o.json", "--elo"),
        (*CALIBRATE, "--method", "z-score", "--out", "z.csv", "--elo"),
        (*CALIBRATE, "--cross-validate", "3", "--elo"),
        ("calibrate", "scores.parquet", "--joint", *PAIR[2:], "--out", "o.json", "--elo"),
        ("elo", "show"),
    ],
)
def test_elo_tables_that_cannot_be_trusted_are_refused(
    charm: Run, folder: Path, command: tuple[str, ...], name: str
) -> None:
    text, message = ELO_FILES[name]
    Path(name).write_text(text)
    before = state(folder)
    error = charm(*command, name).error
    assert error.startswith(f"error: {name}: ")
    assert message in error
    assert state(folder) == before


def test_an_elo_table_that_is_not_there_lists_the_bundled_ones(charm: Run) -> None:
    for command in (("audit", "scores.parquet", "--elo", "table8"), ("elo", "show", "table8")):
        assert "no Elo table 'table8'; nearest: table7" in charm(*command).error
    assert "nowhere.csv: no such file" in charm("elo", "show", "nowhere.csv").error


@pytest.mark.parametrize(
    "command", ["audit by category", "calibrate by category", "cross-validate"]
)
def test_prompts_without_a_category_are_refused(charm: Run, folder: Path, command: str) -> None:
    write_scores("null-category.parquet")
    write_scores("no-category.parquet")
    before = state(folder)
    run = READ_SCORES[command]
    error = charm(*(word.format("null-category.parquet") for word in run)).error
    assert "no category" in error
    assert "fill" in error
    if command != "cross-validate":
        error = charm(*(word.format("no-category.parquet") for word in run)).error
        assert "no column 'category'" in error
        named = (word.replace("category", "colour") for word in run)
        assert "no column 'colour'" in charm(*(w.format("scores.parquet") for w in named)).error
    assert state(folder) == before


RESPONSES = "prompt_id,prompt,policy,response\n"
RESPONSE_FILES = {
    "none.csv": (None, "none.csv: no such file"),
    "empty.csv": (RESPONSES, "empty.csv: no rows; give a file with responses"),
    "null.csv": (RESPONSES + "p,Hi,a,\np,Hi,b,x\n", "row 1: response is null"),
    "shared-id.csv": (RESPONSES + "p,Hi,a,x\np,Ho,b,x\n", "'p' stands for 2 different prompts"),
    "twice.csv": (RESPONSES + "p,Hi,a,x\np,Hi,a,x\n", "stands more than once"),
    "no-response.csv": ("prompt,policy\nHi,a\n", "no column 'response'"),
    "lists.csv": (
        'prompt,policy,response\n"[{""role"": ""user"", ""content"": ""Hi""}]",a,x\n',
        "row 1: the prompt is a list of messages written as text",
    ),
    "others.csv": (RESPONSES + f"p000,Hi,{SIMPO},x\n", "give the responses that the scores"),
}


@pytest.mark.parametrize("name", RESPONSE_FILES)
@pytest.mark.parametrize(
    "command",
    [
        (*PAIRS, "--responses"),
        ("pairs", "scores.parquet", "--uncalibrated", "--out", "twin", "--responses"),
        (*CALIBRATE, "--method", "length", "--out", "l.parquet", "--responses"),
        (*CALIBRATE, "--cross-validate", "3", "--responses"),
        ("demo", "--responses"),
    ],
)
def test_responses_that_cannot_be_used_are_refused(
    charm: Run, folder: Path, command: tuple[str, ...], name: str
) -> None:
    text, message = RESPONSE_FILES[name]
    if text is not None:
        Path(name).write_text(text)
    before = state(folder)
    error = charm(*command, name).error
    expected = "responses: none of" if "demo" in command and name == "others.csv" else message
    assert expected in error
    assert state(folder) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "labels.csv: no such file"),
        ("prompt_id,chosen\np,a\n", "labels.csv: no labelled pairs: neither chosen_policy"),
        ("prompt_id,model_a,model_b,winner\np000,a,b,draw\n", "labels.csv:2: winner is 'draw'"),
        ("prompt_id,chosen_policy,rejected_policy\np000,a,a\n", "labels.csv: row 1 is"),
        ("prompt_id,chosen_policy,rejected_policy\np000,a,b\n", "of 0 scored prompts"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ("audit", "scores.parquet"),
        (*CALIBRATE, "--out", "o.json"),
        (*CALIBRATE, "--cross-validate", "3"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(
    charm: Run, folder: Path, command: tuple[str, ...], text: str | None, message: str
) -> None:
    if text is not None:
        Path("labels.csv").write_text(text)
    before = state(folder)
    assert message in charm(*command, "--temperature-from", "labels.csv").error
    assert state(folder) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "offsets.json: not an offsets file"),
        ({"offsets": []}, "at least one"),
        ({"temperature": "warm"}, "temperature is 'warm', not a finite number"),
        ({"win_rate": "soft"}, "win_rate is 'soft'"),
        ({"method": "magic"}, "method is 'magic'"),
        ({"reward_model": "other"}, "scores of 'toy-rm', offsets of 'other'"),
        ({"reference": "nobody"}, "no policy 'nobody'"),
        (None, "offsets.json: no such file"),
    ],
)
def test_offsets_that_cannot_be_used_are_refused(
    charm: Run, folder: Path, change: object, message: str
) -> None:
    path = Path("offsets.json")
    if change is None:
        path.unlink()
    elif isinstance(change, dict):
        path.write_text(json.dumps(offsets_document() | change))
    else:
        path.write_text(str(change))
    before = state(folder)
    assert message in charm(*PAIRS).error
    assert state(folder) == before


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
}


@pytest.mark.parametrize("name", BATTLE_FILES)
def test_battles_that_cannot_be_rated_are_refused(charm: Run, folder: Path, name: str) -> None:
    text, message = BATTLE_FILES[name]
    if text is not None:
        Path(name).write_text(text)
    before = state(folder)
    assert message in charm("elo", "fit", name, "--out", "elo.csv").error
    assert message in charm("elo", name, "--json").error
    assert state(folder) == before


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
    charm: Run, folder: Path, rows: list[dict[str, object]], message: str
) -> None:
    battle = {"model_a": "a", "model_b": "b", "winner": "tie"}
    lines = [json.dumps(battle | row) for row in rows or [{}]]
    Path("battles.jsonl").write_text("\n".join(lines))
    before = state(folder)
    error = charm("elo", "fit", "battles.jsonl", "--style-control", "--out", "elo.csv").error
    assert message in error
    assert state(folder) == before


@pytest.mark.parametrize("resamples", ["0", "50"])
def test_separable_and_undecided_battles_are_finite_and_said_so(charm: Run, resamples: str) -> None:
    Path("won.csv").write_text(HEAD + "a,b,model_a\nb,c,tie\n")
    won = charm("elo", "won.csv", "--resamples", resamples, "--json")
    assert won.err.startswith("warning: the battles do not bound every rating (a: never took")
    assert json.loads(won.out)["ridge"] > 0
    Path("tied.csv").write_text(HEAD + "a,b,tie\n")
    tied = charm("elo", "tied.csv", "--resamples", resamples, "--json")
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
        (
            "model,rating,board,date\na,1200,text,2025-01-01\n",
            ("--board", "webdev"),
            "no ratings of board 'webdev'",
        ),
    ],
)
def test_leaderboards_that_cannot_be_read_are_refused(
    charm: Run, folder: Path, text: str | None, options: tuple[str, ...], message: str
) -> None:
    if text is not None:
        Path("board.csv").write_text(text)
    before = state(folder)
    assert message in charm("elo", "import", "board.csv", *options, "--out", "elo.csv").error
    assert state(folder) == before


# Every command that writes; {} stands for the output.
WRITE = {
    "calibrate": ((*CALIBRATE, "--resamples", "20", "--out", "{}"), "o.json"),
    "z-scores": ((*CALIBRATE, "--method", "z-score", "--resamples", "9", "--out", "{}"), "z.csv"),
    "pairs": ((*PAIRS[:-1], "{}"), "p.parquet"),
    "pairs, a data set": ((*PAIRS[:-1], "{}"), "p"),
    "elo fit": (("elo", "fit", "battles.csv", "--out", "{}"), "e.csv"),
    "elo import": (("elo", "import", "b.csv", "--date", "2025-01-01", "--out", "{}"), "e.jsonl"),
}


def writing(command: str, out: str | None = None) -> list[str]:
    """The arguments of a command that writes, and its input."""
    Path("battles.csv").write_text(HEAD + "a,b,model_a\nb,a,model_a\n")
    Path("b.csv").write_text("model,rating\na,1200\n")
    arguments, name = WRITE[command]
    return [word.format(out or name) for word in arguments]


@pytest.mark.parametrize("command", WRITE)
def test_an_output_that_exists_is_replaced_only_with_force(
    charm: Run, folder: Path, command: str
) -> None:
    arguments, out = writing(command), Path(WRITE[command][1])
    assert charm(*arguments).status == 0
    before = state(folder)
    assert f"{out}: exists already; give --force to replace it" in charm(*arguments).error
    missing = writing(command, f"no/{out}")
    assert f"no/{out}: its folder does not exist; create no first" in charm(*missing).error
    assert state(folder) == before
    assert charm(*arguments, "--force").status == 0
    assert {Path(name).parts[0] for name in state(folder)} == {
        Path(name).parts[0] for name in before
    }


@pytest.mark.parametrize(
    ("command", "source"),
    [("z-scores", "scores.csv"), ("pairs", "scores.parquet"), ("calibrate", "elo.json")],
)
def test_an_output_that_is_an_input_is_refused_even_with_force(
    charm: Run, folder: Path, command: str, source: str
) -> None:
    good_scores().write_csv("scores.csv")
    Path("elo.json").write_text("[]")
    arguments = [word.replace("scores.parquet", "scores.csv") for word in writing(command, source)]
    arguments += ["--elo", "elo.json"] if command == "calibrate" else []
    if command == "pairs":
        arguments = writing(command, source)
    before = state(folder)
    assert f"{source}: is an input of this run" in charm(*arguments, "--force").error
    assert state(folder) == before


@pytest.mark.parametrize("failure", ["full", "interrupted"])
@pytest.mark.parametrize("command", WRITE)
def test_a_full_disk_or_an_interrupt_leaves_the_old_output_whole(
    charm: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, failure: str
) -> None:
    arguments = writing(command)
    assert charm(*arguments).status == 0
    before = state(folder)

    def fail(*_: object, **__: object) -> None:
        if failure == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise KeyboardInterrupt

    monkeypatch.setattr("charm_rm.data.tables._flush", fail)
    monkeypatch.setattr(pl.DataFrame, "write_ipc_stream", fail)
    ended = charm(*arguments, "--force")
    if failure == "full":
        assert "not written ([Errno 28] No space left on device); check space" in ended.error
    else:
        assert ended.status == 130
        assert ended.err.splitlines()[-1] == "interrupted"
    assert state(folder) == before


def test_the_demo_writes_into_no_folder_that_is_there(charm: Run, folder: Path) -> None:
    Path("mine").mkdir()
    before = state(folder)
    assert (
        "mine: exists already; give --force to write into it"
        in charm("demo", "--out", "mine").error
    )
    assert "scores.parquet: exists already" in charm("demo", "--out", "scores.parquet").error
    assert state(folder) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("audit", "scores.parquet", "--temperature", "0"), "temperature must be positive"),
        (("audit", "scores.parquet", "--temperature", "nan"), "temperature must be positive"),
        ((*CALIBRATE[:4], "--reference", SIMPO, "--out", "o.json"), "is both over-valued and"),
        ((*CALIBRATE, "--cross-validate", "999"), "folds must be 2 to 80"),
        ((*PAIRS, "--min-margin", "5", "--max-margin", "1"), "no margin is at least 5.0"),
        ((*PAIRS, "--policy", SIMPO), "only the policy 'gemma-2-9b-it-SimPO'"),
        ((*PAIRS, "--policy", "SimPO", "--policy", MINI), "no policy 'SimPO'; nearest"),
        (("pairs", "scores.parquet", "--out", "p.jsonl"), "give --offsets, or --uncalibrated"),
        ((*PAIRS[:-1], "p.xlsx"), "p.xlsx: unknown kind of preference data"),
        (("elo", "fit", "scores.parquet"), "no column 'model_a', 'model_b'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    charm: Run, folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    before = state(folder)
    assert message in charm(*arguments).error
    assert state(folder) == before
