"""What is to hold on a device that is not the CPU, by the fake one; test_device.py runs it in a process of its own.

The device has no float64, so that what passes here needs none.
"""

import json
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import fake_device
from fake_device import Memory
from test_choose import RECIPE as CHOOSES
from test_training import TRAINING, Interrupting, InterruptionError, rendered
from tiny import SETTINGS, make_model, make_tokenizer, recipe_text, write_rows
from workbench import device
from workbench.console import bytes_text
from workbench.data import Message
from workbench.data.render import make_renderer
from workbench.export import FreshProcess
from workbench.generation.engine import LocalModel
from workbench.generation.language_model import Conversation
from workbench.generation.sampling import Sampling
from workbench.methods import find_method
from workbench.models import attach
from workbench.run.__main__ import main
from workbench.training import Trained, train, training_rows
from workbench.training.checkpoints import trained_state

fake_device.install()
fake_device.for_bitsandbytes()
HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def process() -> Iterator[FreshProcess]:
    """What reads exports back, in a Python that registers the device, too."""
    with fake_device.fresh_process() as reader:
        yield reader


@pytest.fixture(autouse=True)
def default_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_chosen", None)
    monkeypatch.setenv(device.ACCELERATES, "fakegpu:0")
    monkeypatch.setattr("workbench.run.usage.PRODUCT_SIZE_ELSEWHERE", 64)  # it computes as fast as one core
    monkeypatch.setattr(Memory, "limit", None)


def record_of(out: Path) -> dict[str, Any]:
    results = json.loads((out / "results.json").read_text())
    return {run["method"]: run for run in results["runs"]} | {"environment": results["environment"]}


def losses(run: dict[str, Any]) -> list[float]:
    return [value for point in run.get("curve", ()) for key, value in point.items() if key != "step"]


@pytest.mark.parametrize(
    ("bits", "methods", "tolerance"),
    [
        (32, "lora,prefix", 1e-5),
        pytest.param(32, "untuned,full", 1e-5, marks=pytest.mark.slow),
        pytest.param(16, "lora,prefix", 2e-2, marks=pytest.mark.slow),
        pytest.param(8, "lora", 2e-2, marks=pytest.mark.slow),
        pytest.param(4, "houlsby", 2e-2, marks=pytest.mark.slow),
    ],
)
def test_a_run_finds_what_it_finds_on_the_cpu(
    bits: int, methods: str, tolerance: float, recipe_file: Path, tmp_path: Path
) -> None:
    found = {}
    for place in ("fakegpu", "cpu"):
        out = tmp_path / place
        asked = [str(recipe_file), "--bits", str(bits), "--methods", methods, "--device", place, "--out", str(out)]
        assert main(asked) == 0
        found[place] = record_of(out)
        assert found[place]["environment"]["device"] == place
        assert f"--device {place}" in found[place]["environment"]["command"]
    for name in methods.split(","):
        there, here = found["fakegpu"][name], found["cpu"][name]
        assert (there["status"], there["export"]["merged"]) == (here["status"], here["export"]["merged"])
        assert losses(there) == pytest.approx(losses(here), abs=tolerance)
        known, other = there["metrics"]["perplexity"], here["metrics"]["perplexity"]
        assert known["value"] == pytest.approx(other["value"], rel=max(tolerance, 1e-4))
        assert there["peak_memory_bytes"] < 10**8 < here["peak_memory_bytes"]  # of the device, and of the process


@pytest.mark.slow
def test_a_run_that_chooses(checkpoint: Path, tmp_path: Path) -> None:
    words = ("loss", "gain", "盈利")
    labels = ("negative", "positive", "neutral")
    for split, count in (("train", 12), ("validation", 6), ("test", 6)):
        rows = [
            {"id": f"{split}{n}", "text": f"{split} {words[n % 3]} {n}", "label": labels[n % 3]} for n in range(count)
        ]
        write_rows(tmp_path / f"{split}.jsonl", rows)
    path, out = tmp_path / "chooses.py", tmp_path / "out"
    both = '\nrecipe = replace(recipe, head=("likelihood", "classes"))\n'
    path.write_text(recipe_text(checkpoint, tmp_path) + CHOOSES + both)
    assert main([str(path), "--methods", "lora,lora-classes", "--bits", "32", "--out", str(out)]) == 0
    assert all(record_of(out)[name]["status"] == "done" for name in ("lora", "lora-classes"))


def attached(name: str) -> nn.Module:
    base = make_model("llama").to(device.device())
    return attach(base, find_method(name), SETTINGS.get(name, {}), list(range(3, 30)), seed=0)


def trained(folder: Path, name: str, interrupted_at: int | None = None) -> tuple[nn.Module, Trained]:
    model = attached(name)
    driver: Any = None if interrupted_at is None else Interrupting(None, interrupted_at)
    given = training_rows(rendered(16), rendered(4, 100))
    return model, train(model, make_tokenizer(), given, TRAINING, 1e-2, False, folder, 0, name, driver=driver)


def test_a_training_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    whole, before = trained(tmp_path / "whole", "lora")
    with pytest.raises(InterruptionError):
        trained(tmp_path / "again", "lora", interrupted_at=3)
    again, after = trained(tmp_path / "again", "lora")
    assert after.resumed
    assert after.curve == before.curve
    for name, value in trained_state(whole).items():
        assert value.equal(trained_state(again)[name])


@pytest.mark.slow
def test_a_method_without_room_is_told_and_the_others_go_on(
    recipe_file: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    wide = make_model("llama", width=256)
    wide.save_pretrained(checkpoint)
    weights = sum(weight.numel() * 4 for weight in wide.parameters())
    Memory.limit = 4 * weights  # what is trained, its gradients and its optimizer take as much, and a copy more
    recipe_file.write_text(recipe_file.read_text().replace("batch_size=8", "batch_size=1"))
    assert main([str(recipe_file), "--bits", "32", "--methods", "full,prefix", "--out", str(out)]) == 1
    found = record_of(out)
    assert found["full"]["status"] == "failed"
    assert "out of memory" in found["full"]["error"]
    assert f"of {bytes_text(Memory.limit)} are free" in found["full"]["error"]
    assert found["prefix"]["status"] == "done"


@pytest.mark.slow
def test_rows_that_have_no_room_are_trained_in_smaller_parts(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [str(recipe_file), "--bits", "32", "--methods", "lora"]
    assert main([*asked, "--out", str(tmp_path / "roomy")]) == 0
    roomy = record_of(tmp_path / "roomy")["lora"]
    assert roomy["warning"] is None
    Memory.limit = int(roomy["peak_memory_bytes"] * 0.6)
    assert main([*asked, "--out", str(tmp_path / "tight")]) == 0
    tight = record_of(tmp_path / "tight")["lora"]
    assert re.fullmatch("memory was short: it was trained with [42] rows at once, to the same loss", tight["warning"])
    assert losses(tight) == pytest.approx(losses(roomy), abs=1e-5)
    assert tight["peak_memory_bytes"] <= Memory.limit


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fakegpu:1", "there are 1, counted from 0"),
        ("cuda", "PyTorch .* finds 1 of fakegpu here"),
        ("gpu", "no device of PyTorch; such are cpu, cuda"),
    ],
)
def test_a_device_that_is_not_there_is_told_in_a_line(
    name: str, says: str, recipe_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(recipe_file), "--device", name, "--out", str(recipe_file.parent / "out")]) == 2
    assert re.search(says, capsys.readouterr().err)


def test_the_device_refuses_what_cuda_refuses() -> None:
    there = torch.ones(2, device="fakegpu")
    with pytest.raises(RuntimeError, match="on the same device"):
        there + torch.ones(2)
    with pytest.raises(TypeError, match="can't convert fakegpu"):
        there.numpy()
    with pytest.raises(TypeError, match="float64"):
        there.double()
    assert (there * torch.tensor(2.0)).tolist() == [2.0, 2.0]  # a single number may be anywhere


def left_on_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same with every tensor that it gives on the CPU: the mistake that is planted."""

    def moved(*arguments: Any, **options: Any) -> Any:
        return pytree.tree_map(
            lambda one: one.cpu() if isinstance(one, torch.Tensor) else one, function(*arguments, **options)
        )

    return moved


def train_lora(folder: Path) -> None:
    trained(folder, "lora")


def train_dora(folder: Path) -> None:
    trained(folder, "dora")


def asked() -> tuple[LocalModel, list[Conversation]]:
    renderer = make_renderer(make_tokenizer())
    return LocalModel(attached("prefix"), renderer), [
        (Message(role="user", content=f"What {number}?"),) for number in range(3)
    ]


def generate(folder: Path) -> None:
    model, conversations = asked()
    found = model.generate(conversations, Sampling(max_new_tokens=3), references=["It is 4."] * 3)
    assert len(found) == 3
    assert list(model.stream(conversations[0], Sampling(max_new_tokens=3, temperature=1.0, seed=1)))


def choose(folder: Path) -> None:
    model, conversations = asked()
    assert len(model.loglikelihood(conversations, [["one", "two", "two and a half"]] * 3)) == 3


PLANTED = {
    "a batch": (train_lora, "workbench.training.trainer.ObjectiveTrainer._prepare_inputs", left_on_cpu),
    "the output layer's weight": (train_lora, "workbench.training.loss.output_weight", left_on_cpu),
    "a compiled loop": (train_lora, "workbench.models.output.can_compile", lambda _: lambda *_: True),
    "losses in float64": (train_lora, "torch.Tensor.cpu", lambda _: lambda self: self),
    "a scale of DoRA": (train_dora, "workbench.methods.peft_layers.dora._norms", left_on_cpu),
    "the mask of a prompt": (generate, "workbench.generation.decode._Reading.padded_mask", left_on_cpu),
    "places": (generate, "workbench.generation.context._positions", left_on_cpu),
    "the next tokens": (generate, "workbench.generation.sampling.Sampler.next_tokens", left_on_cpu),
    "keys and values": (generate, "workbench.generation.cache._with_room", left_on_cpu),
    "the mask of branches": (choose, "workbench.generation.branches.tree_mask", left_on_cpu),
    "numbers read from Python": (choose, "torch.Tensor.cpu", lambda _: lambda self: self),
}


CAUGHT = "the same device|float64|memory of the host|can't convert fakegpu"


@pytest.mark.parametrize("does", [train_lora, train_dora, generate, choose])
def test_nothing_is_left_on_the_cpu(does: Callable[[Path], None], tmp_path: Path) -> None:
    does(tmp_path)


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_left_on_the_cpu_is_caught(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    does, target, mistake = PLANTED[name]
    owner, _, attribute = target.rpartition(".")
    monkeypatch.setattr(target, mistake(getattr(pkgutil.resolve_name(owner), attribute)))
    with pytest.raises((RuntimeError, TypeError), match=CAUGHT):
        does(tmp_path)
