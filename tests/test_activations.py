"""What frozen layers give for a row is computed once, and nothing else changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from test_training import TRAINING, rendered
from tiny import KINDS, make_model, make_tokenizer
from workbench.methods import find_method
from workbench.models import attach
from workbench.models.lower import FrozenLayers
from workbench.recipe import Training
from workbench.training import Place, Trained, train, training_rows
from workbench.training.activations import KeptActivations

# GPT-1 and GPT-2 drop out activations while they are trained, unless their configuration says otherwise.
WITHOUT_DROPOUT = [kind for kind in KINDS if kind not in ("gpt1", "gpt2")]


def upper(kind: str = "llama") -> dict[str, Any]:
    """LoRA in the upper one of two layers."""
    targets = {"gpt-neox": ["query_key_value"], "gpt2": ["c_attn"]}.get(kind, ["q_proj", "v_proj"])
    return {"r": 4, "target_modules": targets, "layers_to_transform": [1]}


def attached(kind: str, method: str = "lora", **settings: Any) -> Any:
    return attach(make_model(kind), find_method(method), settings, list(range(3, 30)), seed=0, steps=8)


def trained(
    kind: str, place: Place | None, folder: Path, method: str = "lora", training: Training = TRAINING, **settings: Any
) -> tuple[Any, Trained]:
    model = attached(kind, method, **settings)
    given = training_rows(rendered(32), rendered(8, 100))
    return model, train(model, make_tokenizer(), given, training, 1e-2, False, folder, 0, method, kept_in=place)


def curve(result: Trained) -> list[float]:
    return [value for point in result.curve for value in point.values()]


class Counting:
    """How often a layer of a class computes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        self.rows = 0
        layer: Any = type(next(m for m in make_model(kind).modules() if isinstance(m, torch.nn.ModuleList))[0])
        forward = layer.forward

        def counted(module: Any, hidden_states: torch.Tensor, *given: Any, **more: Any) -> Any:
            self.rows += len(hidden_states)
            return forward(module, hidden_states, *given, **more)

        monkeypatch.setattr(layer, "forward", counted)


@pytest.mark.parametrize("kind", WITHOUT_DROPOUT)
def test_the_losses_are_those_of_computing_everything(kind: str, tmp_path: Path) -> None:
    place = Place(tmp_path / "kept", "key")
    _, usual = trained(kind, None, tmp_path / "usual", **upper(kind))
    model, kept = trained(kind, place, tmp_path / "once", **upper(kind))
    assert FrozenLayers(model, False).count == 1
    assert len(list(place.folder.glob("*.states"))) == 2
    assert curve(kept) == pytest.approx(curve(usual), rel=1e-4)
    assert kept.checked_loss == pytest.approx(usual.checked_loss, rel=1e-4)
    _, again = trained(kind, place, tmp_path / "again", **upper(kind))
    assert curve(again) == pytest.approx(curve(usual), rel=1e-4)


def test_lower_layers_compute_each_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, training = Place(tmp_path / "kept", "key"), Training(num_train_epochs=3, batch_size=8, validations=1)
    counting = Counting(monkeypatch, "llama")
    counts = []
    for number, where in enumerate((None, place, place)):
        counting.rows = 0
        trained("llama", where, tmp_path / str(number), training=training, **upper())
        counts.append(counting.rows)
    rows = len(training_rows(rendered(32), rendered(8, 100)).train)
    found_out = 7  # a short text, which shows what the lower layer gives: three times by both, once by the upper one
    assert counts[0] - counts[1] == 2 * rows - found_out  # of three epochs, one computes the lower layer
    assert counts[1] - counts[2] >= rows  # another method's training, or another seed's, none


def test_another_method_reads_what_the_first_one_left(tmp_path: Path) -> None:
    place = Place(tmp_path / "kept", "key")
    trained("llama", place, tmp_path / "first", **upper())
    before = {path.name: path.stat().st_mtime_ns for path in place.folder.glob("*.there")}
    settings: dict[str, Any] = {"bottleneck_size": 8, "layers_to_transform": [1]}
    _, usual = trained("llama", None, tmp_path / "usual", "houlsby", **settings)
    _, kept = trained("llama", place, tmp_path / "second", "houlsby", **settings)
    assert curve(kept) == pytest.approx(curve(usual), rel=1e-4)
    assert {path.name: path.stat().st_mtime_ns for path in place.folder.glob("*.there")} == before


@pytest.mark.parametrize(
    ("kind", "method", "settings"),
    [
        ("llama", "lora", {"r": 4, "target_modules": "all-linear"}),
        ("llama", "prefix", {"num_virtual_tokens": 4}),
        ("llama", "prompt", {"num_virtual_tokens": 4}),
        ("llama", "full", {}),
        ("gpt2", "lora", upper("gpt2")),
    ],
)
def test_nothing_is_kept_that_changes(kind: str, method: str, settings: dict[str, Any], tmp_path: Path) -> None:
    assert FrozenLayers(attached(kind, method, **settings), False).count == 0
    trained(kind, Place(tmp_path / "kept", "key"), tmp_path / "run", method, **settings)
    assert not (tmp_path / "kept").exists()


class Drawing(torch.nn.Module):
    """Dropout that neither a module nor a configuration shows."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(hidden_states, 0.5, self.training)


def test_what_draws_is_found_by_trying() -> None:
    model = attached("llama", **upper())
    assert FrozenLayers(model, False).count == 1
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    layers[0].mlp = Drawing()
    before = torch.random.get_rng_state()
    assert FrozenLayers(model, False).count == 0
    assert torch.equal(torch.random.get_rng_state(), before)


def test_upper_layers_that_read_more_of_the_lower_ones_are_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    model = attached("llama", **upper())
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    shared: dict[str, torch.Tensor] = {}
    layers[0].self_attn.register_forward_hook(lambda module, given, output: shared.update(last=output[0]))
    layers[1].register_forward_hook(lambda module, given, output: output + shared.pop("last"))
    assert FrozenLayers(model, False).count == 0


def test_an_objective_that_reads_otherwise_keeps_nothing(tmp_path: Path) -> None:
    given = training_rows(rendered(32), rendered(8, 100))
    place = Place(tmp_path / "kept", "key")
    assert KeptActivations(attached("llama", **upper()), False, place, given).splits
    other = replace(given, objective=replace(given.objective, reads_once=False))
    assert not KeptActivations(attached("llama", **upper()), False, Place(tmp_path / "no", "key"), other).splits


def test_states_that_never_came_to_the_disk_are_computed_again(tmp_path: Path) -> None:
    place = Place(tmp_path / "kept", "key")
    _, usual = trained("llama", place, tmp_path / "first", **upper())
    states = next(place.folder.glob("*.train.states"))
    size = states.stat().st_size
    for left in (0, size // 2):
        states.write_bytes(states.read_bytes()[:left])
        _, again = trained("llama", place, tmp_path / f"again-{left}", **upper())
        assert curve(again) == pytest.approx(curve(usual), rel=1e-4)
        assert states.stat().st_size == size
    states.write_bytes(bytes(size))
    _, again = trained("llama", place, tmp_path / "zeros", **upper())
    assert curve(again) == pytest.approx(curve(usual), rel=1e-4)


def test_a_full_disk_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr("workbench.training.activations.OF_FREE_DISK", 0.0)
    trained("llama", Place(tmp_path / "kept", "key"), tmp_path / "run", **upper())
    assert not list((tmp_path / "kept").glob("*.states"))


def test_the_model_is_as_before_behind_the_training(tmp_path: Path) -> None:
    model, _ = trained("llama", Place(tmp_path / "kept", "key"), tmp_path / "run", **upper())
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    assert all("forward" not in vars(layer) for layer in layers)
