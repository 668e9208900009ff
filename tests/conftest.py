"""What tests share: tiny checkpoints and recipes on them."""

import os

# Before PyTorch is loaded: threads that wait for each other actively cost tiny models more than their work, and many
# times as much beside another busy process.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, str(max(1, (os.cpu_count() or 1) // int(workers))))

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tiny import make_model, make_tokenizer, recipe_text, write_splits
from workbench.export import FreshProcess
from workbench.models import skip_what_is_there

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WORKBENCH_CACHE"] = "/nonexistent: tests do not use the cache"


@pytest.fixture(scope="session", autouse=True)
def libraries_are_not_collected() -> None:
    """Every collection would look through them."""
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import trl  # noqa: F401

    skip_what_is_there()


@pytest.fixture(scope="session")
def process() -> Iterator[FreshProcess]:
    """Kept open: to start one takes longer than all that is asked of it."""
    with FreshProcess() as reader:
        yield reader


@pytest.fixture(autouse=True)
def one_process_for_all_exports(process: FreshProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("merge", "run", "check"):
        monkeypatch.setattr(f"workbench.run.{module}.FreshProcess", lambda: nullcontext(process))


@pytest.fixture
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(params=["gpt2", "llama"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(kind: str) -> Any:
    return make_model(kind)


@pytest.fixture
def checkpoint_kind() -> str:
    """Of `checkpoint`: most of what a command does hangs on no architecture. Parametrize it where it may."""
    return "llama"


@pytest.fixture
def checkpoint(tmp_path: Path, checkpoint_kind: str) -> Path:
    """A checkpoint folder of a tiny model."""
    folder = tmp_path / f"tiny-{checkpoint_kind}"
    make_model(checkpoint_kind).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def recipe_file(tmp_path: Path, checkpoint: Path) -> Path:
    """A recipe on a tiny checkpoint and a few rows."""
    write_splits(tmp_path)
    path = tmp_path / "tiny.py"
    path.write_text(recipe_text(checkpoint, tmp_path), encoding="utf-8")
    return path
