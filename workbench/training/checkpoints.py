"""What lies in the folder of a training: checkpoints to go on from, and the end of one that is finished.

Tensors are in safetensors, everything else in JSON. `checksums.json` of a checkpoint has the sha256 of each of its
files and is written last: what was not written to its end, or was changed or damaged since, is not gone on from.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from workbench import files
from workbench.methods import Driver
from workbench.training.packing import packed, unpacked
from workbench.training.record import Trained

# In a checkpoint: all that is trained, what optimizer, scheduler and random generators know, and the best state so far.
TRAINED_FILE = "trained.safetensors"
TENSORS_FILE, VALUES_FILE = "state.safetensors", "state.json"
BEST_FILE = "best.safetensors"
CHECKSUMS_FILE = "checksums.json"
# Beside the best state of a finished training: what the method's driver knows, and how the training went.
DRIVER_FILE = "driver.safetensors"
FINISHED_FILE = "finished.json"
# The newest, and one to go back to if that is damaged.
CHECKPOINTS_KEPT = 2

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
    aside = file.with_suffix(files.ASIDE)
    save_file({name: value.contiguous() for name, value in state.items()}, aside)
    aside.replace(file)


def save_model(folder: Path, model: nn.Module, driver: Driver | None) -> None:
    """Write all that is trained of `model`, and what its driver knows, for a training that is to go on."""
    state = {f"model.{name}": value for name, value in trained_state(model).items()}
    if driver is not None:
        state |= {f"driver.{name}": value for name, value in driver.state().items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_whole(state, folder / TRAINED_FILE)


def load_model(folder: Path, model: nn.Module, driver: Driver | None) -> None:
    """Go on from what `save_model` wrote."""
    parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "driver": {}}
    place = next(model.parameters()).device
    for key, value in load_file(folder / TRAINED_FILE).items():
        part, _, name = key.partition(".")
        parts[part][name] = value.to(place)
    load_trained_state(model, parts["model"])
    if driver is not None:
        driver.load_state(parts["driver"])


def save_values(folder: Path, values: Mapping[str, Any]) -> None:
    """Write what else a training knows; see `packed` for what it may be."""
    tensors: dict[str, torch.Tensor] = {}
    files.write_text(folder / VALUES_FILE, json.dumps(packed(values, tensors)))
    save_whole(tensors, folder / TENSORS_FILE)


def load_values(folder: Path) -> dict[str, Any]:
    """What `save_values` wrote."""
    values = json.loads((folder / VALUES_FILE).read_text(encoding="utf-8"))
    found: dict[str, Any] = unpacked(values, load_file(folder / TENSORS_FILE))
    return found


def seal(checkpoint: Path) -> None:
    """Declare a checkpoint whole, with the best state so far, and remove all but the newest ones."""
    best = checkpoint.parent / BEST_FILE
    if best.is_file():
        _copy(best, checkpoint / BEST_FILE)
    files.write_json(checkpoint / CHECKSUMS_FILE, _checksums(checkpoint, CHECKSUMS_FILE))
    for older in _checkpoints(checkpoint.parent)[CHECKPOINTS_KEPT:]:
        shutil.rmtree(older)


def _copy(file: Path, to: Path) -> None:
    """Copy a file, whole or not at all."""
    aside = to.with_suffix(files.ASIDE)
    shutil.copyfile(file, aside)
    aside.replace(to)


def _checksums(folder: Path, *without: str) -> dict[str, str]:
    return {path.name: files.sha256_of(path) for path in sorted(folder.iterdir()) if path.name not in without}


def _damage(folder: Path, recorded: Callable[[], Mapping[str, str]]) -> str | None:
    """What is wrong with files whose checksums were recorded; None if nothing is."""
    try:
        expected = dict(recorded())
        found = {name: files.sha256_of(folder / name) for name in expected}
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, TypeError, KeyError) as error:
        return f"its checksums can't be read: {error}"
    changed = [name for name in expected if found[name] != expected[name]]
    return f"{', '.join(changed)} changed since it was written" if changed else None


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` that is whole; those that are not are removed, and said.

    The best state of the training is put back to what it was then.
    """
    found = _checkpoints(folder)
    for checkpoint in found:
        recorded = checkpoint / CHECKSUMS_FILE
        damage = _damage(checkpoint, lambda file=recorded: json.loads(file.read_text(encoding="utf-8")))  # type: ignore[misc]
        if damage is None:
            (folder / BEST_FILE).unlink(missing_ok=True)
            if (checkpoint / BEST_FILE).is_file():
                _copy(checkpoint / BEST_FILE, folder / BEST_FILE)
            return checkpoint
        logger.warning("%s is not gone on from: %s", checkpoint, damage)
        shutil.rmtree(checkpoint)
    if found:
        logger.warning("%s: no checkpoint is whole, so the training begins anew", folder)
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """All of a training, the newest first."""
    return sorted(folder.glob("checkpoint-*"), key=_steps, reverse=True)


def _steps(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def save_finished(folder: Path, trained: Trained, driver: Driver | None) -> None:
    """Note that the training is over, so that it is not gone on with from a checkpoint before its early stop."""
    if driver is not None:
        save_whole(driver.state(), folder / DRIVER_FILE)
    names = [BEST_FILE, *([DRIVER_FILE] if driver is not None else [])]
    checksums = {name: files.sha256_of(folder / name) for name in names}
    files.write_json(folder / FINISHED_FILE, {"trained": asdict(trained), "sha256": checksums})


def load_finished(folder: Path, model: nn.Module, driver: Driver | None) -> Trained | None:
    """Put model and driver into the best state of a finished training; None if it is not finished, or damaged."""
    file = folder / FINISHED_FILE
    if not file.is_file():
        return None
    damage = _damage(folder, lambda: json.loads(file.read_text(encoding="utf-8"))["sha256"])
    if damage is not None:
        logger.warning("the finished training in %s can't be used: %s", folder, damage)
        file.unlink()
        return None
    load_trained_state(model, load_file(folder / BEST_FILE))
    if driver is not None:
        driver.load_state(load_file(folder / DRIVER_FILE))
    return Trained(**json.loads(file.read_text(encoding="utf-8"))["trained"])
