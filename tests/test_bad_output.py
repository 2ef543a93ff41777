"""Outputs that can't be written and settings that make no sense: one line, the old file whole."""

import errno
import os
from pathlib import Path

import polars as pl
import pytest
from builders import MINI, SIMPO, Run, good_scores, state

PAIR = ("--over-valued", SIMPO, "--reference", MINI)
CALIBRATE = ("calibrate", "scores.parquet", *PAIR)
PAIRS = ("pairs", "scores.parquet", "--offsets", "offsets.json", "--out", "p.parquet")
SELF = (*CALIBRATE[:4], "--reference", SIMPO)
HEAD = "model_a,model_b,winner\n"
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
    run_charm: Run, workplace: Path, command: str
) -> None:
    arguments, out = writing(command), Path(WRITE[command][1])
    assert run_charm(*arguments).status == 0
    before = state(workplace)
    assert f"{out}: exists already; give --force to replace it" in run_charm(*arguments).error
    missing = writing(command, f"no/{out}")
    assert f"no/{out}: its folder does not exist; create no first" in run_charm(*missing).error
    assert state(workplace) == before
    assert run_charm(*arguments, "--force").status == 0
    assert {Path(name).parts[0] for name in state(workplace)} == {
        Path(name).parts[0] for name in before
    }


@pytest.mark.parametrize(
    ("command", "source"),
    [
        ("z-scores", "scores.csv"),
        ("pairs", "scores.parquet"),
        ("calibrate", "elo.json"),
        ("elo fit", "battles.csv"),
        ("elo import", "b.csv"),
    ],
)
def test_an_output_that_is_an_input_is_refused_even_with_force(
    run_charm: Run, workplace: Path, command: str, source: str
) -> None:
    good_scores().write_csv("scores.csv")
    Path("elo.json").write_text("[]")
    arguments = [word.replace("scores.parquet", "scores.csv") for word in writing(command, source)]
    arguments += ["--elo", "elo.json"] if command == "calibrate" else []
    if command == "pairs":
        arguments = writing(command, source)
    before = state(workplace)
    assert f"{source}: is an input of this run" in run_charm(*arguments, "--force").error
    assert state(workplace) == before


@pytest.mark.parametrize("failure", ["full", "interrupted"])
@pytest.mark.parametrize("command", WRITE)
def test_a_full_disk_or_an_interrupt_leaves_the_old_output_whole(
    run_charm: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch, command: str, failure: str
) -> None:
    arguments = writing(command)
    assert run_charm(*arguments).status == 0
    before = state(workplace)

    def fail(*_: object, **__: object) -> None:
        if failure == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise KeyboardInterrupt

    monkeypatch.setattr("charm_rm.data.tables._flush", fail)
    monkeypatch.setattr(pl.DataFrame, "write_ipc_stream", fail)
    ended = run_charm(*arguments, "--force")
    if failure == "full":
        assert "not written ([Errno 28] No space left on device); check space" in ended.error
    else:
        assert ended.status == 130
        assert ended.err.splitlines()[-1] == "interrupted"
    assert state(workplace) == before


def test_the_demo_writes_into_no_folder_that_is_there(run_charm: Run, workplace: Path) -> None:
    Path("mine").mkdir()
    before = state(workplace)
    assert (
        "mine: exists already; give --force to write into it"
        in run_charm("demo", "--out", "mine").error
    )
    assert "scores.parquet: exists already" in run_charm("demo", "--out", "scores.parquet").error
    assert state(workplace) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--cross-validate", "5", "--out", "o.json"), "nothing is written"),
        (("--cross-validate", "5", "--method", "probit"), "all are tried"),
        (("--no-shrink", "--out", "o.json"), "needs --by COLUMN"),
        (("--responses", "r.csv", "--out", "o.json"), "needs --method length"),
    ],
)
def test_an_option_that_nothing_would_heed_is_wrong_usage(
    run_charm: Run, workplace: Path, options: tuple[str, ...], message: str
) -> None:
    before = state(workplace)
    ended = run_charm(*CALIBRATE, *options)
    assert ended.status == 2
    assert message in " ".join(ended.err.split())
    assert state(workplace) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("audit", "scores.parquet", "--temperature", "0"), "temperature must be positive"),
        (("audit", "scores.parquet", "--temperature", "nan"), "temperature must be positive"),
        ((*SELF, "--out", "o.json"), "is both over-valued and"),
        ((*SELF, "--by", "category", "--out", "o.json"), "is both over-valued and"),
        ((*SELF, "--method", "z-score", "--out", "z.csv"), "is both over-valued and"),
        ((*SELF, "--cross-validate", "5"), "is both over-valued and"),
        ((*CALIBRATE, "--cross-validate", "999"), "folds must be 2 to 80"),
        ((*PAIRS, "--min-margin", "5", "--max-margin", "1"), "no margin is at least 5.0"),
        ((*PAIRS, "--min-margin", "1e6"), "none of 80 pairs has a margin of 1e+06 or more"),
        (("audit", "scores.parquet", "--temperature", "1e-320"), "temperature must be at least"),
        ((*CALIBRATE, "--out", "o.json", "--temperature", "1e-16"), "must be at least 1e-15"),
        ((*PAIRS, "--policy", SIMPO), "only the policy 'gemma-2-9b-it-SimPO'"),
        ((*PAIRS, "--policy", "SimPO", "--policy", MINI), "no policy 'SimPO'; nearest"),
        (("pairs", "scores.parquet", "--out", "p.jsonl"), "give --offsets, or --uncalibrated"),
        ((*PAIRS[:-1], "p.xlsx"), "p.xlsx: unknown kind of preference data"),
        (("audit", "scores.parquet", "--reference", ""), "no reference ''"),
        (("audit", "scores.parquet", "--elo", "elo.csv", "--rated-only"), "no policy has an Elo"),
        (("elo", "fit", "scores.parquet"), "no column 'model_a', 'model_b'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    run_charm: Run, workplace: Path, arguments: tuple[str, ...], message: str
) -> None:
    Path("elo.csv").write_text("model,elo\nsomeone,1000\nelse,1100\n")
    before = state(workplace)
    assert message in run_charm(*arguments).error
    assert state(workplace) == before
