"""The names that `import charm_rm` offers, and that it costs nothing."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import charm_rm


def test_every_public_name_is_there_and_documented() -> None:
    for name in charm_rm.__all__:
        assert getattr(charm_rm, name).__doc__, name
        assert getattr(charm_rm, name).__name__ == name
        assert name in dir(charm_rm)


def test_the_installed_version_is_the_one_in_the_source() -> None:
    assert version("charm-rm") == charm_rm.__version__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'charm_rm' has no attribute 'solve_ofset'"):
        charm_rm.solve_ofset  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_package_imports_no_library() -> None:
    code = "import sys; import charm_rm; print(sorted({m.split('.')[0] for m in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for library in ("numpy", "scipy", "polars", "torch"):
        assert f"'{library}'" not in run.stdout
