"""Several processes that train one model together: what one alone finds, to rounding."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tiny import make_model
from together import NAMES, SPLIT, trained
from workbench import processes
from workbench.errors import MethodError, UserError
from workbench.fsdp import Fsdp, taken_from
from workbench.models import split_frozen
from workbench.run.engines import require_options
from workbench.run.options import Options
from workbench.training.checkpoints import BEST_FILE

TOLERANCE = 1e-5
OPTIONS = Options(recipe=None, recipe_sha256=None, methods=None, model=None, bits=32, seed=0, seeds=1, limit=None)


TORCHRUN = ("torch.distributed.run", "--nproc-per-node", "2")


def launch(*command: str, by: Sequence[str] = TORCHRUN) -> subprocess.CompletedProcess[str]:
    """Begin two processes with one core each, as `torchrun` does, or `accelerate launch`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *by, *command], env=environment, check=False, capture_output=True, text=True
    )


def losses(curve: Sequence[Mapping[str, float]]) -> list[float]:
    """Of the training and the validation, in their order."""
    return [value for point in curve for key, value in point.items() if key != "step"]


@pytest.mark.slow
def test_two_processes_train_as_one_and_go_on_after_an_interruption(tmp_path: Path) -> None:
    begun = launch(str(Path(__file__).with_name("together.py")), str(tmp_path))
    assert begun.returncode == 0, begun.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    for name in NAMES:
        whole, again = found["trained"][name]
        alone = trained(tmp_path / f"{name}-alone", name)
        assert (whole["steps"], len(losses(whole["curve"]))) == (10, 10 + 2)
        assert losses(whole["curve"]) == pytest.approx(losses(alone.curve), abs=TOLERANCE)
        assert whole["checked_loss"] == pytest.approx(alone.checked_loss, abs=TOLERANCE)
        assert again["resumed"]
        assert again["curve"] == whole["curve"]
        kept = [load_file(tmp_path / folder / BEST_FILE) for folder in (name, f"{name}-again", f"{name}-alone")]
        for key, value in kept[0].items():
            assert value.equal(kept[1][key])
            assert value.numpy() == pytest.approx(kept[2][key].numpy(), abs=TOLERANCE)
    for kind, name in SPLIT:
        (split,) = found["trained"][f"{kind}-{name}-split"]
        alone = trained(tmp_path / f"{kind}-{name}-alone", name, kind=kind)
        assert losses(split["curve"]) == pytest.approx(losses(alone.curve), abs=TOLERANCE)
        assert split["checked_loss"] == pytest.approx(alone.checked_loss, abs=TOLERANCE)
    assert found["shares"] == pytest.approx([0.5, 0.5], abs=0.01)
    assert not list(tmp_path.rglob("*.part"))
    ours, other = found["said"]
    assert ours == "MethodError: process 1 of 2 failed: ValueError: what only one of them meets"
    assert other == "ValueError: what only one of them meets"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RANK": "0", "ACCELERATE_USE_FSDP": "true", "FSDP_SHARDING_STRATEGY": "4"}, "FSDP by HYBRID_SHARD is not"),
        (
            {"RANK": "0", "ACCELERATE_USE_FSDP": "true", "FSDP_ACTIVATION_CHECKPOINTING": "true"},
            "fsdp_activation_checkpointing is not used here",
        ),
        ({"RANK": "0", "ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed splits the model itself"),
        ({}, "WORLD_SIZE is 2 here, but no RANK is set"),
    ],
)
def test_what_splits_the_model_or_is_half_begun_is_refused(
    environment: Mapping[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said):
        processes.join()
    with pytest.raises(UserError, match="that is for the command"):
        require_options(
            Options(recipe=None, recipe_sha256=None, methods=None, model=None, bits=32, seed=0, seeds=1, limit=None)
        )


@pytest.mark.parametrize(
    ("told", "reshard"),
    [
        ({}, True),
        ({"VERSION": "1", "RESHARD_AFTER_FORWARD": "true", "SHARDING_STRATEGY": "FULL_SHARD"}, True),
        ({"VERSION": "1", "RESHARD_AFTER_FORWARD": "true", "SHARDING_STRATEGY": "2"}, False),
        ({"VERSION": "1", "RESHARD_AFTER_FORWARD": "SHARD_GRAD_OP"}, False),
        ({"VERSION": "2", "RESHARD_AFTER_FORWARD": "false", "SHARDING_STRATEGY": "FULL_SHARD"}, False),
        ({"VERSION": "2", "RESHARD_AFTER_FORWARD": "true", "OFFLOAD_PARAMS": "true"}, True),
    ],
)
def test_accelerates_configuration_says_how_weights_are_split(told: Mapping[str, str], reshard: bool) -> None:
    environment = {"ACCELERATE_USE_FSDP": "true", **{f"FSDP_{name}": value for name, value in told.items()}}
    assert taken_from(environment) == Fsdp(reshard=reshard, offload="OFFLOAD_PARAMS" in told)
    assert taken_from(environment) is None  # accelerate and transformers don't see it either


def test_what_can_not_be_split_is_refused() -> None:
    model = make_model("llama")
    with pytest.raises(MethodError, match="FSDP splits frozen weights, and this method trains them all"):
        split_frozen(model.requires_grad_(True), Fsdp())
    model = make_model("llama")
    model.model.layers[0].mlp.up_proj.weight = nn.Parameter(torch.ones(4, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(MethodError, match="not quantized ones"):
        split_frozen(model, Fsdp())


def test_one_process_needs_nobody() -> None:
    processes.join()
    assert (processes.count(), processes.rank(), processes.leads()) == (1, 0, True)
    assert processes.from_first("it") == "it"
    assert processes.gathered("it") == ["it"]
    with pytest.raises(ValueError, match="as it was"), processes.together():
        raise ValueError("as it was")
