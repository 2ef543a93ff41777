"""The examples run on the real data they are written for, and print what the README says."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_gpt4_judge_over_values_the_model_it_is_made_of(shared: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / "audit_gpt4_judge.py"), str(shared / "data")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Most worth calibrating: gpt4_1106_preview against claude-2.1" in result.stdout
    assert "hard win rate 0.8559 -> 0.6807 (Elo expects 0.6812)" in result.stderr
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    assert "highest mismatch with 11 of 13 references" in result.stdout
    assert "it has the highest mismatch in 11 of 13 cases" in readme
    assert list(tmp_path.iterdir()) == []
