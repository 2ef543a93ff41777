"""Bad input, entry by entry and command by command: one line, status 1, nothing half-written.

Battles and leaderboards are in ``test_bad_battles.py``, outputs and settings in
``test_bad_output.py``; what only a process of its own shows (closed streams, signals, a kill) in
``test_cli_streams.py``.
"""

import json
import math
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from builders import MINI, SIMPO, Run, good_scores, offsets_document, state

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
        "half.parquet": lambda: good.with_columns(sample=pl.lit(0.5)),
        "said.parquet": lambda: good.with_columns(truncated=pl.lit("maybe")),
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
        ("half.parquet", f"half.parquet: row 1: sample of '{SIMPO}' is '0.5'"),
        ("said.parquet", "said.parquet: column 'truncated' holds String, not true or false"),
        ("no-id.parquet", f"no-id.parquet: row 4: prompt_id of '{SIMPO}' is 'None'"),
        ("twice.parquet", f"prompt 'p000', policy '{SIMPO}', sample 0 stands more than once"),
        ("empty.parquet", "empty.parquet: no rows; give a file with scores"),
        ("mixed.parquet", "scores of 2 reward models (other-rm, toy-rm)"),
    ],
)
@pytest.mark.parametrize("command", READ_SCORES)
def test_bad_scores_are_refused_by_every_command(
    run_charm: Run, workplace: Path, command: str, name: str, message: str
) -> None:
    write_scores(name)
    before = state(workplace)
    arguments = (word.format(name) for word in READ_SCORES[command])
    assert message in run_charm(*arguments).error
    assert state(workplace) == before


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
    run_charm: Run, workplace: Path, command: str, name: str, message: str
) -> None:
    write_scores(name)
    before = state(workplace)
    arguments = [word.format(name) for word in READ_SCORES[command]]
    if name == "unrated.parquet":
        arguments = [word.replace(MINI, "my-model") for word in arguments]
    allowed = [message]
    if name == "single.parquet":
        allowed = [message, "no policy 'gpt-4o-mini", "no reference 'gpt-4o-mini"]
    error = run_charm(*arguments).error
    assert any(text in error for text in allowed), error
    assert state(workplace) == before


@pytest.mark.parametrize("command", COMPARES[3:])
def test_a_policy_that_is_not_there_lists_the_nearest(
    run_charm: Run, workplace: Path, command: str
) -> None:
    before = state(workplace)
    arguments = [word.format("scores.parquet") for word in READ_SCORES[command]]
    error = run_charm(*(word.replace(MINI, "gpt-4o-mini") for word in arguments)).error
    assert "'gpt-4o-mini'; nearest: gpt-4o-mini-2024-07-18" in error
    if SIMPO in arguments:
        error = run_charm(*(word.replace(SIMPO, "SimPO") for word in arguments)).error
        assert "no policy 'SimPO'; nearest: gemma-2-9b-it-SimPO" in error
    assert state(workplace) == before


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
    "wide.csv": ("model,elo,elo_low,elo_high\na,5,-1e9,1e9\n", "ratings span 2000000000 points"),
    "nameless.csv": ("model,elo\na,1\n,2\n", "row 2 has no model"),
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
    run_charm: Run, workplace: Path, command: tuple[str, ...], name: str
) -> None:
    text, message = ELO_FILES[name]
    Path(name).write_text(text)
    before = state(workplace)
    error = run_charm(*command, name).error
    assert error.startswith(f"error: {name}: ")
    assert message in error
    assert state(workplace) == before


def test_an_elo_table_that_is_not_there_lists_the_bundled_ones(run_charm: Run) -> None:
    for command in (("audit", "scores.parquet", "--elo", "table8"), ("elo", "show", "table8")):
        assert "no Elo table 'table8'; nearest: table7" in run_charm(*command).error
    assert "nowhere.csv: no such file" in run_charm("elo", "show", "nowhere.csv").error


@pytest.mark.parametrize(
    "command", ["audit by category", "calibrate by category", "cross-validate"]
)
def test_prompts_without_a_category_are_refused(
    run_charm: Run, workplace: Path, command: str
) -> None:
    write_scores("null-category.parquet")
    write_scores("no-category.parquet")
    before = state(workplace)
    run = READ_SCORES[command]
    error = run_charm(*(word.format("null-category.parquet") for word in run)).error
    assert "no category" in error
    assert "fill" in error
    if command != "cross-validate":
        error = run_charm(*(word.format("no-category.parquet") for word in run)).error
        assert "no column 'category'" in error
        named = (word.replace("category", "colour") for word in run)
        assert "no column 'colour'" in run_charm(*(w.format("scores.parquet") for w in named)).error
        good_scores().with_columns(colour=pl.concat_list("category")).write_parquet(
            "scores.parquet"
        )
        before = state(workplace)
        named = (word.replace("category", "colour") for word in run)
        error = run_charm(*(word.format("scores.parquet") for word in named)).error
        assert "scores.parquet: column 'colour' holds List(String), not one value" in error
    assert state(workplace) == before


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
    run_charm: Run, workplace: Path, command: tuple[str, ...], name: str
) -> None:
    text, message = RESPONSE_FILES[name]
    if text is not None:
        Path(name).write_text(text)
    before = state(workplace)
    error = run_charm(*command, name).error
    expected = "responses: none of" if "demo" in command and name == "others.csv" else message
    assert expected in error
    assert state(workplace) == before


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
    run_charm: Run, workplace: Path, command: tuple[str, ...], text: str | None, message: str
) -> None:
    if text is not None:
        Path("labels.csv").write_text(text)
    before = state(workplace)
    assert message in run_charm(*command, "--temperature-from", "labels.csv").error
    assert state(workplace) == before


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
    run_charm: Run, workplace: Path, change: object, message: str
) -> None:
    path = Path("offsets.json")
    if change is None:
        path.unlink()
    elif isinstance(change, dict):
        path.write_text(json.dumps(offsets_document() | change))
    else:
        path.write_text(str(change))
    before = state(workplace)
    assert message in run_charm(*PAIRS).error
    assert state(workplace) == before
