"""Faults of exports, as the issues of other tools tell of them, to be put into a sound one on purpose."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from workbench.export.diagnosis import LowRankUpdate
from workbench.training.loss import IGNORED

WEIGHTS = "model.safetensors"
CONFIG, GENERATION, TOKENIZER, TOKENIZER_CONFIG, TEMPLATE = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
)  # fmt: skip
TIED = ("gpt2", "llama", "qwen3", "gemma3")
ROTARY = ("llama", "qwen3", "gpt-neox")
SLIDING = ("gemma3", "gpt-oss", "qwen3")
STRETCHED = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}


@dataclass
class Export:
    """A sound export before it is written, and what it was made from.

    Attributes:
        model: merged, of transformers.
        tokenizer, generation: as they are to be saved.
        base: the model under the adapter.
        updates: name of a weight -> what the adapter adds to it.
        other_base: makes another base of the same shape.
        quantized_base: makes the same base with the weights that it has at 8 bits.
        other_updates: those of another seed's adapter.
    """

    model: Any
    tokenizer: Any
    generation: Any
    base: nn.Module
    updates: Mapping[str, LowRankUpdate]
    other_base: Callable[[], nn.Module]
    quantized_base: Callable[[], nn.Module]
    other_updates: Mapping[str, LowRankUpdate]

    def weights(self) -> dict[str, torch.Tensor]:
        """Name -> weight of the merged model, which can be written to."""
        return dict(self.model.state_dict())


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: what, in half a sentence.
        said: a regular expression for what the reason says of its kind; "" where only the difference can be known.
        plant: puts it into an export that is not written yet, or `spoil` into the folder of a written one.
        kinds: architectures that can have it.
        settings: of the configuration of an architecture that is to have it.
    """

    name: str
    said: str
    plant: Callable[[Export], None] | None = None
    spoil: Callable[[Path], None] | None = None
    kinds: Sequence[str] = ("llama", "gpt2", "qwen3", "gpt-neox", "gemma3")
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _add(export: Export, updates: Mapping[str, LowRankUpdate], times: float, only: Callable[[str], bool]) -> None:
    weights = export.weights()
    with torch.no_grad():
        for name, update in updates.items():
            if only(name):
                weights[name] += times * update.whole()


def _every(name: str) -> bool:
    return True


def _in_second_layer(name: str) -> bool:
    return ".1." in name


def _first_layer_only(names: Sequence[str]) -> str:
    return next(name for name in names if ".0." in name)


def drop(export: Export) -> None:
    """The base is saved in place of what was trained."""
    _add(export, export.updates, -1, _every)


def double(export: Export) -> None:
    """The adapter is merged twice."""
    _add(export, export.updates, 1, _every)


def halve(export: Export) -> None:
    """The scale of another `lora_alpha`."""
    _add(export, export.updates, -0.5, _every)


def negate(export: Export) -> None:
    """Unmerged where it was not merged."""
    _add(export, export.updates, -2, _every)


def leave_a_layer(export: Export) -> None:
    """One layer stays as in the base."""
    _add(export, export.updates, -1, _in_second_layer)


def leave_a_weight(export: Export) -> None:
    """One projection stays as in the base."""
    name = _first_layer_only(list(export.updates))
    _add(export, export.updates, -1, lambda other: other == name)


def other_seed(export: Export) -> None:
    """The adapter of another seed's training."""
    _add(export, export.updates, -1, _every)
    _add(export, export.other_updates, 1, _every)


def _move_base(export: Export, base: nn.Module) -> None:
    weights, before, after = export.weights(), export.base.state_dict(), base.state_dict()
    with torch.no_grad():
        for name in weights:
            weights[name] += after[name].float() - before[name].float()


def other_base(export: Export) -> None:
    """Merged into another checkpoint of the same shape."""
    _move_base(export, export.other_base())


def quantized_base(export: Export) -> None:
    """Merged into the dequantized weights, scored on the original ones."""
    _move_base(export, export.quantized_base())


def bfloat16_and_back(export: Export) -> None:
    """Merged in bfloat16, saved as float32."""
    export.model.to(torch.bfloat16).to(torch.float32)


def float16_and_back(export: Export) -> None:
    """Merged in float16, saved as float32."""
    export.model.to(torch.float16).to(torch.float32)


def save_in_bfloat16(export: Export) -> None:
    """Saved in bfloat16 where float32 was asked for."""
    export.model.to(torch.bfloat16)


def lose_bias_or_norm(export: Export) -> None:
    """A norm of a layer is that of a new model."""
    name = next(n for n in export.weights() if (".1." in n and "norm" in n.lower()) or ".ln_1.weight" in n)
    export.weights()[name].fill_(1.0)


def swap_layers(export: Export) -> None:
    """Weights of two layers change places."""
    weights = export.weights()
    with torch.no_grad():
        for name in [n for n in weights if ".0." in n and n.replace(".0.", ".1.", 1) in weights]:
            first, second = weights[name], weights[name.replace(".0.", ".1.", 1)]
            kept = first.clone()
            first.copy_(second)
            second.copy_(kept)


def roll_vocabulary(export: Export) -> None:
    """Every entry of the vocabulary has the embedding of the one before it."""
    with torch.no_grad():
        table = export.model.get_input_embeddings().weight
        table.copy_(table.roll(1, dims=0))


def spoil_one_number(export: Export) -> None:
    """One number of an entry that no text here has is none."""
    with torch.no_grad():
        export.model.get_input_embeddings().weight[-1, 0] = float("nan")


def wrong_end(export: Export) -> None:
    """Answers end at a token that no answer has."""
    export.generation.eos_token_id = [export.tokenizer.pad_token_id]


def common_end(export: Export) -> None:
    """A token of ordinary text ends answers too."""
    export.generation.eos_token_id = [*export.generation.eos_token_id, *range(3, len(export.tokenizer))]


def more_tokens(export: Export) -> None:
    """A special token is added again, under an id of its own."""
    export.tokenizer.add_tokens(["<|im_end|>again"], special_tokens=True)


def _edit(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        values = json.loads((folder / name).read_text(encoding="utf-8"))
        change(values)
        (folder / name).write_text(json.dumps(values), encoding="utf-8")

    return spoil


def _template(change: Callable[[str], str]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        text = change((folder / TEMPLATE).read_text(encoding="utf-8"))
        (folder / TEMPLATE).write_text(text, encoding="utf-8")

    return spoil


def no_template(folder: Path) -> None:
    """The chat template is not among the files."""
    (folder / TEMPLATE).unlink()


def shift_ids(folder: Path) -> None:
    """Every word of the vocabulary has the id of the next one."""

    def change(values: dict[str, Any]) -> None:
        vocabulary = values["model"]["vocab"]
        special = {one["id"] for one in values["added_tokens"]}
        words = [word for word, number in sorted(vocabulary.items(), key=lambda item: item[1]) if number not in special]
        ids = [vocabulary[word] for word in words]
        vocabulary.update(zip(words, [*ids[1:], ids[0]], strict=True))

    _edit(TOKENIZER, change)(folder)


def _begin_with_bos(values: dict[str, Any]) -> None:
    token = "<|im_start|>"
    values["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [1], "tokens": [token]}},
    }


def lose_a_shard(folder: Path) -> None:
    """The weights are in two files, and the second is not there."""
    tensors = load_file(folder / WEIGHTS)
    names = list(tensors)
    parts = [names[: len(names) // 2], names[len(names) // 2 :]]
    files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for file, part in zip(files, parts, strict=True):
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    places = {name: file for file, part in zip(files, parts, strict=True) for name in part}
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / WEIGHTS).unlink()
    (folder / files[1]).unlink()


def _tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})

    return spoil


def cut_short(folder: Path) -> None:
    """The last thousand bytes of the weights are missing."""
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-1000])


def _without_scaling(values: dict[str, Any]) -> None:
    rope = values["rope_parameters"]
    values["rope_parameters"] = {**rope, "rope_type": "default"}
    values["rope_parameters"].pop("factor")
    values.pop("rope_scaling", None)


def _without_window(values: dict[str, Any]) -> None:
    values |= {"sliding_window": None, "use_sliding_window": False}
    values["layer_types"] = ["full_attention"] * values["num_hidden_layers"]


@dataclass(frozen=True, kw_only=True)
class TrainingFault:
    """Something that goes wrong in a training.

    Attributes:
        name: what, in half a sentence.
        said: a regular expression for what the error says of its kind.
        labels: of a row, input ids and labels -> labels; None leaves them.
        freeze: names of parameters that hold one of these are not trained.
    """

    name: str
    said: str
    labels: Callable[[Sequence[int], Sequence[int]], list[int]] | None = None
    freeze: Sequence[str] = ()


def _without_last(ids: Sequence[int], labels: Sequence[int]) -> list[int]:
    trained = [place for place, label in enumerate(labels) if label != IGNORED]
    return [IGNORED if place == trained[-1] else label for place, label in enumerate(labels)]


TRAININGS = (
    TrainingFault(name="LoRA frozen", said="no trainable parameters", freeze=("lora_",)),
    TrainingFault(name="half of LoRA frozen, at zero", said="no weight has changed", freeze=("lora_B",)),
    TrainingFault(name="all labels masked", said="would count 0 items", labels=lambda ids, _: [IGNORED] * len(ids)),
    TrainingFault(name="prompt tokens in the loss", said="its labels are not", labels=lambda ids, labels: list(ids)),
    TrainingFault(name="end of turn not learned", said="its labels are not", labels=_without_last),
    TrainingFault(name="labels shifted by one", said="another loss", labels=lambda ids, labels: [*labels[1:], IGNORED]),
)  # fmt: skip
EXPORTS = (
    Fault(name="adapter dropped: the base is saved", plant=drop, said="adapter was left out of every weight"),
    Fault(name="adapter merged twice (scale doubled)", plant=double, said=r"adapter is in every weight 2\.00 times"),
    Fault(name="scale halved", plant=halve, said=r"adapter is in every weight 0\.50 times"),
    Fault(name="adapter subtracted", plant=negate, said=r"adapter is in every weight -1\.00 times"),
    Fault(name="one layer unmerged", plant=leave_a_layer, said=r"adapter was left out of \d+ of \d+ weights .*\.1\."),
    Fault(name="one projection unmerged", plant=leave_a_weight, said=r"adapter was left out of 1 of \d+ weights"),
    Fault(name="adapter of another seed", plant=other_seed, said="another adapter than the one that was trained"),
    Fault(name="wrong base of the same shape", plant=other_base, said="no adapter touches are not those of the base"),
    Fault(
        name="dequantized base for the original", plant=quantized_base, said="held at fewer bits",
        kinds=("llama", "qwen3", "gpt-neox"),
    ),
    Fault(name="merged in bfloat16, saved as float32", plant=bfloat16_and_back, said="rounded to bfloat16"),
    Fault(name="merged in float16, saved as float32", plant=float16_and_back, said="rounded to float16"),
    Fault(name="saved in bfloat16 for float32", plant=save_in_bfloat16, said="are in bfloat16, and not in float32"),
    Fault(name="a norm lost", plant=lose_bias_or_norm, said=r"no adapter touches .*(norm|ln)"),
    Fault(name="two layers exchanged", plant=swap_layers, said="not those of the base"),
    Fault(name="vocabulary shifted by one (embeddings)", plant=roll_vocabulary, said="no adapter touches .*(emb|wte)"),
    Fault(name="NaN in one weight", plant=spoil_one_number, said="infinite or none"),
    Fault(name="end-of-turn token wrong", plant=wrong_end, said="not at the end of the turn"),
    Fault(name="answers end at any token", plant=common_end, said=""),
    Fault(name="special token added anew", plant=more_tokens, said="its tokenizer has 321 entries"),
    Fault(name="tied output layer lost", spoil=_edit(CONFIG, lambda v: v.update(tie_word_embeddings=False)),
          said=r"missing keys: .*(lm_head|embed_out)|tie_word_embeddings", kinds=TIED),
    Fault(name="template missing", spoil=no_template, said="chat template"),
    Fault(name="template with a second beginning-of-text", spoil=_template(lambda t: "{{ bos_token }}" + t),
          said="stands in front"),
    Fault(name="template of another model", spoil=_template(lambda t: t.replace("<|im_start|>", "### ")),
          said="chat template writes other tokens"),
    Fault(name="special tokens added to every text", spoil=_edit(TOKENIZER, _begin_with_bos),
          said="raw text other tokens.*stands in front"),
    Fault(name="vocabulary shifted by one (tokenizer)", spoil=shift_ids, said="writes other tokens"),
    Fault(name="generation_config stops after 3 tokens",
          spoil=_edit(GENERATION, lambda v: v.update(max_new_tokens=3)), said="cuts answers: max_new_tokens is 3"),
    Fault(name="generation_config samples", said="do_sample is True",
          spoil=_edit(GENERATION, lambda v: v.update(do_sample=True, temperature=0.7))),
    Fault(name="shard missing", spoil=lose_a_shard, said="model-00002-of-00002"),
    Fault(name="weights cut short", spoil=cut_short, said="could not run it"),
    Fault(name="weights under another prefix",
          spoil=_tensors(lambda t: {f"_orig_mod.{name}": value for name, value in t.items()}), said="missing keys"),
    Fault(name="one weight missing", spoil=_tensors(lambda t: {n: v for n, v in t.items() if n != sorted(t)[3]}),
          said="1 missing keys"),
    Fault(name="rope scaling lost", spoil=_edit(CONFIG, _without_scaling), said="rope_parameters", kinds=ROTARY,
          settings={kind: {"rope_parameters": STRETCHED} for kind in ROTARY}),
    Fault(name="sliding window lost", spoil=_edit(CONFIG, _without_window), said="layer_types|sliding_window",
          kinds=SLIDING,
          settings={"qwen3": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}}),
)  # fmt: skip
