"""Another package's methods and metrics are found by their entry points, and a broken one is named."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.errors import UserError
from workbench.methods import find_method, known_methods

MODULE = """
from workbench.methods.lora import METHODS as LORAS
from dataclasses import replace

METHODS = [replace(LORAS[0], name="lora_of_another", summary="somebody else's")]
TAKEN = LORAS[0]
NOTHING = [3]
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with a package of another author; its entry points are written by the test."""
    info = tmp_path / "another-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: another\nVersion: 1.0\n")
    (tmp_path / "another_methods.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    known_methods.cache_clear()
    yield info / "entry_points.txt"
    known_methods.cache_clear()
    sys.modules.pop("another_methods", None)


def test_a_method_of_another_package_is_known(installed: Path) -> None:
    installed.write_text("[workbench.methods]\nanother = another_methods:METHODS\n")
    assert find_method("lora_of_another").summary == "somebody else's"
    assert list(known_methods())[-1] == "lora_of_another"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("another_methods:TAKEN", "brings 'lora', a name that is taken"),
        ("another_methods:NOTHING", "is no Method"),
        ("another_methods:MISSING", "can't be loaded: AttributeError"),
        ("nowhere:METHODS", "can't be loaded: ModuleNotFoundError"),
    ],
)
def test_a_broken_one_is_named(installed: Path, target: str, said: str) -> None:
    installed.write_text(f"[workbench.methods]\nwrong = {target}\n")
    with pytest.raises(UserError, match=said) as caught:
        known_methods()
    assert "the package another" in str(caught.value)
