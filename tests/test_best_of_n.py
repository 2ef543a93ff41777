"""Best of n: what is chosen, from whom, with and without offsets; and the command."""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from builders import make_responses

from charm_rm.best_of_n import choose_best_of_n
from charm_rm.calibrate_many import calibrate_jointly
from charm_rm.data.arena import read_elo
from charm_rm.data.offsets import Calibration, Offset
from charm_rm.data.responses import read_responses
from charm_rm.data.scores import read_scores
from charm_rm.data.tables import DataError, write_json

POLICIES = ("a", "b", "c")
REST: Any = [*[0.0] * 2, 1, *[0.5] * 5, *[0.0] * 4]
OFFSETS = Calibration(
    "rm",
    {},
    "b",
    "sigmoid",
    1.0,
    (Offset("a", None, -1.5, *REST), Offset("c", None, 0.5, *REST)),
    (),
    {},
)
ADDED = {"a": -1.5, "b": 0.0, "c": 0.5}


def make_samples(n_prompts: int = 30, *, n_samples: int = 5, seed: int = 0) -> pl.DataFrame:
    """Three policies with a few samples each, the first over-valued; rows in random order."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"p{prompt:03d}", policy, sample, float(rng.normal()) + (policy == "a"), "rm")
        for prompt in range(n_prompts)
        for policy in POLICIES
        for sample in range(n_samples)
    ]
    names = ["prompt_id", "policy", "sample", "score", "reward_model"]
    table = pl.DataFrame(rows, schema=names, orient="row")
    return table.sample(fraction=1.0, shuffle=True, seed=seed)


Row = dict[str, Any]


def best_by_loop(rows: pl.DataFrame, key: Callable[[Row], Any], added: dict[str, float]) -> Any:
    """The brute-force twin: the highest of each group, looked for one by one."""
    best: dict[Any, Row] = {}
    for row in rows.sort("policy", "sample").iter_rows(named=True):
        value = row["score"] + added.get(row["policy"], 0.0)
        if key(row) not in best or value > best[key(row)]["value"]:
            best[key(row)] = row | {"value": value}
    return best


@pytest.mark.parametrize("per_policy", [True, False])
@pytest.mark.parametrize("calibration", [None, OFFSETS])
def test_the_choice_equals_a_loop_over_the_responses(
    per_policy: bool, calibration: Calibration | None
) -> None:
    scores = make_samples()
    key = (lambda r: (r["prompt_id"], r["policy"])) if per_policy else (lambda r: r["prompt_id"])
    expected = best_by_loop(scores, key, ADDED if calibration else {})
    without = best_by_loop(scores, key, {})
    best = choose_best_of_n(scores, calibration, per_policy=per_policy)
    used = "calibrated_score" if calibration else "score"
    assert len(best.frame) == len(expected) == (90 if per_policy else 30)
    for row in best.frame.iter_rows(named=True):
        found = expected[key(row)]
        assert (row["policy"], row["sample"]) == (found["policy"], found["sample"])
        assert row[used] == pytest.approx(found["value"])
        assert row["score"] == found["score"]
        if calibration:
            raw = without[key(row)]
            changed = (raw["policy"], raw["sample"]) != (row["policy"], row["sample"])
            assert row["changed"] == changed
    assert best.n_changed == (0 if calibration is None else best.frame["changed"].sum())
    assert best.chosen == Counter(row["policy"] for row in expected.values())
    assert best.chosen_without == Counter(row["policy"] for row in without.values())
    assert best.frame["prompt_id"].is_sorted()


def test_an_offset_changes_nothing_among_the_samples_of_one_policy() -> None:
    best = choose_best_of_n(make_samples(), OFFSETS, per_policy=True)
    assert best.n_changed == 0
    assert choose_best_of_n(make_samples(), OFFSETS).n_changed > 0


def test_the_margin_is_that_over_the_next_response() -> None:
    scores = make_samples()
    best = choose_best_of_n(scores)
    for row in best.frame.iter_rows(named=True):
        others = scores.filter(pl.col("prompt_id") == row["prompt_id"])["score"].sort()
        assert row["margin"] == pytest.approx(others[-1] - others[-2])
        assert row["n_candidates"] == 15


def test_of_equal_scores_the_first_by_policy_and_sample_is_chosen_and_counted() -> None:
    tied = make_samples().with_columns(
        pl.when(pl.col("prompt_id") < "p010").then(7.0).otherwise("score").alias("score")
    )
    best = choose_best_of_n(tied)
    first = best.frame.filter(pl.col("prompt_id") < "p010")
    assert best.n_ties == 10
    assert first.select("policy", "sample").unique().rows() == [("a", 0)]
    assert first["margin"].unique().to_list() == [0.0]


def test_scores_in_tenths_tie_whatever_their_rounding() -> None:
    rows = {"prompt_id": ["p", "p"], "policy": ["a", "b"], "sample": [0, 0]}
    scores = pl.DataFrame(rows | {"score": [0.1 + 0.2 + 1.5, 0.3], "reward_model": ["rm"] * 2})
    best = choose_best_of_n(scores, OFFSETS)
    assert (best.n_ties, best.frame["policy"].item()) == (1, "a")


def test_the_first_n_samples_of_each_policy_are_the_candidates() -> None:
    scores = make_samples()
    best = choose_best_of_n(scores, n=2)
    few = choose_best_of_n(scores.filter(pl.col("sample") < 2))
    assert best.frame.equals(few.frame)
    assert [point.n for point in best.curve] == [1, 2, 4, 6]
    gaps = scores.with_columns(pl.col("sample") * 10 + 3)
    assert choose_best_of_n(gaps, n=2).frame["sample"].unique().sort().to_list() == [3, 13]


def test_the_curve_equals_the_mean_over_all_draws() -> None:
    scores = make_samples(4)
    for policy in POLICIES:
        own = scores.filter(pl.col("policy") == policy)
        groups = own.group_by("prompt_id").agg("score")["score"].to_list()
        curve = choose_best_of_n(scores, per_policy=True).curve
        points = {point.n: point for point in curve if point.policy == policy}
        assert list(points) == [1, 2, 4, 5]
        for k, point in points.items():
            draws = [np.mean([max(draw) for draw in combinations(g, k)]) for g in groups]
            assert point.expected_score == pytest.approx(np.mean(draws))
            assert point.kl == pytest.approx(np.log(k) - (k - 1) / k)
            assert point.n_prompts == 4


def test_the_end_of_the_curve_is_the_mean_of_what_was_chosen() -> None:
    best = choose_best_of_n(make_samples(), OFFSETS)
    last = best.curve[-1]
    assert (last.policy, last.n, last.n_prompts) == (None, 15, 30)
    assert last.expected_score == pytest.approx(best.frame["calibrated_score"].mean())


def test_prompts_with_few_responses_are_chosen_from_but_not_in_the_curve() -> None:
    scores = make_samples().filter(
        (pl.col("prompt_id") != "p003") | ((pl.col("policy") == "b") & (pl.col("sample") == 4))
    )
    best = choose_best_of_n(scores)
    lonely = best.frame.row(3, named=True)
    assert (lonely["policy"], lonely["n_candidates"], lonely["margin"]) == ("b", 1, None)
    assert {point.n_prompts for point in best.curve} == {29}
    assert best.curve[-1].n == 15


def test_texts_belong_to_the_chosen_responses() -> None:
    scores = make_samples()
    responses = make_responses(scores)
    frame = choose_best_of_n(scores, OFFSETS, responses=responses).frame
    for row in frame.iter_rows(named=True):
        assert row["response"] == f"{row['policy']} says: it is {row['prompt_id']}"
        assert row["prompt"] == [{"role": "user", "content": f"Tell me of {row['prompt_id']}"}]
    gone = responses.filter(pl.col("prompt_id") != "p007")
    with pytest.raises(DataError, match=r"no sample \d of '\w' to prompt 'p007'.*1 missing"):
        choose_best_of_n(scores, responses=gone)


def test_nothing_to_choose_from_is_refused() -> None:
    single = make_samples(n_samples=1)
    with pytest.raises(DataError, match="one response of each policy, so there is nothing"):
        choose_best_of_n(single, per_policy=True)
    with pytest.raises(DataError, match="one response to choose from"):
        choose_best_of_n(single.filter(pl.col("policy") == "a"))
    with pytest.raises(ValueError, match="best of 6 samples is asked for, but no policy has over"):
        choose_best_of_n(make_samples(), n=6)
    with pytest.raises(ValueError, match="the best of 0 samples is none"):
        choose_best_of_n(make_samples(), n=0)


def test_offsets_of_another_reward_model_are_refused() -> None:
    with pytest.raises(DataError, match="an offset holds for the reward model"):
        choose_best_of_n(make_samples(), replace(OFFSETS, reward_model="other"))


# The command

Charm = Callable[..., tuple[int, str, str]]


@pytest.fixture
def charm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Charm:
    """Runs the command in an empty folder with scores, offsets and responses in it."""
    from charm_rm.cli.main import main

    scores = make_samples()
    scores.write_parquet(tmp_path / "scores.parquet")
    make_responses(scores).write_parquet(tmp_path / "responses.parquet")
    write_json(OFFSETS.to_json(), tmp_path / "offsets.json")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["charm", "best-of-n", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, printed.out, printed.err

    return run


def test_the_command_writes_responses_that_the_next_stage_reads(charm: Charm) -> None:
    status, printed, words = charm(
        *("scores.parquet", "--offsets", "offsets.json", "--responses", "responses.parquet"),
        *("--out", "best.parquet"),
    )
    assert status == 0
    best = choose_best_of_n(make_samples(), OFFSETS)
    written = read_responses(["best.parquet"])
    assert written.select("prompt_id", "policy", "sample").equals(
        best.frame.select("prompt_id", "policy", "sample")
    )
    assert f"30 responses, 0 ties, {best.n_changed} others than without offsets" in words
    lines = [line.split() for line in printed.splitlines()]
    assert ["15", "1.775", f"{best.curve[-1].expected_score:.3f}", "30"] in lines
    first, count = next(iter(best.chosen.items()))
    without = best.chosen_without[first]
    assert [first, f"{count / 30:.3f}", f"{without / 30:.3f}"] in lines


def test_the_command_prints_one_json_document(charm: Charm) -> None:
    arguments = ("scores.parquet", "--per-policy", "-n", "4", "--out", "best.csv", "--json")
    status, printed, _ = charm(*arguments)
    assert status == 0
    document = json.loads(printed)
    best = choose_best_of_n(make_samples(), per_policy=True, n=4)
    assert document["n_chosen"] == 90
    assert document["chosen"] == best.chosen == {"a": 30, "b": 30, "c": 30}
    assert [(p["policy"], p["n"]) for p in document["curve"]] == [
        (policy, n) for policy in POLICIES for n in (1, 2, 4)
    ]
    assert document["made_by"]["inputs"].keys() == {"scores.parquet"}
    assert pl.read_csv("best.csv").columns == best.frame.columns


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("none.parquet", "--out", "o.csv"), "none.parquet: no such file"),
        (("scores.parquet", "--out", "o.xlsx"), "unknown kind of table"),
        (("scores.parquet", "--out", "scores.parquet"), "exists already"),
        (("scores.parquet", "--out", "scores.parquet", "--force"), "is an input of this run"),
        (("scores.parquet", "-n", "6", "--out", "o.csv"), "no policy has over 5"),
        (
            ("scores.parquet", "--responses", "responses.parquet", "--out", "o.csv"),
            "o.csv: not written",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    charm: Charm, tmp_path: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    status, printed, words = charm(*arguments)
    assert (status, printed) == (1, "")
    assert words.startswith("error: ")
    assert words.count("\n") == 1
    assert complaint in words
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# What the page says


def test_the_page_says_what_the_bundled_scores_give() -> None:
    page = (Path(__file__).parents[1] / "docs" / "best-of-n.md").read_text(encoding="utf-8")
    path = str(files("charm_rm.data") / "snapshots" / "demo_scores.parquet")
    scores, elo = read_scores([path]), read_elo("table7")
    best = choose_best_of_n(
        scores, calibrate_jointly(scores, elo, reference="gpt-4o-mini-2024-07-18")
    )
    ratings = dict(elo.frame.select("model", "elo").iter_rows())
    rows = re.findall(r"^\| ([\w.-]+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert len(rows) == 5
    for policy, rating, without, chosen in rows:
        assert int(rating) == round(ratings[policy])
        assert without == f"{best.chosen_without.get(policy, 0) / 805:.3f}"
        assert chosen == f"{best.chosen.get(policy, 0) / 805:.3f}"
    assert f"on {best.n_changed} of the prompts" in page
