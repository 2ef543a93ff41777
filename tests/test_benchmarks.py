"""The benchmark of corrections runs on the bundled scores, and shows what the docs say of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("with_data", [False, True])
def test_only_offsets_mend_the_held_out_mismatch_and_only_joint_ones_the_others(
    shared: Path, tmp_path: Path, with_data: bool
) -> None:
    out = tmp_path / "rows.json"
    data = [str(shared / "data")] if with_data else []
    result = subprocess.run(
        [sys.executable, str(BENCHMARKS / "baselines.py"), *data, "--json", str(out)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    for kind in ("sigmoid", "hard"):
        found = {row["method"]: row for row in rows if row["win_rate"] == kind}
        mismatch = {name: abs(row["signed_mismatch"]) for name, row in found.items()}
        others = {name: row["others_mismatch"] for name, row in found.items()}
        assert mismatch["none"] > 0.3
        assert max(mismatch["one offset"], mismatch["joint"]) < 0.1 * mismatch["none"]
        assert mismatch["less length trend"] > 0.5 * mismatch["none"]
        assert others["one offset"] == others["none"]
        assert others["joint"] < 0.3 * others["none"]
        assert others["z-scores"] > others["none"]
        assert ("by category" in found) == with_data
        assert ("temperature" in found) == (with_data and kind == "sigmoid")
    assert "less length trend" in result.stdout
