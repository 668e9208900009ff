"""Exports: proven from disk, or not there at all."""

import copy
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

from tiny import KINDS, make_model, make_tokenizer, rows
from workbench.data import conversation
from workbench.data.render import Rendered, Renderer, make_renderer, render_all
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
from workbench.export.proof import compare
from workbench.generation.decode import decode_batch
from workbench.generation.engine import generation_config
from workbench.methods import find_method
from workbench.methods.merging import as_vocabulary, virtual_tokens
from workbench.models import attach

EXAMPLES = [example for row in rows(6) for example in conversation(row)]


def expected(tuned: Any, base: Any, renderer: Renderer, rendered: list[Rendered], ends: list[int]) -> Expected:
    sequences = proof_sequences(rendered)
    decode = make_tokenizer().decode
    return Expected(
        logits=sequence_logits(tuned, sequences),
        base_logits=partial(sequence_logits, base, sequences),
        texts=[decode(d.tokens, skip_special_tokens=True).strip() for d in decode_batch(tuned, rendered, ends, 0, 12)],
        interface=partial(interface_of, copy.deepcopy(renderer), EXAMPLES, base.config),
        states=sequence_states(tuned, sequences[0]),
        source=Source(base=lambda: base, updates=low_rank_updates(tuned)),
    )


def shipped(kind: str, folder: Path, process: FreshProcess, *, identity: bool = False, spoiled: bool = False) -> Proof:
    torch.manual_seed(0)
    renderer = make_renderer(make_tokenizer())
    rendered = list(render_all(renderer, EXAMPLES, 200)[0].rendered)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=identity, task_type="CAUSAL_LM")
    tuned: Any = get_peft_model(make_model(kind), config).eval()
    generation = generation_config(renderer, tuned.generation_config)
    before = expected(tuned, make_model(kind), renderer, rendered, generation.eos_token_id)
    merged = tuned.merge_and_unload()
    if spoiled:
        with torch.no_grad():
            merged.get_input_embeddings().weight[50:] += 0.5
    return write_proven(merged, renderer.tokenizer, generation, folder, rendered, before, "# card", process, 12)


def test_merged_equals_the_adapter_and_not_the_base(kind: str, tmp_path: Path, process: FreshProcess) -> None:
    proof = shipped(kind, tmp_path / "merged", process)
    assert proof.holds, proof.reason
    assert proof.max_abs_logit_difference <= 1e-5 * proof.max_abs_logit
    assert proof.base_logit_difference > 0.1
    assert (proof.greedy_agreement, proof.prompts) == (1.0, 6)
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "README.md",
    } <= names
    assert {"chat_template.jinja", "tokenizer_config.json"} & names
    assert not list(tmp_path.glob(".*")), "something was left aside"


def test_a_merge_that_is_the_base_is_refused(kind: str, tmp_path: Path, process: FreshProcess) -> None:
    proof = shipped(kind, tmp_path / "merged", process, identity=True)
    assert not proof.holds
    assert "nothing was trained" in str(proof.reason)
    assert list(tmp_path.iterdir()) == []


def test_a_merge_that_is_not_the_adapter_is_refused(kind: str, tmp_path: Path, process: FreshProcess) -> None:
    proof = shipped(kind, tmp_path / "merged", process, spoiled=True)
    assert not proof.holds
    assert "its logits differ" in str(proof.reason)
    assert list(tmp_path.iterdir()) == []


def judged(logits: torch.Tensor, texts: list[str], new_entries: Sequence[int] = (), **arguments: Any) -> Proof:
    before = Expected(
        logits=[torch.ones(2, 3)], base_logits=lambda: [torch.zeros(2, 3)], texts=["a"],
        interface=lambda: pytest.fail("not asked"), new_entries=new_entries,
    )  # fmt: skip
    return compare([logits], texts, before, **arguments)


def test_nan_is_not_equal() -> None:
    assert not judged(torch.full((2, 3), float("nan")), ["a"]).holds
    assert not judged(torch.full((2, 3), float("nan")), ["a"], exact=False).holds


@pytest.mark.parametrize("agreed", [0, 1])
def test_other_words_are_refused(agreed: int) -> None:
    assert judged(torch.ones(2, 3), ["ba"[agreed]]).holds == bool(agreed)


def test_a_rounded_checkpoint_is_held_to_single_tokens_and_to_not_being_the_base() -> None:
    near = torch.full((2, 3), 0.99)
    assert not judged(near, ["a"]).holds
    assert judged(near, ["b"], exact=False).holds  # a long text changes with one token
    assert not judged(torch.full((2, 3), 0.4), ["a"], exact=False).holds
    near[1, 2] = 1.01  # another likeliest token at one of two positions
    proof = judged(near, ["a"], exact=False)
    assert not proof.holds
    assert proof.reason == "its likeliest tokens equal the trained model's at 50.0% of positions only"


def test_new_entries_of_the_vocabulary_are_not_compared() -> None:
    wider = torch.ones(2, 4)
    wider[:, [1, 3]] = 7.0
    assert not judged(wider, ["a"], new_entries=[3]).holds
    assert judged(wider, ["a"], new_entries=[1, 3]).holds


def test_a_process_that_dies_says_why(tmp_path: Path, process: FreshProcess) -> None:
    question = Question(sequences=[[1, 2]], positions=[2], prompts=["a"])
    with pytest.raises(RuntimeError, match=r"OSError|ValueError"):
        process.read(tmp_path, question)
    process._script.kill()
    with pytest.raises(RuntimeError):
        process.read(tmp_path, question)


@pytest.mark.parametrize(("kind", "spare"), [*((kind, 0) for kind in KINDS), ("llama", 2)])
def test_a_soft_prompt_becomes_vocabulary(kind: str, spare: int, tmp_path: Path, process: FreshProcess) -> None:
    """For tied and untied embeddings, scaled ones (Gemma), learned positions, and rows that no token had."""
    renderer = make_renderer(make_tokenizer())
    known = len(renderer.tokenizer)
    rendered = list(render_all(renderer, EXAMPLES, 200)[0].rendered)
    ids = [token for item in rendered for token in item.prompt_ids]
    model = make_model(kind, known + spare)
    tuned: Any = attach(model, find_method("prompt"), {"num_virtual_tokens": 5}, ids, seed=0)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    generation = generation_config(renderer, tuned.generation_config)
    before = expected(tuned, make_model(kind, known + spare), renderer, rendered, generation.eos_token_id)
    plain, tokenizer = as_vocabulary(tuned, renderer.tokenizer)
    generation.suppress_tokens = plain.generation_config.suppress_tokens
    before = replace(before, new_entries=generation.suppress_tokens)
    again = renderer.with_tokenizer(tokenizer)
    held_out = [again.render(example) for example in EXAMPLES]
    assert held_out[0].text == "".join(virtual_tokens(5)) + rendered[0].text
    assert held_out[0].prompt_ids == list(range(known, known + 5)) + rendered[0].prompt_ids
    proof = write_proven(plain, tokenizer, generation, tmp_path / "merged", held_out, before, "# card", process, 12)
    assert proof.holds, proof.reason
    assert len(renderer.tokenizer) == known, "the caller's tokenizer was changed"
    # No text gets them twice: whoever adds special tokens to what the template wrote has them once.
    loaded = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert loaded("Hello")["input_ids"] == renderer.tokenizer("Hello")["input_ids"]
    assert loaded(held_out[0].text)["input_ids"] == held_out[0].prompt_ids
    chat = loaded.apply_chat_template(list(EXAMPLES[0].prompt), add_generation_prompt=True)["input_ids"]
    assert chat == held_out[0].prompt_ids


SAVED = """
import sys
from pathlib import Path
from tiny import make_model, make_tokenizer
from workbench.export import save_adapter
from workbench.methods import find_method
from workbench.models import attach

for name in ("lora", "parallel", "ia3"):
    tuned = attach(make_model("llama"), find_method(name), {}, list(range(3, 60)), seed=0)
    save_adapter(tuned, make_tokenizer(), Path(sys.argv[1]) / name, "base", "# card")
"""


def test_adapters_are_equal_byte_for_byte_whatever_the_hashes_of_their_process(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SAVED, str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)},
        )
        for seed in ("1", "2")
    ]
    assert [process.wait() for process in processes] == [0, 0]
    one, other = (
        {path.relative_to(tmp_path / seed): path.read_bytes() for path in (tmp_path / seed).rglob("*.*")}
        for seed in ("1", "2")
    )
    assert len(one) > 10
    assert one == other
