"""What `make check` asks pip-audit about."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import audit  # noqa: E402


def test_every_package_that_is_installed_is_looked_up_once() -> None:
    """pip-audit refuses a package that is named twice, and what is in no file it doesn't know."""
    named = [
        name
        for file in audit.FILES
        for name in re.findall(r"^([\w.-]+)==", (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]
    locked = {
        name
        for file in ROOT.glob("requirements*.txt")
        for name in re.findall(r"^([\w.-]+)==", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    }
    assert len(named) == len(set(named))
    assert set(named) == locked
