"""What the READMEs tell a user to type works: every command is understood, and those of one's own job are run."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from tiny import make_model, make_tokenizer, write_splits

ROOT = Path(__file__).parent.parent
TEXTS = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md")
COMMAND = re.compile(r"python -m workbench\.([a-z]\w*)((?: +[^`|#\n]+)?)")


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Every command of a text: its name and its arguments."""
    return [(name, shlex.split(rest)) for name, rest in COMMAND.findall(text)]


@pytest.mark.parametrize("name", TEXTS)
def test_every_command_is_understood(name: str) -> None:
    found = commands((ROOT / name).read_text(encoding="utf-8"))
    assert found or name == "CONTRIBUTING.md"
    for command, arguments in found:
        module = importlib.import_module(f"workbench.{command}.__main__")
        if arguments:
            module.parser().parse_args(arguments)


@pytest.mark.slow
def test_ones_own_job_from_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = make_model("llama")
    model.config.max_position_embeddings = 1024  # as many as GPT-2 reads
    model.save_pretrained("tiny")
    make_tokenizer().save_pretrained("tiny")
    write_splits(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```python\n(from workbench import Recipe.*?)```", text, re.DOTALL)
    assert '"gpt2"' in recipe
    Path("mine.py").write_text(recipe.replace('"gpt2"', '"./tiny"'))
    section = text.partition("## Your own job")[2].partition("\n## ")[0]
    given = [(name, arguments) for name, arguments in commands(section) if name == "run"]
    assert len(given) == 6
    for _, told in given:
        arguments = ["run" if argument == "DIR" else argument for argument in told]
        if "--resume" not in arguments and "--check" not in arguments:
            arguments += ["--out", arguments[1].strip("-") if len(arguments) > 1 else "run"]
        code = importlib.import_module("workbench.run.__main__").main(arguments)
        printed = capsys.readouterr().out
        assert code == 0, arguments
        assert "lora" in printed
    assert "| dora " in printed
    main = importlib.import_module("workbench.export.__main__").main
    for arguments in [arguments for name, arguments in commands(text) if name == "export"]:
        assert main(["run" if "/" in argument else argument for argument in arguments]) == 0
    assert (tmp_path / "bank-model" / "config.json").is_file()
    assert (tmp_path / "bank-gguf" / "Modelfile").is_file()
