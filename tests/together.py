"""Trainings by all processes that were begun together, for test_processes.py: `torchrun tests/together.py FOLDER`."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from test_training import Interrupting, InterruptionError, rendered
from tiny import SETTINGS, make_model, make_tokenizer
from workbench import processes
from workbench.errors import MethodError
from workbench.fsdp import Fsdp
from workbench.methods import find_method
from workbench.models import attach, split_frozen, split_weights
from workbench.recipe import Training
from workbench.training import Trained, steps_in, train, training_rows

NAMES = ("lora", "full", "prefix", "adalora")
# The last batch of each epoch is a single row: one process of two has none.
ROWS = 21
# Methods, and the models whose frozen weights are split; prompts read embeddings outside of the model's own forward.
SPLIT = (("llama", "lora"), ("llama", "adalora"), ("gpt-neox", "prompt"))
TRAINING = Training(num_train_epochs=2, batch_size=5, validations=2, early_stopping_patience=0)


def trained(
    folder: Path, name: str, interrupted_at: int | None = None, kind: str = "llama", split: Fsdp | None = None
) -> Trained:
    """Train a method, on the rows that all tests here train on.

    Args:
        split: how the frozen weights are split among the processes.
    """
    method = find_method(name)
    steps = steps_in(TRAINING, ROWS)[0]
    model = attach(make_model(kind), method, SETTINGS.get(name, {}), list(range(3, 30)), seed=0, steps=steps)
    if split is not None:
        split_frozen(model, split)
    driver = method.driver(model) if method.driver else None
    if interrupted_at is not None:
        driver = Interrupting(driver, interrupted_at)
    given = training_rows(rendered(ROWS), rendered(7, 100))
    with processes.together():
        return train(model, make_tokenizer(), given, TRAINING, 1e-2, False, folder, 0, name, driver=driver)


def share_of_frozen(kind: str) -> float:
    """What this process holds of the frozen weights of a model that is split, between 0 and 1."""
    model = attach(make_model(kind), find_method("lora"), SETTINGS["lora"], [], seed=0)
    frozen = sum(weight.numel() for weight in model.parameters() if not weight.requires_grad)
    split_frozen(model, Fsdp())
    return sum(weight.to_local().numel() for _, weight in split_weights(model)) / frozen  # type: ignore[attr-defined]


def main(folder: Path) -> None:
    """Train each method, then once more, interrupted and gone on with; fail at one of the processes only."""
    processes.join()
    found = {}
    for name in NAMES:
        whole = trained(folder / name, name)
        again = folder / f"{name}-again"
        try:
            trained(again, name, interrupted_at=7)
        except InterruptionError:
            found[name] = [asdict(whole), asdict(trained(again, name))]
    for number, (kind, name) in enumerate(SPLIT):
        one = trained(folder / f"{kind}-{name}-split", name, kind=kind, split=Fsdp(reshard=number == 0))
        found[f"{kind}-{name}-split"] = [asdict(one)]
    try:
        with processes.together():
            if not processes.leads():
                raise ValueError("what only one of them meets")
    except (MethodError, ValueError) as error:
        said = processes.gathered(f"{type(error).__name__}: {error}")
    shares = processes.gathered(share_of_frozen("llama"))
    if processes.leads():
        (folder / "found.json").write_text(
            json.dumps({"trained": found, "said": said, "shares": shares}), encoding="utf-8"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
