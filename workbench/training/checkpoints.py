"""What lies in the folder of a training: checkpoints to go on from, and the end of one that is finished."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.trainer_utils import get_last_checkpoint

from workbench import files
from workbench.methods import Driver
from workbench.training.record import Trained

# In a checkpoint: all that is trained of an adapter.
STATE_FILE = "trained.safetensors"
# The best state of a training.
BEST_FILE = "best.safetensors"
# Beside the best state of a finished training: what the method's driver knows.
DRIVER_FILE = "driver.safetensors"
# How a finished training went.
FINISHED_FILE = "finished.json"

logger = logging.getLogger(__name__)


def trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all trained weights, by name."""
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}


def load_trained_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Put a `trained_state` back into `model`."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            parameters[name].copy_(value)


def save_whole(state: dict[str, torch.Tensor], file: Path) -> None:
    """Write `state` as safetensors, whole or not at all."""
    aside = file.with_suffix(".part")
    save_file({name: value.contiguous() for name, value in state.items()}, aside)
    aside.replace(file)


def save_checkpoint(folder: Path, model: nn.Module, driver: Driver | None) -> None:
    """Write all that is trained of `model`, and what its driver knows, for a training that is to go on."""
    state = {f"model.{name}": value for name, value in trained_state(model).items()}
    if driver is not None:
        state |= {f"driver.{name}": value for name, value in driver.state().items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_whole(state, folder / STATE_FILE)


def load_checkpoint(folder: Path, model: nn.Module, driver: Driver | None, device: torch.device) -> None:
    """Go on from what `save_checkpoint` wrote."""
    parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "driver": {}}
    for key, value in load_file(folder / STATE_FILE, device=str(device)).items():
        part, _, name = key.partition(".")
        parts[part][name] = value
    load_trained_state(model, parts["model"])
    if driver is not None:
        driver.load_state(parts["driver"])


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder`; one whose writing was interrupted is removed."""
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / "trainer_state.json").is_file():
            logger.warning("removing %s, which was not written to its end", checkpoint)
            shutil.rmtree(checkpoint)
    found = get_last_checkpoint(str(folder))
    return Path(found) if found else None


def steps_before(checkpoint: Path | None) -> int:
    """Optimizer steps that were made before `checkpoint` was written."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def save_finished(folder: Path, trained: Trained, driver: Driver | None) -> None:
    """Note that the training is over, so that it is not gone on with from a checkpoint before its early stop."""
    if driver is not None:
        save_whole(driver.state(), folder / DRIVER_FILE)
    files.write_json(folder / FINISHED_FILE, asdict(trained))


def load_finished(folder: Path, model: nn.Module, driver: Driver | None) -> Trained | None:
    """Put model and driver into the best state of a finished training; None if the training is not finished."""
    if not (folder / FINISHED_FILE).is_file():
        return None
    load_trained_state(model, load_file(folder / BEST_FILE))
    if driver is not None:
        driver.load_state(load_file(folder / DRIVER_FILE))
    return Trained(**json.loads((folder / FINISHED_FILE).read_text(encoding="utf-8")))
