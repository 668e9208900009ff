"""Every format of methods of finished runs: proven, or refused with the reason, in a table.

    python benchmarks/formats.py RUN:lora,parallel,prompt OTHER_RUN:lora
    python benchmarks/formats.py RUN:lora --only onnx,openvino --prompts 24 --table table.md

Each is exported as `python -m workbench.export` does it, into a folder that is removed afterwards. `tokens/s` is what
the format's runtime writes while it is compared; `here` is this project's engine on the same prompts, measured before
the formats of a method. One after the other, on a machine that does nothing else.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import measure  # noqa: F401  quiets the libraries before they are imported

from workbench.console import bytes_text
from workbench.data.render import make_renderer
from workbench.errors import UserError
from workbench.export.formats import known_formats
from workbench.export.formats.verdict import Verdict
from workbench.generation.engine import LocalModel
from workbench.generation.sampling import Sampling
from workbench.models import fast_evaluation, load_model, load_tokenizer
from workbench.run import formats
from workbench.run.folder import RunFolder
from workbench.run.prepared import prepare_run

HEADER = (
    "| method | format | bytes | nats per token (base) | same answer | headline | beside what was trained | tokens/s "
    "| here |",
    "|---|---|---|---|---|---|---|---|---|",
)


def main() -> None:
    """Print the table, a row as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN:METHODS", help="a finished run and some of its methods")
    parser.add_argument("--only", help="some formats, such as onnx,gguf (default: all)")
    parser.add_argument("--prompts", type=int, default=100, help="of which whole answers are compared (default: 100)")
    parser.add_argument("--table", type=Path, help="where the table is written to as well")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    lines = list(HEADER)
    print("\n".join(HEADER), flush=True)
    for run in arguments.runs:
        folder, _, methods = run.rpartition(":")
        for method in methods.split(","):
            for line in rows(RunFolder.open(Path(folder)), method, arguments.only, arguments.prompts):
                print(line, flush=True)
                lines.append(line)
                if arguments.table:
                    arguments.table.write_text("\n".join(lines) + "\n", encoding="utf-8")


def rows(folder: RunFolder, method: str, only: str | None, prompts: int) -> Iterator[str]:
    """A row for each format of a method."""
    here = own_speed(folder, method, prompts)
    name = f"{folder.path.name} `{method}`"
    for kind, one in known_formats().items():
        if only and kind not in only.split(","):
            continue
        for quantization in one.quantizations:
            with tempfile.TemporaryDirectory(dir=folder.path.parent) as beside:
                to = Path(beside) / "export"
                try:
                    verdict = formats.export_format(
                        folder, method, to, kind, quantization=quantization, prompts=prompts
                    )
                except UserError as error:
                    yield f"| {name} | `{kind}` {quantization} | refused: {error} | | | | | | {here} |"
                    continue
                size = sum(path.stat().st_size for path in to.rglob("*") if path.is_file()) if to.is_dir() else 0
            yield f"| {name} | `{kind}` {quantization} | {cells(verdict, size)} | {here} |"


def cells(verdict: Verdict, size: int) -> str:
    """What a table says of a verdict."""
    near = "" if verdict.divergence is None else f"{verdict.divergence:.2g} ({verdict.base_divergence:.2g})"
    same = "" if verdict.text_agreement is None else f"{verdict.text_agreement:.0%}"
    speed = "" if verdict.tokens_per_second is None else f"{verdict.tokens_per_second:.0f}"
    score, two = verdict.score, verdict.comparison
    headline = "" if score is None else f"{score.value:.1f} [{score.low:.1f}, {score.high:.1f}]"
    beside = "" if two is None else f"{two.difference:+.2f} [{two.low:.2f}, {two.high:.2f}], p {two.p:.3f}"
    told = bytes_text(size) if verdict.holds else f"refused: {verdict.reason}"
    return " | ".join([told, near, same, headline, beside, speed])


def own_speed(folder: RunFolder, method: str, prompts: int) -> str:
    """Tokens a second that this project's engine writes of the merged checkpoint, for the prompts that are compared."""
    job = prepare_run(folder)
    merged = folder.trial(method, folder.options.seed).merged
    examples = [example for example, _ in job.first_pairs(prompts) if not example.choices]
    if not examples or not merged.is_dir():
        return ""
    model = load_model(merged, 32)
    renderer = make_renderer(load_tokenizer(merged))
    local = LocalModel(model, renderer)
    sampling = Sampling(max_new_tokens=job.recipe.max_new_tokens)
    with fast_evaluation(model):
        local.generate([example.prompt for example in examples[:2]], sampling)
        began = time.perf_counter()
        answers = local.generate([example.prompt for example in examples], sampling)
        return f"{sum(answer.tokens for answer in answers) / (time.perf_counter() - began):.0f}"


if __name__ == "__main__":
    main()
