"""What every test may rely on. Imports only what the core job has: pytest and hypothesis."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from builders import Ended, Run

os.environ["HF_HUB_OFFLINE"] = "1"  # no test reaches for a hub: models are local or shipped
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads before a fork are a warning
os.environ["COLUMNS"] = "140"  # tables are as wide on every terminal

# A busy machine is no failure; the same examples everywhere make a failure repeatable.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the shared data: $CHARM_SHARED, else `shared` beside the repository."""
    folder = Path(os.environ.get("CHARM_SHARED") or REPOSITORY.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.fail(
            f"{folder}: no folder 'data' in it; set CHARM_SHARED to the folder of shared data"
        )
    return folder


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with good scores, responses and offsets in it."""
    from builders import good_scores, make_responses, offsets_document

    monkeypatch.chdir(tmp_path)
    good_scores().write_parquet("scores.parquet")
    make_responses(good_scores()).write_parquet("responses.parquet")
    Path("offsets.json").write_text(json.dumps(offsets_document()), encoding="utf-8")
    return tmp_path


@pytest.fixture
def run_charm(workplace: Path, capsys: pytest.CaptureFixture[str]) -> "Run":
    """Runs `charm` in that folder, within this process."""
    from builders import run_main

    def run(*arguments: str) -> "Ended":
        assert Path.cwd() == workplace
        return run_main(arguments, capsys)

    return run
