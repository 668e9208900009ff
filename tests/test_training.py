"""The trainer: the best state, resuming, accumulation, and losses that are no numbers."""

import itertools
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from tiny import SETTINGS, flip_a_bit, make_model, make_tokenizer, rows
from workbench.data import conversation
from workbench.data.render import Rendered, make_renderer, render_all
from workbench.errors import MethodError, UserError
from workbench.methods import Driver, find_method
from workbench.models import attach
from workbench.recipe import Training
from workbench.training import Trained, check_extra, mean_completion_loss, steps_in, train, training_rows
from workbench.training.checkpoints import last_whole_checkpoint
from workbench.training.configuration import configuration
from workbench.training.packing import packed, unpacked

TRAINING = Training(num_train_epochs=2, batch_size=8, validations=4, early_stopping_patience=0)
# Settings with a network behind the prompt, which PEFT does not save.
PROJECTED = {"prefix": {"prefix_projection": True, "encoder_hidden_size": 8}}


def rendered(count: int, start: int = 0) -> list[Rendered]:
    examples = [example for row in rows(count, start) for example in conversation(row)]
    return list(render_all(make_renderer(make_tokenizer()), examples, 200)[0].rendered)


class InterruptionError(Exception):
    """A training that was interrupted."""


class Interrupting:
    """A method's driver, if it has one, which interrupts the training at an update."""

    def __init__(self, driver: Driver | None, update: int) -> None:
        self.driver, self.left = driver, update
        self.settled = driver.settled if driver else 0

    def before_update(self) -> None:
        self.left -= 1
        if not self.left:
            raise InterruptionError
        if self.driver:
            self.driver.before_update()

    def after_update(self, step: int) -> None:
        if self.driver:
            self.driver.after_update(step)

    def state(self) -> dict[str, torch.Tensor]:
        return self.driver.state() if self.driver else {}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        if self.driver:
            self.driver.load_state(state)


def trained(
    folder: Path,
    name: str = "lora",
    training: Training = TRAINING,
    rate: float = 1e-2,
    interrupted_at: int | None = None,
    **settings: Any,
) -> tuple[Any, Trained]:
    method = find_method(name)
    chosen = {**SETTINGS.get(name, {}), **settings}
    model = attach(make_model("llama"), method, chosen, list(range(3, 30)), seed=0, steps=steps_in(training, 32)[0])
    given = training_rows(rendered(32), rendered(8, 100))
    driver = method.driver(model) if method.driver else None
    if interrupted_at is not None:
        driver = Interrupting(driver, interrupted_at)
    result = train(model, make_tokenizer(), given, training, rate, False, folder, 0, name, driver=driver)
    return model, result


def weights(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


@pytest.mark.parametrize("name", ["lora", "dora", "houlsby", "parallel", "prefix", "prompt", "ptuning", "full"])
def test_it_learns_and_keeps_the_best_state(name: str, tmp_path: Path) -> None:
    model, result = trained(tmp_path, name, rate=3e-2 if name in ("prefix", "prompt") else 1e-2)
    validations = [point["validation_loss"] for point in result.curve if "validation_loss" in point]
    assert len(validations) == 4
    assert min(validations) < validations[0]
    assert result.validation_loss == min(validations)
    # The state left behind is the one that had this loss, which is a mean over tokens.
    loss = mean_completion_loss(model, rendered(8, 100), pad_id=0, batch_size=3)
    assert loss == pytest.approx(result.validation_loss, rel=1e-4)
    assert loss == pytest.approx(result.checked_loss, rel=1e-4)


def overfitted(folder: Path, patience: int) -> Trained:
    """Too many passes over too few examples."""
    model = attach(make_model("llama"), find_method("full"), {}, [], seed=0)
    training = Training(
        num_train_epochs=40,
        batch_size=4,
        validations=10,
        early_stopping_patience=patience,
        lr_scheduler_type="constant",
    )
    tokenizer = make_tokenizer()
    given = training_rows(rendered(8), rendered(8, 100))
    return train(model, tokenizer, given, training, 2e-2, False, folder, 0, "full")


def test_a_worse_end_is_undone(tmp_path: Path) -> None:
    result = overfitted(tmp_path, patience=0)
    validations = [point["validation_loss"] for point in result.curve if "validation_loss" in point]
    assert validations[-1] > min(validations)
    assert result.validation_loss == min(validations)


def test_patience_ends_it_early(tmp_path: Path) -> None:
    result = overfitted(tmp_path, patience=2)
    validations = [point["validation_loss"] for point in result.curve if "validation_loss" in point]
    assert result.steps < 80
    assert validations.index(min(validations)) == len(validations) - 3


@pytest.mark.parametrize(
    ("name", "settings"),
    [("lora", {}), ("prefix", {}), ("prefix", PROJECTED["prefix"]), ("ptuning", {}), ("adalora", {}), ("full", {})],
    ids=["lora", "prefix", "prefix-projected", "ptuning", "adalora", "full"],
)
@pytest.mark.parametrize("interrupted_at", [6, 8], ids=["between-epochs", "in-the-second"])
def test_resumed_equals_uninterrupted(name: str, settings: dict[str, Any], interrupted_at: int, tmp_path: Path) -> None:
    whole, result = trained(tmp_path / "whole", name, **settings)
    with pytest.raises(InterruptionError):  # of four steps an epoch; a checkpoint lies behind every second one
        trained(tmp_path / "parts", name, interrupted_at=interrupted_at, **settings)
    half = tmp_path / "parts" / "checkpoint-99"
    half.mkdir()  # as an interruption while saving leaves it
    resumed, again = trained(tmp_path / "parts", name, **settings)
    assert torch.equal(weights(whole), weights(resumed))
    assert [p for p in again.curve if "loss" in p] == [p for p in result.curve if "loss" in p]


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "deleted": Path.unlink,
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "zeroed": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "changed": flip_a_bit,
}


def test_a_checkpoint_with_any_part_damaged_is_not_gone_on_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InterruptionError):
        trained(tmp_path / "whole", interrupted_at=6)
    newest = last_whole_checkpoint(tmp_path / "whole")
    assert newest is not None
    names = {file.name for file in newest.iterdir()}
    assert {"trained.safetensors", "state.safetensors", "state.json", "trainer_state.json", "best.safetensors"} < names
    assert not any(name.endswith((".pt", ".pth", ".bin", ".pkl")) for name in names)
    for name, (kind, damage) in itertools.product(sorted(names), DAMAGES.items()):
        folder = tmp_path / f"{name}-{kind}"
        shutil.copytree(tmp_path / "whole", folder)
        damage(folder / newest.name / name)
        caplog.clear()
        before = last_whole_checkpoint(folder)
        assert before is not None
        assert int(before.name.rpartition("-")[2]) < int(newest.name.rpartition("-")[2])
        assert f"{newest.name} is not gone on from" in caplog.text
        assert (folder / "best.safetensors").read_bytes() == (before / "best.safetensors").read_bytes()


@pytest.mark.parametrize("damaged", [1, 2], ids=["the-newest", "all"])
def test_resumed_from_what_is_left_equals_uninterrupted(
    damaged: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, result = trained(tmp_path / "whole")
    with pytest.raises(InterruptionError):
        trained(tmp_path / "parts", interrupted_at=6)
    checkpoints = sorted((tmp_path / "parts").glob("checkpoint-*"), reverse=True)
    assert len(checkpoints) == 2
    for checkpoint in checkpoints[:damaged]:
        flip_a_bit(checkpoint / "trained.safetensors")
    resumed, again = trained(tmp_path / "parts")
    assert torch.equal(weights(whole), weights(resumed))
    assert [p for p in again.curve if "loss" in p] == [p for p in result.curve if "loss" in p]
    assert ("begins anew" in caplog.text) == (damaged == 2)
    assert again.resumed == (damaged == 1)


def test_a_finished_training_that_was_damaged_is_done_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, result = trained(tmp_path)
    flip_a_bit(tmp_path / "best.safetensors")
    again, record = trained(tmp_path)
    assert torch.equal(weights(whole), weights(again))
    assert (record.validation_loss, record.steps) == (result.validation_loss, result.steps)
    assert "best.safetensors changed since it was written" in caplog.text


def test_seconds_are_those_of_all_parts(tmp_path: Path) -> None:
    _, whole = trained(tmp_path / "whole")
    with pytest.raises(InterruptionError):
        trained(tmp_path / "parts", interrupted_at=7)
    values = json.loads((tmp_path / "parts" / "checkpoint-6" / "state.json").read_text())
    (seconds,) = [value for key, value in values["pairs"] if key == "seconds"]
    _, resumed = trained(tmp_path / "parts")
    assert not whole.resumed
    assert resumed.resumed
    assert resumed.seconds > seconds > 0
    assert resumed.tokens_per_second * resumed.seconds == pytest.approx(
        whole.tokens_per_second * whole.seconds, rel=0.5
    )


@pytest.mark.parametrize("optimizer", ["adafactor", "sgd"])
def test_what_other_optimizers_know_is_kept(optimizer: str, tmp_path: Path) -> None:
    training = replace(TRAINING, extra={"optim": optimizer})
    whole, _ = trained(tmp_path / "whole", training=training)
    with pytest.raises(InterruptionError):
        trained(tmp_path / "parts", training=training, interrupted_at=6)
    resumed, _ = trained(tmp_path / "parts", training=training)
    assert torch.equal(weights(whole), weights(resumed))


def test_values_come_back_as_they_were() -> None:
    tensors: dict[str, torch.Tensor] = {}
    values = {
        "a": {0: torch.arange(3), "b": (1, 2.5, None, "x", True)},
        7: [np.arange(4, dtype=np.uint32), float("inf")],
    }
    back = unpacked(json.loads(json.dumps(packed(values, tensors))), tensors)
    assert torch.equal(back["a"][0], torch.arange(3))
    assert back["a"]["b"] == (1, 2.5, None, "x", True)
    assert (back[7][0] == np.arange(4)).all()
    assert back[7][0].dtype == np.uint32
    assert back[7][1] == float("inf")
    with pytest.raises(TypeError, match="a set can't be kept"):
        packed({"a": {1}}, tensors)


def test_adalora_takes_ranks_away_and_keeps_a_state_with_the_last_ones(tmp_path: Path) -> None:
    model, result = trained(tmp_path, "adalora", training=replace(TRAINING, num_train_epochs=10, validations=10))
    assert result.steps == 40
    tuner = model.base_model
    pattern = tuner.peft_config["default"].rank_pattern
    assert sum(map(sum, pattern.values())) == 4 * len(pattern) == 4 * 14
    assert len({sum(kept) for kept in pattern.values()}) > 1, "every layer kept as many"
    for name, parameter in tuner.model.named_parameters():
        if "lora_E" in name:
            kept = torch.tensor(next(value for key, value in pattern.items() if key.split(".lora_E")[0] in name))
            assert not parameter[~kept].any(), "a rank that was taken away is in the best state"
    settled = tuner.peft_config["default"].total_step - tuner.peft_config["default"].tfinal
    best = [p["step"] for p in result.curve if p.get("validation_loss") == result.validation_loss]
    assert best
    assert min(best) >= settled


def test_adalora_keeps_its_factors_nearly_orthogonal(tmp_path: Path) -> None:
    def distance(model: Any) -> float:
        factors = [p for n, p in model.named_parameters() if "lora_A" in n]
        return float(sum(torch.linalg.norm(f @ f.T - torch.eye(len(f))) for f in factors))

    training = replace(TRAINING, num_train_epochs=10)
    with_penalty, _ = trained(tmp_path / "a", "adalora", training, orth_reg_weight=5.0)
    without, _ = trained(tmp_path / "b", "adalora", training, orth_reg_weight=0.0)
    assert distance(with_penalty) < 0.9 * distance(without)


def test_accumulation_does_not_change_the_loss(tmp_path: Path) -> None:
    together, one = trained(tmp_path / "a")
    parts, two = trained(tmp_path / "b", training=replace(TRAINING, gradient_accumulation_steps=4))
    losses = [[point["loss"] for point in result.curve if "loss" in point] for result in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert torch.allclose(weights(together), weights(parts), atol=2e-3)


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    assert torch.equal(weights(trained(tmp_path / "a")[0]), weights(trained(tmp_path / "b")[0]))


def test_a_loss_that_is_no_number_ends_the_method(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=r"at step \d+: lower the learning rate"):
        trained(tmp_path, "full", rate=1e30, training=replace(TRAINING, warmup_steps=0.0, max_grad_norm=1e30))


def test_nothing_to_train_ends_the_method(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="nothing would be learned"):
        trained(tmp_path, "untuned")


def test_examples_without_a_label_are_refused() -> None:
    unlabelled = [replace(item, completion_ids=[]) for item in rendered(4)]
    with pytest.raises(MethodError, match="without a trained token: row-0"):
        training_rows(unlabelled, rendered(4))
    with pytest.raises(MethodError, match="no examples to validate with"):
        training_rows(rendered(4), [])


def test_a_finished_training_is_not_gone_on_with(tmp_path: Path) -> None:
    whole, result = trained(tmp_path, interrupted_at=1000)
    again, record = trained(tmp_path, interrupted_at=1)
    assert torch.equal(weights(whole), weights(again))
    assert record == result


def test_a_finished_adalora_still_knows_its_ranks(tmp_path: Path) -> None:
    whole, _ = trained(tmp_path, "adalora")
    again, _ = trained(tmp_path, "adalora")
    patterns = [model.base_model.peft_config["default"].rank_pattern for model in (whole, again)]
    assert patterns[0] == patterns[1]
    assert patterns[0]


def test_a_single_step_learns_something(tmp_path: Path) -> None:
    model, result = trained(tmp_path, training=replace(TRAINING, num_train_epochs=0.1, warmup_steps=0.1))
    assert result.steps == 1
    untouched = attach(make_model("llama"), find_method("lora"), SETTINGS["lora"], list(range(3, 30)), seed=0)
    assert not torch.equal(weights(model), weights(untouched))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("packing", "has no effect"),
        ("max_steps", "Training's own `max_steps`"),
        ("gradient_checkpoining", "did you mean 'gradient_checkpointing'"),
        ("seed", "from --seed"),
        ("label_smoothing_factor", "`objective`"),
        ("eos_token", "are the checkpoint's"),
    ],
)
def test_a_field_of_trl_that_would_do_nothing_is_refused(name: str, says: str) -> None:
    check_extra(Training(extra={"gradient_checkpointing": True, "optim": "adafactor"}))
    with pytest.raises(UserError, match=says):
        check_extra(Training(extra={name: True}))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"lr_scheduler_type": "cosine_anealing"}, "did you mean cosine"),
        ({"extra": {"optim": "adamw_9bit"}}, "unknown optimizer.*did you mean adamw_8bit"),
        ({"extra": {"report_to": "no_such_tracker"}}, "'no_such_tracker', which is not installed here"),
        ({"extra": {"lr_scheduler_kwargs": {"min_lr": 1}}}, "unexpected keyword argument 'min_lr'"),
    ],
)
def test_a_value_that_trl_does_not_know_is_told_before_training(given: dict[str, Any], says: str) -> None:
    check_extra(Training(lr_scheduler_type="cosine_with_min_lr", extra={"lr_scheduler_kwargs": {"min_lr": 1e-5}}))
    with pytest.raises(UserError, match=says):
        check_extra(Training(**given))


def test_nothing_reports_that_a_training_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)  # where it is set, TRL reports nothing by itself
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda **_: pytest.fail("reported to the hub"))
    trained(tmp_path)


def test_one_of_several_devices_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, one = trained(tmp_path / "one")
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    _, several = trained(tmp_path / "several")
    assert several.curve == one.curve


def test_what_a_recipe_hands_on_to_trl_is_taken_as_it_is(tmp_path: Path) -> None:
    def batch_size(training: Training) -> int:
        return configuration(training, 32, 1e-3, False, tmp_path, 0, linear_output=True).per_device_eval_batch_size

    assert batch_size(TRAINING) > TRAINING.batch_size
    assert batch_size(replace(TRAINING, extra={"per_device_eval_batch_size": 3})) == 3
