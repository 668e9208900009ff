"""Where numba or PyTorch's OpenMP is missing, as on macOS and Windows, everything runs and gives the same."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

from workbench.models.fast import compiled
from workbench.run.__main__ import main

METHODS = "untuned,lora,parallel,prefix"


@contextmanager
def no_numba() -> Iterator[None]:
    """Not installed: neither found nor imported."""
    found = compiled.find_spec
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "find_spec", lambda name: None if name == "numba" else found(name))
        patch.setitem(sys.modules, "numba", None)
        patch.delitem(sys.modules, "workbench.models.fast.loops", raising=False)
        compiled._openmp.cache_clear()
        yield
    compiled._openmp.cache_clear()


@contextmanager
def no_openmp() -> Iterator[None]:
    """A PyTorch whose threads are its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.__config__, "parallel_info", lambda: "ATen parallel backend: native thread pool")
        compiled._openmp.cache_clear()
        yield
    compiled._openmp.cache_clear()


@pytest.mark.parametrize(("bits", "missing"), [(32, no_numba), (8, no_openmp)])
def test_a_run_gives_the_same(
    bits: int,
    missing: Callable[[], AbstractContextManager[None]],
    recipe_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(name: str) -> dict[str, dict]:
        given = [recipe_file, "--methods", METHODS, "--bits", bits, "--out", tmp_path / name]
        assert main(list(map(str, given))) == 0
        capsys.readouterr()
        results = json.loads((tmp_path / name / "results.json").read_text())
        return {record["method"]: record for record in results["runs"]}

    before = run("with")
    with missing():
        assert not compiled.can_compile(torch.zeros(2))
        after = run("without")
    assert list(after) == METHODS.split(",")
    for name, record in after.items():
        assert record["status"] == "done", record["error"]
        assert record["export"]["merged"] == before[name]["export"]["merged"], record["export"]
        for label, score in record["metrics"].items():
            if label.startswith("perplexity"):
                assert score["value"] == pytest.approx(before[name]["metrics"][label]["value"], rel=2e-3)
        if name != "untuned":
            assert record["validation_loss"] == pytest.approx(before[name]["validation_loss"], rel=1e-3)
