"""Loading a base and its tokenizer at 32, 16, 8 or 4 bits."""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.data.labels import Labels
from workbench.device import device, on_cpu
from workbench.errors import UserError
from workbench.models.checkpoint import MXFP4, first_line, quantized_by, read_config
from workbench.models.head import HEAD_NAMES, draw_head, head_of
from workbench.models.precision import computing_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BITS = (32, 16, 8, 4)
# In a configuration: Python files of the checkpoint that stand for classes of transformers.
CODE = "auto_map"
# What older versions of transformers saved with the weights, and newer ones compute: masks, places, frequencies.
COMPUTED = re.compile(r"(\battn\.bias|\battention\.bias|\bmasked_bias|\binv_freq|\bposition_ids)$")
# Weights that share a scale at 4 bits.
NF4_BLOCK = 64


def load_tokenizer(path: Path) -> Any:
    """The tokenizer in the folder `path`.

    Raises:
        UserError: it can't be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # whatever transformers makes of files that are others'
        raise UserError(f"{path} holds no tokenizer that transformers can read: {first_line(error)}") from error
    tokenizer.init_kwargs.pop(CODE, None)  # what is saved with it names no code either
    return tokenizer


def load_model(path: Path, bits: int, training: bool = False, on_host: bool = False) -> "PreTrainedModel":
    """Load the causal language model in the folder `path`, frozen and in evaluation mode.

    Args:
        path: folder with config and safetensors.
        bits: 32 for float32, 16 for bfloat16, 8 for LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339), 4 for
            NF4 with double quantization (Dettmers et al. 2023, arXiv:2305.14314).
        training: choose the attention that is fast backwards.
        on_host: leave weights of 32 or 16 bits in the memory of the host.

    Raises:
        UserError: it is no causal language model, or its files don't fit each other.
    """
    from transformers import AutoModelForCausalLM

    return _load(AutoModelForCausalLM, "a causal language model", path, bits, training, on_host)


def load_classifier(
    path: Path,
    bits: int,
    labels: Labels | None = None,
    pad_id: int | None = None,
    seed: int = 0,
    training: bool = False,
    on_host: bool = False,
) -> "PreTrainedModel":
    """Load the model in the folder `path` with a head of classes, frozen and in evaluation mode.

    The head is in float32, whatever holds the rest.

    Args:
        path, bits, training, on_host: see `load_model`.
        labels: of a new head, its weights drawn from `seed`; None for a model that brings its own head.
        pad_id: the padding token, which the configuration names from now on, with `labels`.

    Raises:
        UserError: the architecture has no such head, or the files don't fit each other.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    more = {} if labels is None else {"new": HEAD_NAMES, **head_settings(path, labels, pad_id)}
    model = _load(AutoModelForSequenceClassification, "a classifier", path, bits, training, on_host, HEAD_NAMES, **more)
    head_of(model).to(torch.float32)
    if labels is not None:
        draw_head(model, seed)
    return model


def head_settings(path: Path, labels: Labels, pad_id: int | None) -> dict[str, Any]:
    """What loads a checkpoint with a new head: its configuration with the names of the classes.

    Raises:
        UserError: transformers has no classifier of its architecture.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    config = read_config(path)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UserError(
            f"head 'classes' can't be used here: transformers has no {config.model_type} model with such a head; "
            'take head="likelihood", or another --model'
        )
    names = labels.names
    config.num_labels = len(names)
    config.id2label, config.label2id = dict(enumerate(names)), {name: row for row, name in enumerate(names)}
    config.problem_type = "multi_label_classification" if labels.several else "single_label_classification"
    for one in (config, config.get_text_config()):
        one.pad_token_id = pad_id
    return {"config": config}


def _load(
    kind: Any,
    what: str,
    path: Path,
    bits: int,
    training: bool,
    on_host: bool = False,
    whole: Sequence[str] | None = None,
    new: Sequence[str] = (),
    **more: Any,
) -> "PreTrainedModel":
    """A model of one of transformers' auto classes, frozen and in evaluation mode.

    Args:
        what: as users are told what it should be.
        whole: modules that are never quantized; None for the output layer.
        new: modules that the checkpoint does not hold.
        more: for `from_pretrained`.
    """
    from safetensors import SafetensorError

    from workbench.models.attention import GROUPED
    from workbench.models.probe import read_short_text

    quantization = _quantization(path, bits, whole)
    to_device = bool(quantization) or not (on_cpu() or on_host)
    try:
        attention = _attention(path, training)
        model, info = kind.from_pretrained(
            path,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, with their names
            dtype=computing_dtype(bits),
            attn_implementation=attention,
            quantization_config=quantization,
            device_map={"": device()} if to_device else None,
            use_safetensors=True,
            trust_remote_code=False,
            **more,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, SafetensorError) as error:
        raise UserError(f"{path} can't be loaded as {what}: {first_line(error)}") from error
    _require_all_weights(path, info, new)
    for config in {id(one): one for one in (model.config, model.config.get_text_config())}.values():
        vars(config).pop(CODE, None)  # code of the base, which was not run: what is saved must not name it
    model.requires_grad_(False)
    modules: Iterable[Any] = model.modules()
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu") and (training or module.in_features % NF4_BLOCK):
            # bitsandbytes packs 4-bit weights for inference at the first forward without gradients. The packed
            # product has no gradient, the packed weight can't be dequantized, and rows must be of whole blocks.
            module.support_avx512bf16_for_cpu = False
    if attention == GROUPED:
        try:
            read_short_text(model)
        except NotImplementedError:  # sinks or capped scores
            model.set_attn_implementation("eager")
    loaded: PreTrainedModel = model.eval()
    return loaded


def _require_all_weights(path: Path, info: Mapping[str, Any], new: Sequence[str]) -> None:
    """See that every weight of the model is one of the checkpoint's, and every one of the checkpoint's is used.

    transformers draws from chance what it does not find, and leaves out what it does not know.

    Args:
        info: what transformers says of the loading.
        new: modules that are not in the checkpoint; beside them its output layer is left over.

    Raises:
        UserError: weights are missing, left over or of another shape; some of them are named.
    """
    missing = [name for name in info["missing_keys"] if not set(name.split(".")) & set(new)]
    unknown = [name for name in info["unexpected_keys"] if not COMPUTED.search(name)]
    found = {
        "missing": missing,
        "unknown to the architecture": [] if new and not missing else unknown,
        "of another shape": [str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"]],
    }
    said = [
        f"{len(names)} {what} ({', '.join(sorted(names)[:3])}{', ...' * (len(names) > 3)})"
        for what, names in found.items()
        if names
    ]
    if said:
        raise UserError(
            f"{path}: its weights don't fit its config.json: {'; '.join(said)}. What is missing would be random: save "
            "the checkpoint anew from the model that it was, without wrappers such as torch.compile's"
        )


def _quantization(path: Path, bits: int, whole: Sequence[str] | None) -> Any:
    """How transformers is to hold the weights; None for weights of floating point that are there as such."""
    from transformers import BitsAndBytesConfig
    from transformers.utils.quantization_config import Mxfp4Config

    if quantized_by(path) == MXFP4:  # gpt-oss as it is released
        return Mxfp4Config(dequantize=True)
    skipped = None if whole is None else list(whole)
    if bits == 8:
        # On a CPU it warns at every product that it casts, which nobody can change.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    if bits == 4:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=computing_dtype(bits),
            llm_int8_skip_modules=skipped,
        )
    return None


def _attention(path: Path, training: bool) -> str | None:
    """The attention that is fastest here, of those that compute the same; None for transformers' own choice.

    On a CPU the fused attention is faster forwards than the plain one and far slower backwards, at the lengths of
    conversations.
    """
    from workbench.models.attention import GROUPED, shares_heads

    if not on_cpu():
        return None
    if shares_heads(read_config(path)):
        return GROUPED
    return "eager" if training else None


def load_dequantized(
    path: Path, bits: int, load: "Callable[..., PreTrainedModel]" = load_model, shipped_bits: int = 32
) -> "PreTrainedModel":
    """Load the model in the folder `path` with the weights that it computes with when held at `bits`.

    An adapter trained on a quantized base knows these weights and no others. Each quantized one is given back as soon
    as it is read.

    Args:
        load: `load_model`, or what loads a classifier of the same arguments.
        shipped_bits: 32 for float32, 16 for bfloat16.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    from workbench.methods.peft_layers.precision import dequantized

    held = dict(load(path, bits, training=True).named_modules())
    model = load(path, shipped_bits)
    with torch.no_grad():
        for name, module in model.named_modules():
            for part, parameter in module.named_parameters(recurse=False):
                value = dequantized(held[name]) if part == "weight" else getattr(held[name], part)
                held[name]._parameters[part] = None
                # Where bitsandbytes takes the place of a Conv1D, it stores its weight as a linear layer does.
                turned = isinstance(module, Conv1D) and part == "weight" and not isinstance(held[name], Conv1D)
                parameter.copy_(value.t() if turned else value)
    return model
