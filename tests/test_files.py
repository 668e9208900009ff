"""Files appear whole or not at all, and what a killed process was writing is removed by the next one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench import files

KILLED = """
import os, sys
from pathlib import Path
from workbench import files
with files.whole_folder(Path(sys.argv[1])) as aside:
    (aside / "half").write_text("")
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), 9)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_was_writing_is_removed_by_the_next(tmp_path: Path) -> None:
    run = [sys.executable, "-c", KILLED, str(tmp_path / "whole")]
    assert subprocess.run([*run, "killed"], check=False).returncode == -9
    (left,) = names(tmp_path)
    assert left.startswith(".whole.") and left.endswith(files.ASIDE)
    with files.whole_folder(tmp_path / "another"):
        assert left in names(tmp_path)  # another's
    with files.whole_folder(tmp_path / "whole"):
        assert left not in names(tmp_path)
    assert names(tmp_path) == ["another", "whole"]


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    with files.whole_folder(tmp_path / "whole") as first, files.whole_folder(tmp_path / "whole") as second:
        assert first.is_dir() and second.is_dir()
        (second / "second").write_text("")
    assert names(tmp_path) == ["whole"]


def test_everything_left_in_a_folder_goes(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    files.write_text(inner / "kept", "")
    (inner / f".kept.0-1.xyz{files.ASIDE}").write_text("")
    folder = tmp_path / f".merged.0-1.xyz{files.ASIDE}"
    folder.mkdir()
    (folder / f"model{files.ASIDE}").write_text("")
    files.remove_leftovers(tmp_path)
    assert (names(tmp_path), names(inner)) == (["a"], ["kept"])


def test_a_failure_leaves_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_text(tmp_path / "file", "old")

    def fails(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="No space"):
        files.write_text(tmp_path / "file", "new")
    assert (names(tmp_path), (tmp_path / "file").read_text()) == (["file"], "old")
