"""From an adapter to a checkpoint that transformers runs by itself."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from workbench.errors import MethodError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

VIRTUAL_TOKEN = "<|virtual_{}|>"


def as_it_is(model: "nn.Module", tokenizer: Any) -> "tuple[PreTrainedModel, Any]":
    """The model is a plain checkpoint already."""
    return model, tokenizer  # type: ignore[return-value]


def merged(model: "nn.Module", tokenizer: Any) -> "tuple[PreTrainedModel, Any]":
    """Write the adapter into the weights of its base, as PEFT or our tuner does it.

    A layer is summed in float32, whatever holds it, and rounded once, into the memory that it had: no second model is
    ever there, only a second layer.
    """
    with _summed_in_float32(model):
        return model.merge_and_unload(safe_merge=True), tokenizer  # type: ignore[operator]


@contextmanager
def _summed_in_float32(model: "nn.Module") -> "Iterator[None]":
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[Any] = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.merge = partial(_merge, layer, layer.merge)
    try:
        yield
    finally:
        for layer in layers:
            del layer.merge


def _merge(layer: Any, merge: "Callable[..., None]", **how: Any) -> None:
    """Merge one layer of PEFT; `merge` is its own way.

    Raises:
        ValueError: a sum is no finite number, or too large for the precision that holds the layer.
    """
    base = layer.get_base_layer()
    of_one = getattr(layer, "parameter_name", None)  # of several in a block, such as a mixture's experts
    before = {name: parameter.data for name, parameter in base.named_parameters() if of_one is None or name == of_one}
    for name in before:
        parameter = base.get_parameter(name)
        parameter.data = parameter.data.float()
    merge(**how)
    for name, held in before.items():
        parameter = base.get_parameter(name)
        summed = held.copy_(parameter.data) if held.shape == parameter.shape else parameter.data.to(held.dtype)
        if not summed.isfinite().all():
            raise ValueError(f"numbers in {name} are too large for {str(held.dtype).removeprefix('torch.')}")
        parameter.data = summed


def virtual_tokens(count: int) -> list[str]:
    """Names of the vocabulary entries that stand for a soft prompt of `count` vectors."""
    return [VIRTUAL_TOKEN.format(number) for number in range(count)]


def as_vocabulary(model: "nn.Module", tokenizer: Any) -> "tuple[PreTrainedModel, Any]":
    """Make the vectors of a soft prompt new entries of the vocabulary, which the chat template puts in front.

    The embedding of a new entry is the trained vector, so the model reads the same as before. The model could also
    say the new entries: `generation_config.suppress_tokens` forbids it, and leaves the rest as it was. The tokenizer
    itself adds none of them: whoever writes prompts by the template and lets the tokenizer add its special tokens, as
    evaluation harnesses do, would have them twice.

    Args:
        model: of PEFT, with prompt tuning or p-tuning.
        tokenizer: with a chat template; it is copied.

    Raises:
        MethodError: the embeddings are more than a table, so that no entry could give the trained vectors.
    """
    import torch

    base = model.get_base_model()  # type: ignore[operator]
    with torch.no_grad():
        vectors = model.get_prompt(1)[0]  # type: ignore[operator]
    names = virtual_tokens(len(vectors))
    tokenizer = copy.deepcopy(tokenizer)
    if taken := set(names) & set(tokenizer.get_vocab()):
        raise MethodError(f"the vocabulary has {', '.join(sorted(taken))} already")
    tokenizer.add_special_tokens({"additional_special_tokens": names}, replace_extra_special_tokens=False)
    ids = tokenizer.convert_tokens_to_ids(names)
    factor = _embedding_factor(base)
    output = base.get_output_embeddings()  # a head of classes says no entries
    tied = output is None or output.weight is base.get_input_embeddings().weight
    if max(ids) >= len(base.get_input_embeddings().weight):
        base.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    with torch.no_grad():
        table = base.get_input_embeddings().weight
        table[ids] = vectors.to(table) / factor
        if not tied:
            output = base.get_output_embeddings()
            output.weight[ids] = 0
            if getattr(output, "bias", None) is not None:
                output.bias[ids] = 0
    tokenizer.chat_template = _before_template("".join(names), tokenizer.chat_template)
    if output is not None:
        base.generation_config.suppress_tokens = ids
    _unwrap_trained_modules(base)
    return base, tokenizer


def _unwrap_trained_modules(base: "PreTrainedModel") -> None:
    """Put what PEFT trained whole beside an adapter, such as a head, into its place; merging does it for others."""
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(base.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            parent, _, child = name.rpartition(".")
            (active,) = module.active_adapters
            setattr(base.get_submodule(parent), child, module.modules_to_save[active])


def _embedding_factor(model: "PreTrainedModel") -> "torch.Tensor":
    """The number by which the model multiplies what it reads from the table of embeddings; 1 in most."""
    import torch

    embedding: Any = model.get_input_embeddings()
    rows = embedding.weight[:8].detach()
    read = embedding(torch.arange(len(rows), device=rows.device)).detach()
    factor = (read * rows).sum() / (rows * rows).sum()
    if not torch.allclose(read, factor * rows, rtol=1e-3, atol=1e-6):
        raise MethodError(f"{type(embedding).__name__} is more than a table: its entries can't be the trained vectors")
    return factor


def _before_template(text: str, template: Any) -> Any:
    """A chat template, or several by name, with `text` before all that it writes."""
    if isinstance(template, dict):
        return {name: text + one for name, one in template.items()}
    return text + template
