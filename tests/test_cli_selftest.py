"""`charm selftest`: the short form runs the real thing; its words, its JSON, its exit status."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import charm_rm.cli.selftest
from charm_rm.cli.main import main
from charm_rm.planted import SCENARIOS, Recovery, run_scenario

N_ROWS = sum(len(scenario.parts) for scenario in SCENARIOS)


def run(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", "from charm_rm.cli.main import main; main()", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=os.environ | {"COLUMNS": "160", "PYTHONWARNINGS": "error"},
        timeout=300,
        check=False,
    )


def test_the_instrument_passes_its_own_test(tmp_path: Path) -> None:
    result = run("selftest", "--quick", "--json", folder=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    document = json.loads(result.stdout)
    assert document["passed"] is True
    assert (document["repetitions"], document["resamples"], document["seed"]) == (20, 200, 0)
    assert len(document["rows"]) == N_ROWS
    names = {row["scenario"] for row in document["rows"]}
    assert names == {scenario.name for scenario in SCENARIOS}
    assert all(row["faults"] == [] for row in document["rows"])
    assert f"one sound instrument in 20 fails any of {4 * N_ROWS} checks" in document["rule"]
    assert len(result.stderr.splitlines()) == len(SCENARIOS)  # a line as each is done
    assert list(tmp_path.iterdir()) == []


def test_the_table_has_a_row_per_scenario_and_category_and_states_its_rule(tmp_path: Path) -> None:
    result = run("selftest", "--quick", "--repetitions", "3", "--seed", "1", folder=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "what 3 audits and calibrations found" in result.stdout
    lines = result.stdout.splitlines()
    for scenario in SCENARIOS:
        rows = [line for line in lines if re.match(rf"{scenario.name}(:| +\d)", line)]
        assert len(rows) == len(scenario.parts)
        assert all("pass" in row and row.count("±") == 2 for row in rows)
    assert "one sound instrument in 20 fails" in " ".join(result.stdout.split())


def test_a_single_repetition_is_a_usage_error(tmp_path: Path) -> None:
    assert run("selftest", "--repetitions", "1", folder=tmp_path).returncode == 2


@pytest.fixture
def recovery() -> Recovery:
    (found,) = run_scenario(SCENARIOS[1], repetitions=5, n_resamples=50)
    return replace(found, n_repetitions=1000)


def charm(found: list[Recovery], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """`charm selftest` in this process, with given findings in place of the long run."""
    monkeypatch.setattr(charm_rm.cli.selftest, "_run_all", lambda *_, **__: iter(found))
    monkeypatch.setattr(sys, "argv", ["charm", "selftest", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    main()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"offset_coverage": 0.91}, "offset coverage"),
        ({"offset_coverage": 0.99}, "offset coverage"),
        ({"mismatch_coverage": 0.91}, "mismatch coverage"),
        ({"false_discoveries": 0.09}, "false discoveries"),
        ({"mean_offset": -1.3, "offset_spread": 0.15}, "offset leans"),
    ],
)
def test_a_failed_check_is_named_and_ends_with_status_1(
    change: dict[str, float],
    fault: str,
    recovery: Recovery,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sound = replace(
        recovery,
        mean_offset=recovery.truth.offset,
        offset_coverage=0.95,
        mismatch_coverage=0.95,
        false_discoveries=0.03,
    )
    broken = replace(sound, scenario="broken", **change)  # type: ignore[arg-type]
    with pytest.raises(SystemExit) as ended:
        charm([sound, broken], monkeypatch)
    assert ended.value.code == 1
    printed = capsys.readouterr()
    row = next(line for line in printed.out.splitlines() if line.startswith("broken"))
    assert row.rstrip().endswith(f"FAIL: {fault}")
    last = printed.err.splitlines()[-1]
    assert last.startswith("error: selftest: 1 of 2 rows fail")
    assert "--repetitions 1000 --seed 0" in last


def test_a_failure_leaves_the_json_whole(
    recovery: Recovery, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = replace(recovery, offset_coverage=0.8, mismatch_coverage=0.95, false_discoveries=0.0)
    with pytest.raises(SystemExit):
        charm([broken], monkeypatch, "--json", "--repetitions", "1000")
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is False
    assert document["rows"][0]["faults"] == ["offset coverage"]
    assert document["rows"][0]["truth"]["bias"] == 1.5
