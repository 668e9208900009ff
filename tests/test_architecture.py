"""The shape: imports go one way, names say something, help answers without the heavy libraries."""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Each part may import itself and the parts before it.
ORDER = (
    "version", "errors", "device", "files", "plugins", "console", "fsdp", "processes", "results", "sources", "recipe",
    "data", "retrieval", "methods", "models", "generation", "training", "evaluation", "export", "compare", "tune",
    "run", "monitor", "chat", "new", "__main__",
)  # fmt: skip


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "workbench" else [f"workbench.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("workbench.")}
    return found


def test_imports_go_one_way() -> None:
    checked = 0
    for path in sorted((ROOT / "workbench").rglob("*.py")):
        part = path.relative_to(ROOT / "workbench").parts[0].removesuffix(".py")
        if part == "__init__" or path.name == "__main__.py":  # an entry point may use every part
            continue
        checked += 1
        late = {name for name in imports_of(path) & set(ORDER) if ORDER.index(name) > ORDER.index(part)}
        assert not late, f"{path} imports {late}"
    assert checked > 30


def test_names_say_something() -> None:
    names = [path.stem for path in (ROOT / "workbench").rglob("*.py")]
    assert names
    assert not [name for name in names if re.search(r"util|helper|common", name)]


def test_what_belongs_to_one_product_is_in_its_recipe() -> None:
    paths = list((ROOT / "workbench").rglob("*.py"))
    assert len(paths) > 30
    product = re.compile(r"movielens|\bfilms?\b|\bviewers?\b", re.IGNORECASE)
    found = {str(path): match[0] for path in paths if (match := product.search(path.read_text(encoding="utf-8")))}
    assert not found


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys\nfrom workbench.run.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as e:\n    assert e.code == 0\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--resume" in result.stdout


def test_the_console_script_knows_the_commands() -> None:
    def workbench(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "workbench", *arguments], capture_output=True, text=True, check=False
        )

    assert workbench("run", "--help").stdout.startswith("usage: workbench run")
    assert "run" in workbench("--help").stdout
    wrong = workbench("rum")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "did you mean run" in wrong.stderr


def test_functions_fit_on_a_screen() -> None:
    long = [
        f"{path.name}:{node.name}"
        for path in (ROOT / "workbench").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert not long


def test_modules_do_one_thing() -> None:
    lengths = [len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "workbench").rglob("*.py")]
    assert lengths
    assert sum(lengths) / len(lengths) < 200
    assert max(lengths) <= 400
