"""Every architecture, every method, every precision: trained, answered, saved, reloaded, exported, proven.

    python tests/matrix.py                        the whole table
    python tests/matrix.py --kinds gpt2,llama --methods lora,parallel --bits 32,8
    python tests/matrix.py --fake-device         GPT-2, Llama and gpt-oss at 32 and 16 bits, on another device

Each cell is a tiny random model carried through as `workbench run` does it. Its number is the largest difference of
the exported checkpoint's logits to the trained model's, as a share of the largest logit. "adapter" is a method that
ships as an adapter, by a reason given before training; "can't" is a combination refused before training, by a reason.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import fake_device
from tiny import KINDS, make_model, make_tokenizer, recipe_text, write_splits
from workbench.console import quiet_libraries
from workbench.device import choose, device
from workbench.errors import MethodError, UserError
from workbench.evaluation import Prediction, read_predictions
from workbench.export import FreshProcess
from workbench.methods import NotMergeable, find_method, known_methods
from workbench.models import BITS, attach, load_model
from workbench.recipe import load_recipe
from workbench.run.folder import TrialFolder
from workbench.run.method_trial import run_method
from workbench.run.prepare import Job, prepare
from workbench.run.saved import open_saved

METHODS = tuple(name for name, method in known_methods().items() if method.trains)
# These begin with vectors or keys and values of their own in front of the text; all others as the base.
PROMPT_METHODS = ("prefix", "prompt", "ptuning")
RECOMPUTED = 3


@dataclass(frozen=True)
class Cell:
    """What came of one combination; `why` says it of all that is not exported."""

    kind: str
    method: str
    bits: int
    state: str
    difference: float | None = None
    why: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return self.state != "FAILED"

    def __str__(self) -> str:
        return f"{self.difference:.0e}" if self.difference is not None else self.state


@contextmanager
def checkpoint_of(kind: str) -> Iterator[tuple[Path, Path]]:
    """A folder with a recipe on a tiny checkpoint, and the recipe's path."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(kind).save_pretrained(folder / kind)
        make_tokenizer().save_pretrained(folder / kind)
        write_splits(folder)
        recipe = folder / "tiny.py"
        recipe.write_text(recipe_text(folder / kind, folder), encoding="utf-8")
        yield folder, recipe


def try_cell(folder: Path, recipe: Path, kind: str, name: str, bits: int, process: FreshProcess) -> Cell:
    """Carry one combination through and hold it to everything that is promised of it."""
    began = time.perf_counter()
    try:
        job = prepare(load_recipe(recipe), methods=[name], bits=bits)
    except UserError as error:
        return Cell(kind, name, bits, "can't", why=" ".join(str(error).split()))
    try:
        state, difference, why = _carried(job, name, folder / f"{name}-{bits}", process)
    except (MethodError, UserError, AssertionError) as error:
        state, difference, why = "FAILED", None, str(error)
    except Exception as error:  # noqa: BLE001  a cell must not take the table with it
        state, difference, why = "FAILED", None, f"{type(error).__name__}: {error}"
    return Cell(kind, name, bits, state, difference, " ".join(why.split()), time.perf_counter() - began)


def _carried(job: Job, name: str, out: Path, process: FreshProcess) -> tuple[str, float | None, str]:
    method = find_method(name)
    if name not in PROMPT_METHODS:
        require_begins_as_base(job, name)
    trial = TrialFolder(out)
    record = run_method(job, method, 0, {}, trial, process)
    assert record.warning is None, record.warning
    shipped = record.export
    known = job.mergeability[name]
    adapter_only = known.reason if isinstance(known, NotMergeable) else None
    assert shipped.merged or adapter_only, f"not exported: {shipped.reason}"
    assert shipped.merged or shipped.reason == adapter_only, "another reason than was given before training"
    model = open_saved(job, method, trial, known).model
    if not method.trains_base:
        require_learned(job, model)
    require_cache_changes_nothing(job, model, read_predictions(out)[:RECOMPUTED])
    if not shipped.merged:
        return "adapter", None, str(adapter_only)
    assert shipped.max_abs_logit_difference is not None and shipped.max_abs_logit is not None
    return "exported", shipped.max_abs_logit_difference / shipped.max_abs_logit, ""


def require_begins_as_base(job: Job, name: str) -> None:
    """Before its training a method must not change a single number."""
    method = find_method(name)
    base = load_model(job.checkpoint.path, job.precision(method).trained_bits, training=True)
    ids = torch.tensor([job.pairs["train"].rendered[0].prompt_ids], device=device())
    with torch.inference_mode():
        before = base(input_ids=ids).logits.clone()
        attached = attach(base, method, job.settings(method), job.typical_ids, seed=0, steps=job.steps)
        after = attached(input_ids=ids).logits
    assert torch.equal(before, after), f"begins {(after - before).abs().max():.1e} away from the base"


def require_learned(job: Job, model: Any) -> None:
    """The adapter that was saved must say something else than the base."""
    ids = torch.tensor([job.pairs["validation"].rendered[0].prompt_ids], device=device())
    with torch.inference_mode():
        tuned = model(input_ids=ids).logits[:, -1]
        with model.disable_adapter():
            base = model(input_ids=ids).logits[:, -1]
    assert (tuned - base).abs().max() > 1e-5, "the adapter does nothing"


def require_cache_changes_nothing(job: Job, model: Any, answers: Sequence[Prediction]) -> None:
    """Answers, made in padded batches with a cache, must be those of reading everything anew, one prompt at a time."""
    pairs = next(iter(job.evaluated.values()))
    ends = {job.renderer.end_of_turn, model.generation_config.eos_token_id}
    for answer, (_, rendered) in zip(answers, pairs, strict=False):
        ids = list(rendered.prompt_ids)
        with torch.inference_mode():
            for _ in range(job.recipe.max_new_tokens):
                read = torch.tensor([ids], device=device())
                logits = model(input_ids=read, attention_mask=torch.ones_like(read), use_cache=False).logits
                token = int(logits[0, -1].argmax())
                if token in ends:
                    break
                ids.append(token)
        text = job.renderer.tokenizer.decode(ids[len(rendered.prompt_ids) :], skip_special_tokens=True).strip()
        assert text == answer.prediction, f"{answer.id}: {answer.prediction!r} with a cache, {text!r} without"


def table(cells: Sequence[Cell]) -> str:
    """The cells as Markdown: a row for each architecture and precision, a column for each method."""
    names = list(dict.fromkeys(cell.method for cell in cells))
    by_place = {(cell.kind, cell.bits, cell.method): cell for cell in cells}
    lines = ["| architecture | bits | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for kind, bits in dict.fromkeys((cell.kind, cell.bits) for cell in cells):
        row = [str(by_place[kind, bits, name]) for name in names]
        lines.append(f"| {kind} | {bits} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def reasons(cells: Sequence[Cell]) -> str:
    """Every reason once, with the cells that it is of."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell.why:
            found.setdefault((cell.state, cell.why), []).append(f"{cell.kind}/{cell.method}/{cell.bits}")
    lines = []
    for (state, why), places in found.items():
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        lines.append(f"{state}: {', '.join(places[:3])}{more}: {why[:400]}")
    return "\n".join(lines)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--fake-device", action="store_true", help="hold models on the device of fake_device.py")
    p.add_argument("--device", metavar="NAME", help="hold models on this device, as PyTorch names it")
    p.add_argument("--kinds", help="comma-separated (default: all; on the fake device gpt2, llama, gpt-oss)")
    p.add_argument("--methods", default=",".join(METHODS))
    p.add_argument("--bits", help="comma-separated (default: all; on the fake device 32 and 16)")
    arguments = p.parse_args()
    quiet_libraries()
    kinds, bits_of, opened = KINDS, BITS, FreshProcess
    if arguments.fake_device:
        fake_device.install()
        fake_device.for_bitsandbytes()
        kinds, bits_of, opened = ("gpt2", "llama", "gpt-oss"), (32, 16), fake_device.fresh_process
    choose(arguments.device)
    kinds = arguments.kinds.split(",") if arguments.kinds else kinds
    bits_of = [int(bits) for bits in arguments.bits.split(",")] if arguments.bits else bits_of
    cells = []
    began = time.perf_counter()
    with opened() as process:
        for kind in kinds:
            with checkpoint_of(kind) as (folder, recipe):
                for bits in bits_of:
                    for name in arguments.methods.split(","):
                        cell = try_cell(folder, recipe, kind, name, bits, process)
                        cells.append(cell)
                        print(
                            f"{kind:9}{bits:3} {name:9}{cell!s:9}{cell.seconds:6.1f} s  {cell.why[:90]}",
                            file=sys.stderr,
                        )
    print(table(cells))
    print()
    print(reasons(cells))
    passed = sum(cell.passed for cell in cells)
    exported = sum(cell.difference is not None for cell in cells)
    seconds = time.perf_counter() - began
    print(f"\n{passed} of {len(cells)} cells pass, {exported} of them exported and proven; {seconds:.0f} s")
    return 0 if passed == len(cells) else 1


if __name__ == "__main__":
    raise SystemExit(main())
