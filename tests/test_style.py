"""Style of pairs, of RM-Bench scores and of margins, as tables and as ``charm style``."""

# ruff: noqa: E501  (tables as the command prints them)

import json
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from builders import MINI, SIMPO, Run, good_scores
from numpy.testing import assert_allclose

from charm_rm.calibrate import calibrate_pair
from charm_rm.core.elo import expected_win_rate
from charm_rm.core.offsets import solve_offset
from charm_rm.data.arena import elo_table, read_elo
from charm_rm.data.responses import read_responses
from charm_rm.data.scores import read_scores
from charm_rm.data.style_patterns import StylePattern, count_patterns, read_patterns
from charm_rm.data.tables import DataError
from charm_rm.pairs import build_pairs
from charm_rm.style import StyleTable, measure_pairs, measure_spread
from charm_rm.style_margins import explain_policies

TEXTS = {  # what the toy policies write, by the parity of the prompt's number
    SIMPO: ("**Sure!** 😀\n- one\n- two", "Plain."),
    MINI: ("It is so.", "**So.**"),
}


def make_texts(scores: pl.DataFrame) -> pl.DataFrame:
    """Responses whose style follows the policy and the prompt."""
    rows = scores.select("prompt_id", "policy", "sample").iter_rows()
    texts = [
        TEXTS.get(policy, ("Well.", "a"))[int(prompt_id[1:]) % 2] for prompt_id, policy, _ in rows
    ]
    prompt = pl.concat_list(pl.struct(role=pl.lit("user"), content=pl.col("prompt_id")))
    return scores.select(
        "prompt_id", "policy", "sample", prompt.alias("prompt"), response=pl.Series(texts)
    )


def toy_pairs(*, uncalibrated: bool = False) -> pl.DataFrame:
    scores = good_scores()
    calibration = calibrate_pair(
        scores, read_elo("table7"), over_valued=SIMPO, reference=MINI, n_resamples=10
    )
    texts = make_texts(scores)
    return build_pairs(scores, calibration, responses=texts, uncalibrated=uncalibrated).frame


def texts_of(pairs: pl.DataFrame) -> pl.DataFrame:
    said = {
        side: pl.col(side).list.first().struct.field("content") for side in ("chosen", "rejected")
    }
    return pairs.select("prompt_id", **said, flipped=pl.col("flipped"))


def values(table: StyleTable | None) -> dict[str, tuple[float, float, float | None]]:
    assert table is not None
    return {row.pattern: (row.chosen, row.rejected, row.ratio) for row in table.rows}


def test_table_6_of_four_pairs_by_hand() -> None:
    pairs = pl.DataFrame(
        {
            "prompt_id": ["p", "q", "r", "s"],
            "chosen": ["**a** 😀", "**b**!", "c", "- d"],
            "rejected": ["a", "**b**", "**c** 😀🎉", "d!!"],
            "flipped": [None] * 4,
        },
        schema_overrides={"flipped": pl.Boolean},
    )
    found = measure_pairs(pairs)
    rows = values(found.pairs)
    assert rows["emoji"] == (1, 1, 1.0)  # responses, not emoji
    assert rows["bold"] == (2, 2, 1.0)
    assert rows["exclamation"] == (1, 1, 1.0)
    assert rows["list"] == (1, 0, None)
    assert rows["table"] == (0, 0, None)
    assert rows["length"] == (17 / 4, 17 / 4, 1.0)
    assert found.before is None
    assert found.changes == ()
    by_name = {row.pattern: row for row in found.pairs.rows}
    assert by_name["list"].high is None
    assert (by_name["bold"].chosen_share, by_name["bold"].rejected_share) == (0.5, 0.5)
    assert by_name["length"].chosen_share is None
    assert (found.pairs.n_pairs, found.pairs.n_prompts) == (4, 4)


def test_the_flips_of_a_file_give_the_table_of_its_uncalibrated_twin() -> None:
    calibrated, twin = texts_of(toy_pairs()), texts_of(toy_pairs(uncalibrated=True))
    alone = measure_pairs(calibrated)
    together = measure_pairs(calibrated, before=twin.sample(fraction=1.0, shuffle=True, seed=1))
    assert alone.n_flipped is not None
    assert alone.n_flipped > 5
    ours, theirs = values(alone.before), values(together.before)
    assert {name: ours[name] == pytest.approx(theirs[name]) for name in ours} == dict.fromkeys(
        ours, True
    )
    for one, other in zip(alone.changes, together.changes, strict=True):
        assert (one.low, one.high) == pytest.approx((other.low, other.high))
    bold = values(alone.pairs)["bold"][2], values(alone.before)["bold"][2]
    change = next(one for one in alone.changes if one.pattern == "bold")
    assert None not in bold
    assert change.change == pytest.approx(bold[0] / bold[1])  # type: ignore[operator]


def test_nothing_flipped_is_no_change() -> None:
    pairs = texts_of(toy_pairs()).with_columns(flipped=pl.lit(value=False))
    found = measure_pairs(pairs)
    assert found.pairs == found.before
    assert {one.change for one in found.changes} <= {1.0, None}


def test_pairs_of_one_prompt_are_refused() -> None:
    pairs = texts_of(toy_pairs()).with_columns(prompt_id=pl.lit("p"))
    with pytest.raises(DataError, match="80 pairs of 1 prompts; an interval needs two prompts"):
        measure_pairs(pairs)


def rm_bench_scores(n: int = 12, *, markdown: float = 1.0) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (f"{group}/{item}", f"{side}_{style}", 0, float(rng.normal()) + markdown * (style == 3))
        for group in ("chat", "code")
        for item in range(n)
        for side in ("chosen", "rejected")
        for style in (1, 2, 3)
    ]
    names = ["prompt_id", "policy", "sample", "score"]
    frame = pl.DataFrame(rows, schema=names, orient="row").with_columns(reward_model=pl.lit("toy"))
    return frame.sample(fraction=1.0, shuffle=True, seed=2)


def test_the_spread_equals_group_means_of_z_scores() -> None:
    scores = rm_bench_scores()
    z = scores.with_columns(
        z=(pl.col("score") - pl.col("score").mean()) / pl.col("score").std(ddof=0),
        side=pl.col("policy").str.split("_").list.first(),
    )
    found = measure_spread(scores)
    assert found.n_items == {"chat": 12, "code": 12}
    for side in found.sides:
        means = (
            z.filter(pl.col("side") == side.side).group_by("policy").agg(pl.col("z").mean())
        ).sort("policy")["z"]
        assert [*side.means.values()] == pytest.approx(means.to_list())
        assert [*side.means] == ["concise", "detailed", "markdown"]
        assert side.variance == pytest.approx(float(means.to_numpy().var()))
        assert side.low is not None
        assert side.high is not None
        assert side.low < side.variance < side.high


def test_two_places_of_three_are_refused() -> None:
    scores = rm_bench_scores().filter(pl.col("policy") != "rejected_3")
    with pytest.raises(DataError, match="has 3 chosen and 2 rejected responses; RM-Bench has 3"):
        measure_spread(scores)


def planted(
    *, n: int = 120, slope: float = 0.8, noise: float = 0.0
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Margins of a over b that go with exclamation marks alone."""
    rng = np.random.default_rng(3)
    marks = {"a": rng.integers(0, 5, n), "b": rng.integers(0, 2, n)}
    rows = [
        (f"p{i:03}", policy, 0, float(i % 9 + slope * np.log1p(marks[policy][i])), "rm")
        for i in range(n)
        for policy in "ab"
    ]
    names = ["prompt_id", "policy", "sample", "score", "reward_model"]
    scores = pl.DataFrame(rows, schema=names, orient="row")
    jitter = noise * np.random.default_rng(4).normal(size=len(rows))
    scores = scores.with_columns(pl.col("score") + pl.Series(jitter))
    words = [
        ("x" * int(rng.integers(5, 90))) + "!" * int(marks[p][int(i[1:])]) for i, p, *_ in rows
    ]
    return scores, scores.select("prompt_id", "policy", "sample", response=pl.Series(words))


def test_planted_slopes_are_found_and_the_parts_add_up() -> None:
    scores, responses = planted()
    found = explain_policies(scores, responses.reverse(), reference="b", n_resamples=50)
    (policy,) = found.policies
    parts = {part.pattern: part for part in policy.parts}
    assert [*parts] == ["exclamation", "length"]
    assert parts["exclamation"].slope == pytest.approx(0.8)
    assert parts["length"].part == pytest.approx(0.0, abs=1e-9)
    assert policy.rest.value == pytest.approx(0.0, abs=1e-9)
    assert policy.r_squared == pytest.approx(1.0)
    total = sum(part.part for part in policy.parts) + policy.rest.value
    assert total == pytest.approx(policy.mean_margin.value)
    assert set(policy.too_rare) == {p.name for p in read_patterns()} - {"exclamation"}
    assert policy.offset is None
    # Alike in style the two are equal, so the offset is the logit of the expected win rate.
    elo = elo_table(pl.DataFrame({"model": ["a", "b"], "elo": [1200.0, 1250.0]}), name="elo")
    rated = explain_policies(scores, responses, reference="b", elo=elo, n_resamples=50).policies[0]
    assert rated.offset_alike == pytest.approx(-np.log(10) * 50 / 400)
    assert rated.offset is not None
    assert rated.offset < -0.5


def test_parts_of_real_margins_equal_a_regression_of_ones_own(shared: Path) -> None:
    path = str(files("charm_rm.data") / "snapshots" / "demo_scores.parquet")
    scores = read_scores([path])
    responses = read_responses([shared / "data/alpaca_eval/outputs.parquet"])
    elo = read_elo("table7")
    found = explain_policies(
        scores, responses, reference=MINI, over_valued=[SIMPO], elo=elo, n_resamples=100
    ).policies[0]
    sides = []
    for policy in (SIMPO, MINI):
        rows = scores.filter(pl.col("policy") == policy).sort("prompt_id")
        texts = responses.filter(pl.col("policy") == policy).sort("prompt_id")["response"]
        names = [part.pattern for part in found.parts]
        counts = count_patterns(texts).select(names).to_numpy()
        sides.append((rows["score"].to_numpy(), np.log1p(counts)))
    margins, x = sides[0][0] - sides[1][0], sides[0][1] - sides[1][1]
    design = np.column_stack([np.ones(805), x])
    slopes = np.linalg.lstsq(design, margins, rcond=None)[0]
    assert_allclose([part.slope for part in found.parts], slopes[1:], atol=1e-9)
    assert_allclose([part.part for part in found.parts], slopes[1:] * x.mean(axis=0), atol=1e-9)
    assert found.rest.value == pytest.approx(slopes[0])
    target = float(expected_win_rate(*elo.ratings([SIMPO, MINI])[:, 0]))
    assert found.offset == pytest.approx(solve_offset(margins, target))
    alike = margins - x @ slopes[1:]
    assert found.offset_alike == pytest.approx(solve_offset(alike, target))
    assert found.parts[0].pattern == "bold"
    assert found.parts[0].low > 0.1


def test_what_cannot_be_explained_is_refused() -> None:
    scores, responses = planted()
    with pytest.raises(DataError, match="scores: no policy 'c'"):
        explain_policies(scores, responses, reference="c")
    with pytest.raises(DataError, match="'b' is the reference; name another policy"):
        explain_policies(scores, responses, reference="b", over_valued=["b"])
    with pytest.raises(DataError, match=r"responses: none of 'a' to prompt 'p000'.*\(1 missing\)"):
        explain_policies(scores, responses.tail(-1), reference="b")
    few = scores.filter(pl.col("prompt_id") < "p020")
    with pytest.raises(DataError, match="share 20 prompts; at least 30 are needed"):
        explain_policies(few, responses, reference="b")
    twice = [StylePattern(name, "!", in_code=True) for name in ("bang", "mark")]
    with pytest.raises(DataError, match="of 'a' by length, bang, mark: the features can't be told"):
        explain_policies(scores, responses, reference="b", patterns=twice)
    with pytest.raises(DataError, match="no Elo"):
        explain_policies(scores, responses, reference="b", elo=read_elo("table7"))


def flipped_pairs() -> pl.DataFrame:
    """Forty pairs, each by its number, of which a calibration turned every fourth round."""
    return pl.DataFrame(
        {
            "prompt_id": [f"p{i}" for i in range(40)],
            "chosen": ["**a** 😀!" if i % 4 else "See https://a.b" for i in range(40)],
            "rejected": ["- b\n- c" if i % 3 else "**b**?" for i in range(40)],
            "flipped": [i % 4 == 0 for i in range(40)],
        }
    )


GOLDEN_PAIRS = """\
Responses that contain it, of 40 pairs (40 prompts)
pattern         chosen  rejected  ratio, 95% interval  before: chosen  rejected  ratio, 95% interval  change, 95% interval
emoji               30         0    inf (7.81 to inf)              30         0    inf (7.81 to inf)                     -
bold                30        14  2.14 (1.34 to 3.42)              34        10  3.40 (2.03 to 5.71)   0.63 (0.40 to 1.00)
exclamation         30         0    inf (7.81 to inf)              30         0    inf (7.81 to inf)                     -
list                 0        26  0.00 (0.00 to 0.15)               6        20  0.30 (0.12 to 0.73)                     -
header               0         0                    -               0         0                    -                     -
code_block           0         0                    -               0         0                    -                     -
table                0         0                    -               0         0                    -                     -
link                10         0    inf (2.60 to inf)               0        10  0.00 (0.00 to 0.38)                     -
question             0        14  0.00 (0.00 to 0.27)               4        10  0.40 (0.13 to 1.21)                     -
hedge_opener         0         0                    -               0         0                    -                     -
refusal_opener       0         0                    -               0         0                    -                     -
mean length        9.8       6.7  1.47 (1.32 to 1.63)             7.7       8.8  0.87 (0.74 to 1.03)   1.68 (1.29 to 2.18)
"""


def test_pairs_on_the_command_line(run_charm: Run) -> None:
    flipped_pairs().write_parquet("pairs.parquet")
    found = run_charm("style", "pairs.parquet")
    assert found.status == 0
    assert [line.rstrip() for line in found.out.splitlines()] == GOLDEN_PAIRS.splitlines()
    assert found.err == "before: 40 pairs (40 prompts); the calibration turned 10 round\n"


def test_pairs_without_a_before_have_no_columns_for_it(run_charm: Run) -> None:
    flipped_pairs().drop("flipped").write_parquet("pairs.parquet")
    found = run_charm("style", "pairs.parquet")
    assert "before" not in found.out + found.err
    assert "change" not in found.out


def test_pairs_as_json(run_charm: Run) -> None:
    flipped_pairs().write_parquet("pairs.parquet")
    twin = flipped_pairs().with_columns(
        pl.when("flipped").then("rejected").otherwise("chosen").alias("chosen"),
        pl.when("flipped").then("chosen").otherwise("rejected").alias("rejected"),
    )
    twin.write_parquet("twin.parquet")
    found = run_charm("style", "pairs.parquet", "--before", "twin.parquet", "--json")
    assert found.err == ""
    document = json.loads(found.out)
    expected = measure_pairs(flipped_pairs()).to_json()
    assert document["pairs"] == json.loads(json.dumps(expected["pairs"]))
    for row, other in zip(document["before"]["rows"], expected["before"]["rows"], strict=True):
        assert row == pytest.approx(other)
    assert set(document["made_by"]["inputs"]) == {"pairs.parquet", "twin.parquet"}
    assert document["n_flipped"] == 10


GOLDEN_SPREAD = """\
Mean z-score by style, toy, 24 items of RM-Bench (chat 12, code 12)
side      concise  detailed  markdown  variance      95% interval
chosen     -0.468    -0.023    +0.670    0.2191  0.0762 to 0.4035
rejected   -0.622    -0.492    +0.934    0.4969  0.3298 to 0.6789
"""


def test_the_spread_on_the_command_line(run_charm: Run) -> None:
    rm_bench_scores().write_parquet("scores.parquet")
    found = run_charm("style", "scores.parquet")
    assert (found.status, found.err) == (0, "")
    assert [line.rstrip() for line in found.out.splitlines()] == GOLDEN_SPREAD.splitlines()
    document = json.loads(run_charm("style", "scores.parquet", "--json").out)
    assert document["sides"] == list(measure_spread(rm_bench_scores()).to_json()["sides"])


GOLDEN_MARGINS = """\
Mean margin over b, score points, rm
policy  margin               explained                    rest    R2  largest part
a        +0.42  +0.60 (+0.39 to +0.86)  -0.18 (-0.40 to +0.11)  0.45  exclamation +0.59

a: parts of the mean margin, 120 prompts
pattern      difference of log(1 + count)   slope         part, 95% interval  share
exclamation                        +0.596  +0.988  +0.589 (+0.380 to +0.861)   139%
length                             -0.090  -0.160  +0.014 (-0.012 to +0.061)     3%
"""


def test_margins_on_the_command_line(run_charm: Run) -> None:
    scores, responses = planted(noise=0.5)
    scores.write_parquet("scores.parquet")
    asked = pl.concat_list(pl.struct(role=pl.lit("user"), content=pl.col("prompt_id")))
    responses.with_columns(prompt=asked).write_parquet("responses.parquet")
    arguments = ("style", "scores.parquet", "--responses", "responses.parquet", "--reference", "b")
    found = run_charm(*arguments, "--resamples", "50")
    assert found.status == 0
    assert [line.rstrip() for line in found.out.splitlines()] == GOLDEN_MARGINS.splitlines()
    assert found.err.startswith("left out, they differ in fewer than 10 rows: emoji, bold, list")
    Path("elo.csv").write_text("model,elo\na,1200\nb,1250\n")
    with_elo = run_charm(*arguments, "--elo", "elo.csv", "--seed", "3", "--json")
    document = json.loads(with_elo.out)
    assert document["seed"] == 3
    assert document["policies"][0]["offset"] < document["policies"][0]["offset_alike"] < 0.0
    shown = run_charm(*arguments, "--elo", "elo.csv").out
    assert re.search(r"R2\s+offset\s+alike\s+largest part", shown)
    other = run_charm(*arguments, "--over-valued", "c")
    assert "no policy 'c'" in other.error


def test_ones_own_patterns_are_shown_and_used(run_charm: Run) -> None:
    flipped_pairs().write_parquet("pairs.parquet")
    Path("mine.csv").write_text("name,pattern\nemoji,\nb,b\n", encoding="utf-8")
    rows = json.loads(run_charm("style", "--show-patterns", "--patterns", "mine.csv", "--json").out)
    assert rows[-1] == {"name": "b", "pattern": "b", "code_blocks": "skip"}
    assert "emoji" not in [row["name"] for row in rows]
    shown = run_charm("style", "--show-patterns").out
    assert "(by rule)" in shown
    assert r"(?m)^#{1,6}\s" in shown
    found = run_charm("style", "pairs.parquet", "--patterns", "mine.csv", "--json")
    document = json.loads(found.out)
    names = [row["pattern"] for row in document["pairs"]["rows"]]
    assert names[-2:] == ["b", "length"]
    assert "mine.csv" in document["made_by"]["inputs"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pairs.csv"], "pairs.csv: no such file"),
        (["scores.parquet"], "is no benchmark item"),
        (["offsets.json"], "offsets.json: not a readable table"),
        (["responses.parquet"], "no column 'chosen', 'rejected'"),
        (
            ["scores.parquet", "--responses", "responses.parquet", "--reference", "nobody"],
            "no policy 'nobody'",
        ),
    ],
)
def test_files_that_cannot_be_used_end_in_one_line(
    run_charm: Run, arguments: list[str], message: str
) -> None:
    assert message in run_charm("style", *arguments).error


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["scores.parquet", "--reference", MINI],
        ["scores.parquet", "--over-valued", SIMPO],
        ["scores.parquet", "--elo", "table7"],
        ["scores.parquet", "--responses", "responses.parquet"],
        ["scores.parquet", "--before", "scores.parquet"],
        *[["a", "--responses", "b", "--reference", "c", "--before", "d"]],
    ],
)
def test_options_that_do_not_go_together_are_a_usage_error(
    run_charm: Run, arguments: list[str]
) -> None:
    found = run_charm("style", *arguments)
    assert (found.status, found.out) == (2, "")
