"""Exports: proven from disk, or not there at all."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model, make_tokenizer, rows
from peft import LoraConfig, get_peft_model

from workbench.data import conversation
from workbench.data.render import make_renderer, render_all
from workbench.evaluation import generation_config
from workbench.evaluation.decode import decode_batch
from workbench.export import Proof, ship_merged
from workbench.export.merge import compare, proof_sequences, sequence_logits


def shipped(kind: str, folder: Path, *, identity: bool = False, spoiled: bool = False) -> Proof:
    torch.manual_seed(0)
    base = make_model(kind)
    renderer = make_renderer(make_tokenizer())
    rendered, _ = render_all(renderer, [e for row in rows(6) for e in conversation(row)], 200)
    sequences = proof_sequences(rendered)
    base_logits = sequence_logits(base, sequences)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=identity, task_type="CAUSAL_LM")
    tuned: Any = get_peft_model(base, config).eval()
    generation = generation_config(renderer, base, 12)
    texts = [
        renderer.tokenizer.decode(d.tokens, skip_special_tokens=True).strip()
        for d in decode_batch(tuned, rendered, generation.eos_token_id, 0, 12)
    ]
    trained_logits = sequence_logits(tuned, sequences)
    merged = tuned.merge_and_unload()
    if spoiled:
        with torch.no_grad():
            merged.get_input_embeddings().weight[50:] += 0.5
    return ship_merged(
        merged, renderer, generation, folder, rendered, trained_logits, base_logits, texts, "# card"
    )  # fmt: skip


def test_merged_equals_the_adapter_and_not_the_base(kind: str, tmp_path: Path) -> None:
    proof = shipped(kind, tmp_path / "merged")
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


def test_a_merge_that_is_the_base_is_refused(kind: str, tmp_path: Path) -> None:
    proof = shipped(kind, tmp_path / "merged", identity=True)
    assert not proof.holds
    assert "can't be told from the base" in str(proof.reason)
    assert list(tmp_path.iterdir()) == []


def test_a_merge_that_is_not_the_adapter_is_refused(kind: str, tmp_path: Path) -> None:
    proof = shipped(kind, tmp_path / "merged", spoiled=True)
    assert not proof.holds
    assert "its logits differ" in str(proof.reason)
    assert list(tmp_path.iterdir()) == []


def test_nan_is_not_equal() -> None:
    one, nan = [torch.ones(2, 3)], [torch.full((2, 3), float("nan"))]
    assert not compare(nan, one, [torch.zeros(2, 3)], ["a"], ["a"]).holds


@pytest.mark.parametrize("agreed", [0, 1])
def test_other_words_are_refused(agreed: int) -> None:
    one, zero = [torch.ones(2, 3)], [torch.zeros(2, 3)]
    assert compare(one, one, zero, ["a"], ["ab"[1 - agreed]]).holds == bool(agreed)
