"""What every test may rely on. Imports only what the core job has: pytest and hypothesis."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"  # no test reaches for a hub: models are local or shipped
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads before a fork are a warning

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
