"""Settings chosen by trials: which are tried, which is chosen, and what a run makes of it."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tiny import write_recipe
from workbench.compare.__main__ import main as compare
from workbench.errors import UserError
from workbench.methods import known_methods
from workbench.methods.space import LEARNING_RATE, Range, space_as_said, with_settings
from workbench.results import TuningRecord, read_results
from workbench.run.__main__ import main
from workbench.tune import Outcome, Proposal, Study, is_behind

SPACE = {LEARNING_RATE: Range(low=1e-4, high=1e-2), "r": Range(low=4, high=64, whole=True)}
USUAL = {LEARNING_RATE: 1e-3, "r": 16}


def valley(rate: float, rank: int) -> Callable[[Mapping[str, float]], float]:
    """A loss with its lowest point at these settings."""

    def loss(settings: Mapping[str, float]) -> float:
        return 1 + 0.1 * math.log(settings[LEARNING_RATE] / rate) ** 2 + 0.05 * math.log2(settings["r"] / rank) ** 2

    return loss


def carried_through(
    file: Path, budget: int, loss: Callable[[Mapping[str, float]], float], *, backwards: bool = False, together: int = 9
) -> TuningRecord:
    """A study, opened anew for every `together` trials, as interruptions would."""

    def outcome(proposal: Proposal) -> Outcome:
        value = loss(proposal.settings)
        curve = {10: value + 1, 20: value + 0.5}
        if is_behind(curve, proposal.earlier, 30):
            return Outcome(status="stopped", seconds=1.0, loss=value + 0.5, curve=curve)
        return Outcome(status="done", seconds=1.0, loss=value, curve={**curve, 30: value})

    while True:
        study = Study(file, "lora", SPACE, USUAL, budget, seed=3)
        proposals = study.proposals()
        if not proposals:
            return study.record()
        for proposal in proposals[:: -1 if backwards else 1][:together]:
            study.tell(proposal, outcome(proposal))


def test_the_same_trials_come_out_in_any_order_and_after_any_interruption(tmp_path: Path) -> None:
    expected = carried_through(tmp_path / "a.db", 7, valley(3e-3, 32))
    assert len(expected.trials) == 7
    assert expected.trials[0].settings == USUAL
    assert carried_through(tmp_path / "b.db", 7, valley(3e-3, 32), backwards=True) == expected
    assert carried_through(tmp_path / "c.db", 7, valley(3e-3, 32), together=1) == expected
    assert expected.settings == min(expected.trials, key=lambda trial: trial.validation_loss or 0.0).settings
    assert {trial.settings["r"] for trial in expected.trials} <= {4, 8, 16, 32, 64}


def test_what_is_closed_makes_no_further_trial(tmp_path: Path) -> None:
    study = Study(tmp_path / "a.db", "lora", SPACE, USUAL, 6, seed=0)
    first = study.proposals()[0]
    study.tell(first, Outcome(status="done", seconds=1.0, loss=1.0, curve={1: 1.0}))
    study.close()
    again = Study(tmp_path / "a.db", "lora", SPACE, USUAL, 6, seed=0)
    assert again.is_over
    assert again.proposals() == []
    assert again.record().settings == USUAL


def test_a_damaged_store_and_a_full_disk_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "damaged.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(UserError, match=r"damaged.db can't be read or written: remove it, and its trials are made"):
        Study(tmp_path / "damaged.db", "lora", SPACE, USUAL, 3, seed=0)
    study = Study(tmp_path / "full.db", "lora", SPACE, USUAL, 3, seed=0)
    (first, *_) = study.proposals()
    study.study._storage._backend.engine.dispose()  # type: ignore[attr-defined]
    (tmp_path / "full.db").chmod(0o600)
    (tmp_path / "full.db").write_bytes(b"")
    monkeypatch.setattr("workbench.files.FULL_BYTES", 2**62)  # a disk with less left than that is full
    with pytest.raises(OSError, match="No space left on device"):
        study.tell(first, Outcome(status="done", seconds=1.0, loss=1.0, curve={1: 1.0}))


def test_a_range_is_widened_once_and_an_edge_is_told(tmp_path: Path) -> None:
    beyond = carried_through(tmp_path / "a.db", 18, valley(2e-3, 1024))
    assert beyond.widened == {"r": (4, 256)}
    assert beyond.settings["r"] == 256
    assert beyond.at_edge == ["r"]
    inside = carried_through(tmp_path / "b.db", 18, valley(1e-3, 16))
    assert not inside.widened
    assert not inside.at_edge
    assert len(inside.trials) == len(beyond.trials) == 18  # a wider range costs no more trials
    assert all(
        SPACE[LEARNING_RATE].low <= t.settings[LEARNING_RATE] <= SPACE[LEARNING_RATE].high for t in inside.trials
    )


def test_a_trial_is_stopped_behind_the_median_of_earlier_ones() -> None:
    earlier = [{10: 3.0, 20: 2.0, 30: 1.0}, {10: 3.0, 20: 2.2, 30: 1.5}, {10: 3.0, 20: 2.4, 30: 2.0}]
    assert is_behind({10: 3.5, 20: 2.3}, earlier, 30)
    assert not is_behind({10: 3.5, 20: 2.1}, earlier, 30)
    assert not is_behind({5: 9.0}, earlier, 30)  # a third of the steps is made in any case
    assert not is_behind({20: 9.0}, earlier[:1], 30)  # one alone says little


def test_ranges_hold_what_is_usual_and_its_doublings() -> None:
    assert Range(low=1e-4, high=1e-2).around(0.1).high == 0.1
    around = Range(low=4, high=64, whole=True).around(24)
    assert (around.low, around.high) == (6, 48)
    odd = Range(low=4, high=64, whole=True).around(12)
    assert (odd.low, odd.high) == (6, 48)


def test_what_goes_along_keeps_its_proportion() -> None:
    lora = known_methods()["lora"]
    settings = {**lora.settings, LEARNING_RATE: 1e-3}
    found = with_settings(settings, {"r": 64, LEARNING_RATE: 3e-4}, lora.search_space)
    assert found["lora_alpha"] / found["r"] == settings["lora_alpha"] / settings["r"]
    assert type(found["lora_alpha"]) is type(settings["lora_alpha"])
    assert found[LEARNING_RATE] == 3e-4
    assert found["target_modules"] == "all-linear"
    assert with_settings(settings, {"r": 64, "lora_alpha": 5}, lora.search_space)["lora_alpha"] == 5
    assert with_settings({**settings, "lora_alpha": 2}, {"r": 1}, lora.search_space)["lora_alpha"] == 1


@pytest.mark.parametrize("name", [name for name, method in known_methods().items() if method.trains])
def test_every_method_says_what_is_looked_for(name: str) -> None:
    method = known_methods()[name]
    assert LEARNING_RATE in method.search_space
    usual = {**method.settings, LEARNING_RATE: method.learning_rate}
    for setting, one in method.search_space.items():
        assert one.low < usual[setting] < one.high
        assert all(other in method.settings for other in one.along)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"r": (8, 4)}, "the lower one first"),
        ({"r": 8}, "two numbers above 0"),
        ({"rank": (4, 8)}, "'rank' is no number above 0; .*learning_rate"),
        ({"target_modules": (4, 8)}, "'target_modules' is no number"),
        ({"lora_dropout": (0.01, 0.2)}, "'lora_dropout' is no number above 0"),
    ],
)
def test_a_wrong_range_is_told(said: dict[str, object], reason: str) -> None:
    lora = known_methods()["lora"]
    with pytest.raises(UserError, match=reason):
        space_as_said("lora", said, lora.search_space, lora.settings)


def test_a_run_is_tuned_interrupted_and_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, "\nfrom dataclasses import replace\nrecipe = replace(recipe, search_space="
                          "{'lora': {'learning_rate': (1e-3, 3e-2), 'r': (2, 8)}, "
                          "'prefix': {'num_virtual_tokens': (1024, 2048)}})\n")  # fmt: skip
    begun = ["--methods", "lora,prefix", "--tune", "4", "--limit", "4", "--bits", "32"]
    assert main([str(recipe), *begun, "--out", str(tmp_path / "whole")]) == 0
    printed = capsys.readouterr().out
    whole = read_results(tmp_path / "whole" / "results.json")
    lora, prefix = whole.tuning
    assert [len(record.trials) for record in whole.tuning] == [4, 4]
    assert lora.trials[0].settings == {"learning_rate": 1e-3, "r": 4}
    assert lora.seed not in {run.seed for run in whole.runs}
    # What was chosen is what was trained.
    config = json.loads((tmp_path / "whole" / "lora" / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == lora.settings["r"]
    assert config["lora_alpha"] / config["r"] == 32 / 4
    rates = {run.learning_rate for run in whole.runs if run.method == "lora"}
    assert rates == {lora.settings["learning_rate"]}
    # A trial that can't be carried through is told, and counts as one.
    assert any("more than the" in str(trial.error) for trial in prefix.trials if trial.status == "failed")
    assert prefix.settings["num_virtual_tokens"] < 256
    assert "tuning (s)" in printed
    assert whole.seconds is not None
    assert whole.seconds.tuning == pytest.approx(sum(record.seconds for record in whole.tuning))
    assert [path.name for path in (tmp_path / "whole" / "tuning").iterdir()] == ["studies.db"]
    page = (tmp_path / "whole" / "report.html").read_text()
    assert "How the settings were chosen" in page

    told: list[int] = []

    def interrupted(study: Study, proposal: Proposal, outcome: Outcome) -> None:
        if len(told) == 2:
            raise KeyboardInterrupt
        told.append(proposal.place)
        tell(study, proposal, outcome)

    tell = Study.tell
    monkeypatch.setattr(Study, "tell", interrupted)
    assert main([str(recipe), *begun, "--out", str(tmp_path / "parts")]) == 130
    monkeypatch.setattr(Study, "tell", tell)
    assert main(["--resume", str(tmp_path / "parts")]) == 0
    parts = read_results(tmp_path / "parts" / "results.json")
    timeless = [
        [replace(record, seconds=0.0, trials=[replace(trial, seconds=0.0) for trial in record.trials]) for record in r]
        for r in (whole.tuning, parts.tuning)
    ]
    assert timeless[0] == timeless[1]
    assert [run.metrics for run in parts.runs] == [run.metrics for run in whole.runs]
    # Beside each other, trials have the names of their entries there.
    assert compare([str(tmp_path / "whole"), str(tmp_path / "parts"), "--out", str(tmp_path / "both")]) == 0
    both = read_results(tmp_path / "both" / "results.json")
    assert [record.entry for record in both.tuning] == ["whole/lora", "whole/prefix", "parts/lora", "parts/prefix"]
