"""A run folder is not believed as it lies: what a finished method left is what it was, or it is told and done again."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tiny import flip_a_bit, write_recipe
from workbench import load_run
from workbench.errors import UserError
from workbench.export.__main__ import main as export_main
from workbench.files import sha256_of
from workbench.run.__main__ import main
from workbench.run.folder import RunFolder
from workbench.run.manifest import changes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, which no test changes."""
    folder = tmp_path_factory.mktemp("run")
    recipe = write_recipe(folder)
    out = folder / "out"
    assert main([str(recipe), "--methods", "untuned,lora", "--limit", "8", "--out", str(out)]) == 0
    return out


def changed(folder: Path, method: str) -> list[str]:
    run = RunFolder.open(folder)
    (record,) = [record for record in run.read_results().runs if record.method == method]
    return changes(run.trial(method, 0), record)


def swap_answers(file: Path) -> None:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["prediction"], rows[1]["prediction"] = rows[1]["prediction"], rows[0]["prediction"]
    rows[0]["prediction"] += "!"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def edit_score(file: Path) -> None:
    values = json.loads(file.read_text())
    values["runs"][1]["metrics"]["bleu"]["value"] += 1.0
    file.write_text(json.dumps(values))


DAMAGES: list[tuple[str, Callable[[Path], Any], str]] = [
    ("lora/predictions.jsonl", swap_answers, "predictions.jsonl"),
    ("lora/predictions.jsonl", cut, "predictions.jsonl"),
    ("lora/predictions.jsonl", flip_a_bit, "predictions.jsonl"),
    ("lora/adapter/adapter_model.safetensors", flip_a_bit, "adapter/adapter_model.safetensors"),
    ("lora/adapter/adapter_config.json", Path.unlink, "adapter/adapter_config.json"),
    ("lora/merged/model.safetensors", cut, "merged/model.safetensors"),
    ("lora/manifest.json", cut, "manifest.json"),
    ("lora/manifest.json", Path.unlink, "manifest.json"),
    ("lora", shutil.rmtree, "lora"),
    ("lora/merged/adapter_config.json", lambda file: file.write_text("{}"), "merged/adapter_config.json"),
    ("results.json", edit_score, "its record in results.json"),
]


def test_what_a_finished_method_left_is_noted(finished: Path) -> None:
    noted = json.loads((finished / "lora" / "manifest.json").read_text())["files"]
    assert {"predictions.jsonl", "adapter/adapter_model.safetensors", "merged/model.safetensors"} <= noted.keys()
    assert not any(name.startswith("training/") for name in noted)
    assert changed(finished, "lora") == changed(finished, "untuned") == []


@pytest.mark.parametrize(("name", "damage", "said"), DAMAGES)
def test_what_changed_is_named_and_not_used(
    finished: Path, tmp_path: Path, name: str, damage: Callable[[Path], Any], said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "out"
    shutil.copytree(finished, folder)
    damage(folder / name)
    assert changed(folder, "lora") == [said]
    assert changed(folder, "untuned") == []
    for use in (lambda: load_run(folder).load("lora"), lambda: load_run(folder).predictions("lora")):
        with pytest.raises(UserError, match=r"lora in .* is not as the run left it: .*changed, new or missing"):
            use()
    assert export_main([str(folder), "--method", "lora", "--to", str(tmp_path / "exported")]) == 2
    assert said in capsys.readouterr().err
    assert load_run(folder).predictions("untuned")


def test_what_changed_is_done_again_to_the_same_result(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(finished, folder)
    flip_a_bit(folder / "lora" / "adapter" / "adapter_model.safetensors")
    untouched = (folder / "untuned" / "predictions.jsonl").stat().st_mtime_ns
    assert main(["--resume", str(folder)]) == 0
    assert "lora, seed 0 is done again: adapter/adapter_model.safetensors changed" in caplog.text
    assert (folder / "untuned" / "predictions.jsonl").stat().st_mtime_ns == untouched
    kept = folder / "lora.changed" / "adapter" / "adapter_model.safetensors"
    assert kept.read_bytes() != (finished / "lora" / "adapter" / "adapter_model.safetensors").read_bytes()
    for name in ("predictions.jsonl", "adapter/adapter_model.safetensors", "merged/model.safetensors"):
        assert (folder / "lora" / name).read_bytes() == (finished / "lora" / name).read_bytes()
    before, after = (json.loads((path / "results.json").read_text())["runs"][1] for path in (finished, folder))
    assert before["metrics"] == after["metrics"]
    assert changed(folder, "lora") == []


def test_what_is_shared_names_no_place_of_this_machine(finished: Path) -> None:
    places = [str(finished.parent), str(Path.home()), socket.gethostname()]
    for path in finished.rglob("*"):
        if path.is_file() and path.name not in ("options.json", ".lock"):
            content = path.read_bytes()
            named = [place for place in places if len(place) > 5 and place.encode() in content]
            assert not named, (path, named)
            assert len(socket.gethostname()) < 4 or socket.gethostname() not in path.name
    config = json.loads((finished / "lora" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "./base"


def test_a_checkpoint_says_what_it_was_made_of(finished: Path) -> None:
    merged = finished / "lora" / "merged"
    manifest = json.loads((merged / "MANIFEST.json").read_text())
    assert manifest["files"] == {
        path.name: sha256_of(path) for path in sorted(merged.iterdir()) if path.name != "MANIFEST.json"
    }
    results = RunFolder.open(finished).read_results()
    assert manifest["base"] == {"name": "./base", "sha256": results.checkpoint.base_sha256}
    assert manifest["data"] == {split: info.sha256 for split, info in results.data.splits.items()}
    assert (manifest["method"], manifest["seed"], manifest["proof"]["holds"]) == ("lora", 0, True)
    for card in (merged / "README.md", finished / "lora" / "adapter" / "README.md"):
        assert f"transformers {manifest['made_with']['transformers']}" in card.read_text()
        assert f"`{results.checkpoint.base_sha256}`" in card.read_text()


def test_other_libraries_are_said_and_recorded(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    options = json.loads((out / "options.json").read_text())
    options["versions"]["torch"] = "1.0"
    (out / "options.json").write_text(json.dumps(options))
    assert main(["--resume", str(out)]) == 0
    assert "was begun with torch 1.0, now " in caplog.text
    assert RunFolder.open(out).read_results().environment["begun_with"] == {"torch": "1.0"}


def test_a_run_of_an_older_version_is_taken_as_it_lies(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(finished, folder)
    values = json.loads((folder / "results.json").read_text())
    del values["runs"][1]["manifest"]
    (folder / "results.json").write_text(json.dumps(values))
    (folder / "lora" / "manifest.json").unlink()
    assert changed(folder, "lora") == []
    assert load_run(folder).predictions("lora")


def test_a_field_of_a_newer_version_changes_no_older_record(finished: Path, tmp_path: Path) -> None:
    """Runs of the version before had no `precision`: they were float32, and are what they were."""
    older = shutil.copytree(finished, tmp_path / "older")
    results = json.loads((older / "results.json").read_text(encoding="utf-8"))
    for run in results["runs"]:
        assert run.pop("precision") == "float32"
    (older / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert changed(older, "lora") == []
    results["runs"][1]["precision"] = "bfloat16"
    (older / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert changed(older, "lora") == ["its record in results.json"]
