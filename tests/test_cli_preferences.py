"""``charm preferences`` as a user meets it."""

import json
from pathlib import Path

import polars as pl
from builders import Run

VOTES = [
    {"prompt": "Hi", "chosen": "yes", "rejected": "no"},
    {"prompt": "Hi", "chosen": "yes", "rejected": "no"},
    {"prompt": "Name a river.", "chosen": "The Po", "rejected": "What?"},
]


def write_votes() -> None:
    Path("votes.jsonl").write_text("".join(json.dumps(vote) + "\n" for vote in VOTES))
    Path("benchmark.jsonl").write_text('{"prompt": "name a RIVER"}\n')


def test_votes_become_pairs_and_the_rest_is_accounted_for(run_charm: Run) -> None:
    write_votes()
    ended = run_charm(
        *("preferences", "votes.jsonl", "--benchmark", "benchmark.jsonl", "--out", "pairs.parquet")
    )
    assert ended.status == 0
    assert [line.split("  ")[0] for line in ended.out.splitlines()] == [
        "votes read",
        "dropped: repeated",
        "dropped: equal to a benchmark's prompt",
        "pairs",
        "",
        "prompts",
    ]
    assert "wrote pairs.parquet: 1 pairs" in ended.err
    pair = pl.read_parquet("pairs.parquet").row(0, named=True)
    assert pair["chosen"] == [{"role": "assistant", "content": "yes"}]

    ended = run_charm("preferences", "votes.jsonl", "--out", "pairs.jsonl", "--json")
    document = json.loads(ended.out)
    assert (document["n_votes"], document["n_pairs"]) == (3, 2)
    assert document["dropped"] == {"repeated": 1}


def test_the_options_reach_the_reader(run_charm: Run) -> None:
    sides = {f"conversation_{side}": [f"{side}"] for side in "ab"}
    talks = {
        key: [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text[0]}]
        for key, text in sides.items()
    }
    rows = [
        {"model_a": "x", "model_b": "y", "winner": "tie", "language": name} | talks
        for name in ("English", "French")
    ]
    Path("votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ("preferences", "votes.jsonl", "--ties", "both", "--language", "French")
    ended = run_charm(*asked, "--several-turns", "--out", "pairs.parquet", "--json")
    document = json.loads(ended.out)
    assert (document["n_pairs"], document["n_pairs_of_ties"]) == (2, 2)
    assert document["dropped"] == {"another language": 1}
    assert pl.read_parquet("pairs.parquet")["language"].unique().to_list() == ["French"]


def test_an_output_that_is_there_is_kept_unless_forced(run_charm: Run) -> None:
    write_votes()
    Path("pairs.parquet").write_text("precious")
    asked = ("preferences", "votes.jsonl", "--out", "pairs.parquet")
    ended = run_charm(*asked)
    assert (ended.status, Path("pairs.parquet").read_text()) == (1, "precious")
    assert run_charm(*asked, "--force").status == 0
    assert run_charm("preferences", "votes.jsonl", "--out", "votes.jsonl", "--force").status == 1
