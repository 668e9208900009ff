"""What the proof of an export catches: faults planted on purpose, and sound exports that must pass.

    python benchmarks/planted_faults.py                  # tiny models of several architectures, about ten minutes
    python benchmarks/planted_faults.py --only template --sound 0
    python benchmarks/planted_faults.py --table docs/proof-table.md

Every fault goes into an export that is sound but for it, on at least three architectures, and through the same
`write_proven` that every run and every `workbench export` calls. It is caught if the export is refused, and named if
the reason says what kind of fault it is. The same faults go through what stock tools do, PEFT's `merge_and_unload` and
`save_pretrained` read back by `from_pretrained`: noticed there is whatever raises an error, or warns of what it does
not warn of for a sound export.
"""

import argparse
import copy
import logging
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import measure  # quiets the libraries before they are imported
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from faults import EXPORTS, TRAININGS, Export, Fault, TrainingFault

from tiny import KINDS, SETTINGS, make_model, make_tokenizer, rows
from workbench.console import progress_bar
from workbench.data import conversation
from workbench.data.render import Rendered, Renderer, make_renderer, render_all
from workbench.errors import MethodError
from workbench.export import (
    Expected,
    FreshProcess,
    Proof,
    Question,
    Source,
    interface_of,
    low_rank_updates,
    proof_sequences,
    sequence_logits,
    sequence_states,
    write_proven,
)
from workbench.export.process import ReadBack
from workbench.generation.decode import decode_batch
from workbench.generation.engine import generation_config
from workbench.methods import find_method
from workbench.models import attach, load_dequantized, plain_model
from workbench.recipe import Training
from workbench.training import train, training_rows
from workbench.training.loss import labelled
from workbench.training.objectives import Objective, find_objective

EXAMPLES = [example for row in rows(6) for example in conversation(row)]
NEW_TOKENS = 12
# Methods whose exports are to pass, each with every architecture that can have it.
SOUND = ("lora", "rslora", "dora", "adalora", "ia3", "parallel", "prompt", "ptuning")
# Architectures of the trainings.
TRAINED = ("llama", "gpt2", "gpt-neox")
# Loggers of what stock tools say.
STOCK = ("transformers", "peft", "accelerate", "safetensors")


class Spoiling(FreshProcess):
    """A fresh process, before which a fault gets at the folder that it is to read."""

    spoil: Callable[[Path], None] | None = None

    def read(self, checkpoint: Path, question: Question) -> ReadBack:
        """What it finds in the folder as the fault left it."""
        if self.spoil is not None:
            self.spoil(checkpoint)
        return super().read(checkpoint, question)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A sound export, and what it is to be held against."""

    export: Export
    renderer: Renderer
    expected: Expected


def tuned(kind: str, name: str, seed: int, settings: dict[str, Any]) -> Any:
    """A tiny model with an adapter whose weights are random, as after a training."""
    method = find_method(name)
    ids = list(range(3, 60))
    model: Any = attach(make_model(kind, **settings), method, SETTINGS.get(name, {}), ids, seed=seed).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def make_case(kind: str, name: str = "lora", seed: int = 0, settings: dict[str, Any] | None = None) -> Case:
    """A sound export of a method on an architecture."""
    settings = settings or {}
    renderer = make_renderer(make_tokenizer())
    rendered = list(render_all(renderer, EXAMPLES, 200)[0].rendered)
    model, base = tuned(kind, name, seed, settings), make_model(kind, **settings)
    generation, sequences = generation_config(renderer, model.generation_config), proof_sequences(rendered)
    answers = decode_batch(model, rendered, generation.eos_token_id, 0, NEW_TOKENS)
    config = copy.deepcopy(plain_model(model).config)
    updates = low_rank_updates(model)
    expected = Expected(
        logits=sequence_logits(model, sequences),
        base_logits=partial(sequence_logits, base, sequences),
        texts=[renderer.tokenizer.decode(one.tokens, skip_special_tokens=True).strip() for one in answers],
        interface=partial(interface_of, copy.deepcopy(renderer), EXAMPLES, config),
        states=sequence_states(model, sequences[0]),
        source=Source(base=lambda: base, updates=updates),
    )
    merge: Any = find_method(name).merge
    merged, tokenizer = merge(model, renderer.tokenizer)
    if tokenizer is not renderer.tokenizer:
        generation.suppress_tokens = merged.generation_config.suppress_tokens
        expected = Expected(**{**vars(expected), "new_entries": generation.suppress_tokens})
    export = Export(
        model=merged,
        tokenizer=tokenizer,
        generation=generation,
        base=base,
        updates=updates,
        other_base=partial(make_model, kind, seed=2, **settings),
        quantized_base=partial(quantized, base),
        other_updates=low_rank_updates(tuned(kind, name, seed + 1, settings)) if updates else {},
    )
    return Case(export=export, renderer=renderer, expected=expected)


def quantized(base: Any) -> Any:
    """The same model with the weights that it has at 8 bits."""
    with tempfile.TemporaryDirectory() as folder:
        base.save_pretrained(folder)
        return load_dequantized(Path(folder), 8)


def prove(case: Case, folder: Path, process: FreshProcess) -> Proof:
    """Carry an export through, as a run does."""
    renderer = case.renderer.with_tokenizer(case.export.tokenizer)
    held_out = list(render_all(renderer, EXAMPLES, 200)[0].rendered)
    return write_proven(
        case.export.model, case.export.tokenizer, case.export.generation, folder, held_out, case.expected, "# card",
        process, NEW_TOKENS,
    )  # fmt: skip


def planted(fault: Fault, kind: str, process: Spoiling) -> Proof:
    """What the proof says of a fault."""
    case = make_case(kind, settings=dict(fault.settings.get(kind, {})))
    if fault.plant is not None:
        fault.plant(case.export)
    process.spoil = fault.spoil
    try:
        with tempfile.TemporaryDirectory() as folder:
            return prove(case, Path(folder) / "merged", process)
    finally:
        process.spoil = None


def noticed_by_stock(fault: Fault | None, kind: str) -> set[str]:
    """What stock tools raise or warn of where they merge, save and load an export with a fault; None plants none."""
    case = make_case(kind, settings=dict(fault.settings.get(kind, {})) if fault else {})
    with tempfile.TemporaryDirectory() as name, listening() as said:
        folder = Path(name)
        try:
            if fault is not None and fault.plant is not None:
                fault.plant(case.export)
            case.export.model.generation_config = case.export.generation
            case.export.model.save_pretrained(folder)
            case.export.tokenizer.save_pretrained(folder)
            if fault is not None and fault.spoil is not None:
                fault.spoil(folder)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model: Any = AutoModelForCausalLM.from_pretrained(folder)
            for example in EXAMPLES[:2]:
                asked: Any = list(example.prompt)
                inputs: Any = tokenizer.apply_chat_template(
                    asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
                )
                model.generate(**inputs, max_new_tokens=NEW_TOKENS)
        except Exception as error:  # noqa: BLE001  whatever it is, the user has noticed
            said.add(f"{type(error).__name__}: {' '.join(str(error).split())[:80]}")
    return said


@contextmanager
def listening() -> Iterator[set[str]]:
    """Collect what libraries warn of; numbers are left out, since they differ from run to run."""
    said: set[str] = set()

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.add(re.sub(r"\d+", "N", record.getMessage())[:80])

    ear = Ear(level=logging.WARNING)
    loggers = [logging.getLogger(name) for name in STOCK]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(ear)
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            yield said
        said |= {re.sub(r"\d+", "N", str(one.message))[:80] for one in heard}
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(ear)
            logger.setLevel(level)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a fault on one architecture."""

    fault: Fault | TrainingFault
    kind: str
    reason: str | None
    stock: Sequence[str]

    @property
    def named(self) -> bool:
        """The reason says what kind it is."""
        return bool(self.fault.said) and bool(re.search(self.fault.said, self.reason or ""))


def try_faults(faults: Sequence[Fault], process: Spoiling) -> list[Outcome]:
    """Plant each in each architecture that can have it."""
    cells = [(fault, kind) for fault in faults for kind in fault.kinds]
    usual = {kind: noticed_by_stock(None, kind) for kind in sorted({kind for _, kind in cells})}
    found = []
    with progress_bar("faults", total=len(cells), unit="export") as bar:
        for fault, kind in cells:
            stock = sorted(noticed_by_stock(fault, kind) - usual[kind])
            found.append(Outcome(fault=fault, kind=kind, reason=planted(fault, kind, process).reason, stock=stock))
            bar.update()
    return found


def trained(fault: TrainingFault | None, kind: str) -> str | None:
    """Why a training with a fault was stopped; None if it was not."""
    given = training_rows(*_splits(), objective=_with_labels(fault))
    model = _frozen(attach(make_model(kind), find_method("lora"), SETTINGS["lora"], [], seed=0, steps=4), fault)
    training = Training(num_train_epochs=2, batch_size=8, validations=1, early_stopping_patience=0)
    with tempfile.TemporaryDirectory() as folder:
        try:
            train(model, make_tokenizer(), given, training, 1e-3, False, Path(folder), 0, "lora")
        except MethodError as error:
            return str(error)
    return None


def _splits() -> tuple[list[Rendered], list[Rendered]]:
    renderer = make_renderer(make_tokenizer())
    parts = [[example for row in rows(*part) for example in conversation(row)] for part in ((16,), (4, 100))]
    train_part, validation = (list(render_all(renderer, part, 200)[0].rendered) for part in parts)
    return train_part, validation


def _with_labels(fault: TrainingFault | None) -> Objective:
    """The usual objective, with the labels that a fault gives its rows."""
    sft = find_objective("sft")
    change = fault.labels if fault else None
    if change is None:
        return sft

    def spoiled(examples: Iterable[Any]) -> Iterator[dict[str, Any]]:
        for row in sft.rows(examples):
            yield {**row, "labels": change(row["input_ids"], row["labels"])}

    return replace(sft, rows=spoiled)


def _frozen(model: Any, fault: TrainingFault | None) -> Any:
    for name, parameter in model.named_parameters():
        if fault and any(part in name for part in fault.freeze):
            parameter.requires_grad = False
    return model


def noticed_by_trl(fault: TrainingFault | None, kind: str) -> set[str]:
    """What TRL's trainer raises or warns of in the same training."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model = _frozen(attach(make_model(kind), find_method("lora"), SETTINGS["lora"], [], seed=0), fault)
    change = fault.labels if fault else None
    made = [labelled(item) for item in _splits()[0]]
    if change is not None:
        made = [{**row, "labels": change(row["input_ids"], row["labels"])} for row in made]
    with tempfile.TemporaryDirectory() as folder, listening() as said:
        config = SFTConfig(
            output_dir=folder, max_steps=4, per_device_train_batch_size=8, report_to=[], bf16=False, use_cpu=True,
            gradient_checkpointing=False, save_strategy="no", dataset_kwargs={"skip_prepare_dataset": True},
            disable_tqdm=True,
        )  # fmt: skip
        data = Dataset.from_list([{"input_ids": row["input_ids"], "labels": row["labels"]} for row in made])
        try:
            with redirect_stdout(sys.stderr):  # it prints its last line of numbers
                SFTTrainer(model=model, args=config, train_dataset=data, processing_class=make_tokenizer()).train()
        except Exception as error:  # noqa: BLE001  whatever it is, the user has noticed
            said.add(f"{type(error).__name__}: {' '.join(str(error).split())[:80]}")
    return said


def try_trainings() -> list[Outcome]:
    """Plant each fault of a training in three architectures."""
    usual = {kind: noticed_by_trl(None, kind) for kind in TRAINED}
    sound = {kind: trained(None, kind) for kind in TRAINED}
    assert not any(sound.values()), f"a sound training was stopped: {sound}"
    found = []
    with progress_bar("trainings", total=len(TRAININGS) * len(TRAINED), unit="training") as bar:
        for fault in TRAININGS:
            for kind in TRAINED:
                stock = sorted(noticed_by_trl(fault, kind) - usual[kind])
                found.append(Outcome(fault=fault, kind=kind, reason=trained(fault, kind), stock=stock))
                bar.update()
    return found


def try_sound(count: int, process: Spoiling) -> list[str]:
    """Carry sound exports through; returns those that were refused, with the reason."""
    cells = [(kind, name) for name in SOUND for kind in KINDS if _possible(kind, name)]
    refused = []
    with progress_bar("sound exports", total=count, unit="export") as bar:
        for number in range(count):
            kind, name = cells[number % len(cells)]
            case = make_case(kind, name, seed=number)
            with tempfile.TemporaryDirectory() as folder:
                proof = prove(case, Path(folder) / "merged", process)
            if not proof.holds:
                refused.append(f"{name} on {kind}, seed {number}: {proof.reason}")
            bar.update()
    return refused


def _possible(kind: str, name: str) -> bool:
    method, model = find_method(name), make_model(kind)
    if method.unsupported is not None and method.unsupported(model):
        return False
    try:
        attached = attach(model, method, SETTINGS.get(name, {}), list(range(3, 60)), seed=0)
    except Exception:  # noqa: BLE001  a method that this architecture can't have is no export
        return False
    return method.merge_obstacle is None or not method.merge_obstacle(attached)


def table(found: Sequence[Outcome]) -> str:
    """Fault by fault, in Markdown."""
    lines = [
        "| fault | architectures | caught | kind named | stock tools notice | what the reason says |",
        "|---" * 6 + "|",
    ]
    for fault in dict.fromkeys(outcome.fault.name for outcome in found):
        some = [outcome for outcome in found if outcome.fault.name == fault]
        caught, named = sum(o.reason is not None for o in some), sum(o.named for o in some)
        noticed = sum(bool(o.stock) for o in some)
        reason = (some[0].reason or "").replace("|", "\\|")
        lines.append(
            f"| {fault} | {', '.join(o.kind for o in some)} | {caught} of {len(some)} | "
            f"{named if some[0].fault.said else '-'} | {noticed} | {reason} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Plant, count, and print the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", nargs="*", metavar="TEXT", help="faults whose name holds one of these")
    p.add_argument("--sound", type=int, default=100, metavar="N", help="sound exports (default: 100)")
    p.add_argument("--table", type=Path, metavar="FILE", help="where the table goes, too")
    options = p.parse_args()
    began = time.perf_counter()
    print(measure.machine())
    faults = [fault for fault in EXPORTS if not options.only or any(text in fault.name for text in options.only)]
    with Spoiling() as process:
        found, refused = try_faults(faults, process), try_sound(options.sound, process)
    if not options.only:
        found += try_trainings()
    text = table(found)
    print(text)
    if options.table:
        options.table.write_text(text + "\n", encoding="utf-8")
    missed = [outcome for outcome in found if outcome.reason is None]
    unnamed = [outcome for outcome in found if outcome.fault.said and not outcome.named]
    kinds = len({outcome.fault.name for outcome in found})
    print(
        f"\n{kinds} kinds of fault in {len(found)} exports and trainings: {len(found) - len(missed)} caught, ", end=""
    )
    named = sum(outcome.named for outcome in found)
    print(f"{named} as what they are (of others the kind can't be known); ", end="")
    print(f"stock tools notice {sum(bool(outcome.stock) for outcome in found)}")
    for outcome in [o for o in found if o in missed or o in unnamed]:
        print(f"NOT {'CAUGHT' if outcome in missed else 'NAMED'}: {outcome.fault.name} on {outcome.kind}: ", end="")
        print(outcome.reason)
    print(f"{options.sound} sound exports: {len(refused)} refused", *refused, sep="\n  ")
    print(f"{time.perf_counter() - began:.0f} s")
    return int(bool(missed or unnamed or refused))


if __name__ == "__main__":
    raise SystemExit(main())
