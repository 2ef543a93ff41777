"""``charm evaluate`` as a user meets it: a model or scores in, figures out, one-line errors."""

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from benchmark_builders import group_items, make_scores, write_chat
from builders import MINI, SIMPO

from charm_rm.data.tables import DataError
from charm_rm.models.hub_benchmarks import load_benchmark

MakeModel = Callable[..., Path]
Charm = Callable[..., tuple[int, str, str]]
DEMO = str(files("charm_rm.data") / "snapshots" / "demo_scores.parquet")


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    return write_chat(tmp_path)


def document(charm: Charm, *arguments: object) -> dict[str, Any]:
    status, printed, words = charm("evaluate", *arguments, "--json")
    assert status == 0, words
    found: dict[str, Any] = json.loads(printed)
    return found


def test_a_model_and_its_stored_scores_give_the_same_figures(
    charm: Charm, make: MakeModel, chat: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.parquet"
    model = make(name="my-rm")
    scoring = ("--reward-model", model, "--data", chat, "--out-scores", out, "--dtype", "float32")
    first = document(charm, "rm-bench", *scoring)
    assert first["reward_model"] == "my-rm"
    assert [(f["part"], f["measure"]) for f in first["figures"]][:2] == [
        *(("chat", "mean"), ("chat", "hard"))
    ]
    assert first["n_truncated"] == 0
    assert not out.with_name("scores.parquet.parts").exists()
    again = document(charm, "rm-bench", "--scores", out)
    assert again["figures"] == first["figures"]


def test_a_run_that_was_killed_goes_on_from_its_parts(
    charm: Charm, make: MakeModel, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from charm_rm.models import scoring

    out = tmp_path / "scores.parquet"
    arguments = [*("rm-bench", chat, "--reward-model", make(), "--out-scores", out)]
    arguments += [*("--dtype", "float32", "--batch-tokens", "60")]
    real = scoring.RewardModel.score_ids
    done: list[int] = []
    dies_after = 5

    def score(self: Any, sequences: Any, **options: Any) -> Any:
        if len(done) == dies_after:
            raise OSError("killed")
        done.append(len(sequences))
        return real(self, sequences, **options)

    monkeypatch.setattr(scoring.RewardModel, "score_ids", score)
    assert charm("evaluate", *arguments)[0] == 1
    n_kept = sum(done)
    done.clear()
    dies_after = -1
    document(charm, *arguments)
    assert sum(done) == 48 - n_kept


def test_a_sample_of_the_items_is_scored_alone(
    charm: Charm, make: MakeModel, chat: Path, tmp_path: Path
) -> None:
    found = document(
        *(charm, "rm-bench", chat, "--reward-model", make(), "--sample", 3, "--only", "chat"),
        *("--out-scores", tmp_path / "few.csv"),
    )
    assert found["figures"][0]["n_items"] == 3
    assert found["figures"][0]["n_published"] == 129


def test_a_comparison_is_printed_below_the_figures(charm: Charm, tmp_path: Path) -> None:
    items = group_items({"chat": 6, "code": 5}, 3, 3)
    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    make_scores(items, seed=1).write_parquet(first)
    make_scores(items, seed=2, name="before").write_parquet(second)
    status, printed, words = charm("evaluate", "rm-bench", "--scores", first, "--compare", second)
    assert status == 0
    assert "toy-rm against before, on the same items" in printed
    assert "paired permutation test by item" in printed
    assert "warning: RM-Bench: no items of math, safety-refuse, safety-response" in words
    found = document(charm, "rm-bench", "--scores", first, "--compare", second)["comparison"]
    assert found["differences"][0]["p_value"] > 0


@pytest.mark.parametrize("name", ["reward-bench", "reward-bench-2"])
def test_the_other_benchmarks_take_stored_scores(charm: Charm, tmp_path: Path, name: str) -> None:
    group, n_rejected = {"reward-bench": ("donotanswer", 1), "reward-bench-2": ("Math", 3)}[name]
    path = tmp_path / "scores.csv"
    make_scores(group_items({group: 4}, 1, n_rejected)).write_csv(path)
    status, printed, _ = charm("evaluate", name, "--scores", path)
    assert status == 0
    assert f"{group}  4 of" in printed


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("rm-bench",), 2, "give one of the two"),
        (("rm-bench", "--scores", "a.csv", "--reward-model", "m"), 2, "give one of the two"),
        (("rm-bench", "--scores", "a.csv", "--sample", "3"), 2, "stored scores need no data"),
        (("rm-bench", "--scores", "a.csv"), 1, "error: a.csv: no such file; check the path"),
        (("rm-bench", "a.json", "--reward-model", "m", "--out-scores", "x.txt"), 1, "x.txt"),
        (("battles", DEMO, "--opponent", MINI, "--offsets", "o", "--after", "a"), 2, "one of the"),
        (("battles", DEMO, "--opponent", "gpt5"), 1, "error: scores: no opponent 'gpt5'"),
    ],
)
def test_a_mistake_is_one_line(
    charm: Charm, arguments: tuple[str, ...], status: int, message: str
) -> None:
    found, printed, words = charm("evaluate", *arguments)
    assert (found, printed) == (status, "")
    assert message in words


def test_scores_that_are_there_are_not_made_again(
    charm: Charm, make: MakeModel, chat: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.parquet"
    out.write_text("precious")
    status, _, words = charm(
        "evaluate", "rm-bench", chat, "--reward-model", make(), "--out-scores", out
    )
    assert (status, out.read_text()) == (1, "precious")
    assert "give it as --scores, or --force" in words


def test_without_data_the_hub_is_asked_and_its_refusal_is_one_line(
    charm: Charm, make: MakeModel, tmp_path: Path
) -> None:
    status, _, words = charm(
        *("evaluate", "rm-bench", "--reward-model", make()),
        *("--out-scores", tmp_path / "scores.parquet"),
    )
    assert status == 1
    assert "error: THU-KEG/RM-Bench: can't be loaded" in words
    assert "--data" in words
    assert not (tmp_path / "scores.parquet.parts").exists()


def test_a_data_set_of_the_hub_library_becomes_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    table = pl.DataFrame({"id": ["tied:1"], "chosen": [["red", "blue"]]})
    table.write_parquet(folder / "train.parquet")
    assert load_benchmark(str(folder), split="train").rows() == table.rows()
    with pytest.raises(DataError, match="can't be loaded"):
        load_benchmark(str(folder), split="absent")


def test_battles_before_and_after_an_offset(charm: Charm, tmp_path: Path) -> None:
    offsets = tmp_path / "offsets.json"
    pair = ("--over-valued", SIMPO, "--reference", MINI, "--elo", "table7")
    assert charm("calibrate", DEMO, *pair, "--out", offsets)[0] == 0
    arguments = ("battles", DEMO, "--opponent", MINI, "--offsets", offsets, "--resamples", 50)
    field = document(charm, *arguments)["battlefields"][0]
    seen = [battle for battle in field["battles"] if battle["seen"]]
    assert [battle["policy"] for battle in seen] == [SIMPO]
    assert seen[0]["after"]["mismatch_degree"] < 1e-6 < 0.3 < seen[0]["before"]["mismatch_degree"]
    assert field["summaries"]["unseen"]["n_policies"] == 18
    status, printed, words = charm("evaluate", *arguments)
    assert status == 0
    assert f"{SIMPO} (seen)" in printed
    assert "unseen (18 policies): mean Mismatch Degree" in printed
    assert "warning:" in words


def test_battles_before_and_after_fine_tuning_mark_who_was_seen(charm: Charm) -> None:
    arguments = ("battles", DEMO, "--opponent", MINI, "--after", DEMO, "--resamples", 20)
    field = document(charm, *arguments, "--seen", SIMPO)["battlefields"][0]
    assert [battle["policy"] for battle in field["battles"] if battle["seen"]] == [SIMPO]
    assert field["summaries"]["all"]["change"] == 0.0
