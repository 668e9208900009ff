"""Loading a base and its tokenizer at 32, 16, 8 or 4 bits, and attaching a method to it."""

import ctypes
import gc
import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import UserError
from workbench.methods import Attachment, Method

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

BITS = (32, 16, 8, 4)
# The format of gpt-oss's experts.
MXFP4 = "mxfp4"
# Weights that share a scale at 4 bits.
NF4_BLOCK = 64

# Numbers of glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a model is.

    Attributes:
        trainable: parameters that are trained, virtual tokens included.
        total: all parameters; a quantized weight counts with the number of values it stands for.
    """

    trainable: int
    total: int


def device() -> "torch.device":
    """The accelerator, if there is one, or the CPU."""
    import torch

    # Without the check it names what PyTorch was built for, GPU or no GPU.
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def bfloat16_is_fast() -> bool:
    """Whether this device multiplies bfloat16 matrices in hardware (AMX or AVX512-BF16, or a GPU that has it)."""
    import torch

    if device().type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device().type != "cpu":
        return False
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def release_memory() -> None:
    """Give back to the system what is no longer used."""
    gc.collect()
    if device().type == "cuda":
        import torch

        torch.cuda.empty_cache()
    if sys.platform == "linux":
        # glibc keeps freed memory, which would count as that of the next method.
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)


def keep_memory() -> None:
    """Keep freed memory in the process until `release_memory`, instead of asking the system for it at every step.

    glibc gives the activations of a step back when the step ends. To get them again costs a fault for every
    4 kB, a fifth of a training step's time.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that glibc takes
            libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def default_bits() -> int:
    """16 where bfloat16 is computed in hardware, 32 elsewhere."""
    return 16 if bfloat16_is_fast() else 32


def load_tokenizer(path: Path) -> Any:
    """The tokenizer in the folder `path`.

    Raises:
        UserError: it can't be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} holds no tokenizer that transformers can read: {str(error).splitlines()[0]}"
        ) from error


def context_length(path: Path) -> int | None:
    """Most tokens that the model in the folder `path` can read at once, where its configuration says so.

    Raises:
        UserError: the configuration can't be read.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: transformers can't read its config.json: {str(error).splitlines()[0]}") from error
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def require_weights(path: Path, bits: int) -> None:
    """Refuse a checkpoint whose weights are quantized already, where they can't be made what `bits` asks for.

    Raises:
        UserError: they are.
    """
    if (kind := _quantized_by(path)) and (kind != MXFP4 or bits < 16):
        raise UserError(
            f"the weights in {path} are quantized already ({kind}): they can't be held at {bits} bits; "
            + ("take --bits 16" if kind == MXFP4 else "give the checkpoint from which they were made")
        )


def _quantized_by(path: Path) -> str | None:
    from transformers import AutoConfig

    settings = getattr(AutoConfig.from_pretrained(path, trust_remote_code=False), "quantization_config", None)
    if settings is None:
        return None
    return str(settings["quant_method"] if isinstance(settings, dict) else settings.quant_method)


def load_model(path: Path, bits: int, training: bool = False) -> "PreTrainedModel":
    """Load the causal language model in the folder `path`, frozen and in evaluation mode.

    Args:
        path: folder with config and safetensors.
        bits: 32 for float32, 16 for bfloat16, 8 for LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339), 4 for
            NF4 with double quantization (Dettmers et al. 2023, arXiv:2305.14314).
        training: choose the attention that is fast backwards.

    Raises:
        UserError: it is no causal language model, or its files don't fit each other.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils.quantization_config import Mxfp4Config

    from workbench.models.attention import GROUPED
    from workbench.models.probe import read_short_text

    computing = torch.bfloat16 if bits == 16 or (bits < 16 and bfloat16_is_fast()) else torch.float32
    quantization: Any = None
    if _quantized_by(path) == MXFP4:  # gpt-oss as it is released
        quantization = Mxfp4Config(dequantize=True)
    elif bits == 8:
        # On a CPU it warns at every product that it casts, which nobody can change.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        quantization = BitsAndBytesConfig(load_in_8bit=True)
    elif bits == 4:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=computing,
        )
    try:
        attention = _attention(path, training)
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=computing,
            attn_implementation=attention,
            quantization_config=quantization,
            device_map={"": device()} if quantization or device().type != "cpu" else None,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} can't be loaded as a causal language model: {str(error).splitlines()[0]}") from error
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
    return model.eval()


def _attention(path: Path, training: bool) -> str | None:
    """The attention that is fastest here, of those that compute the same; None for transformers' own choice.

    On a CPU the fused attention is faster forwards than the plain one and far slower backwards, at the lengths of
    conversations.
    """
    from transformers import AutoConfig

    from workbench.models.attention import GROUPED, shares_heads

    if device().type != "cpu":
        return None
    if shares_heads(AutoConfig.from_pretrained(path, trust_remote_code=False)):
        return GROUPED
    return "eager" if training else None


def load_dequantized(path: Path, bits: int) -> "PreTrainedModel":
    """Load the model in the folder `path` in float32, with the weights that it computes with when held at `bits`.

    An adapter trained on a quantized base knows these weights and no others.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    from workbench.methods.peft_layers.precision import dequantized

    model, held = load_model(path, 32), dict(load_model(path, bits, training=True).named_modules())
    with torch.no_grad():
        for name, module in model.named_modules():
            for part, parameter in module.named_parameters(recurse=False):
                value = dequantized(held[name]) if part == "weight" else getattr(held[name], part)
                # Where bitsandbytes takes the place of a Conv1D, it stores its weight as a linear layer does.
                turned = isinstance(module, Conv1D) and part == "weight" and not isinstance(held[name], Conv1D)
                parameter.copy_(value.t() if turned else value)
    return model


def attach(
    model: "PreTrainedModel",
    method: Method,
    settings: Mapping[str, Any],
    typical_ids: list[int],
    seed: int,
    steps: int = 1,
) -> "nn.Module":
    """Attach `method` to `model`, its new weights drawn from `seed`.

    Args:
        settings: the recipe's, which replace the method's own.
        typical_ids: tokens of training prompts, for methods that start from real text.
        steps: optimizer steps of the training that is to follow.

    Raises:
        UserError: a model that the method can't be used with, a setting that it does not know, or a value it does
            not take.
    """
    from transformers import set_seed

    if method.cannot and (reason := method.cannot(model)):
        raise UserError(f"{method.name} can't be used here: {reason}; leave it out with --methods")
    set_seed(seed)
    attachment = Attachment(model=model, typical_ids=typical_ids, steps=steps)
    try:
        attached = method.attach(attachment, {**method.settings, **settings})
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{method.name} with {dict(settings) or 'its own settings'}: {error}") from error
    return attached.eval()


def rehearse(
    path: Path, method: Method, settings: Mapping[str, Any], typical_ids: list[int], steps: int = 1
) -> str | None:
    """Attach `method` to the model in the folder `path` without its weights, to find early what is wrong.

    Returns:
        Why the result can't become a plain checkpoint; None if it can.

    Raises:
        UserError: as `attach`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        attached = attach(model.requires_grad_(False), method, settings, typical_ids, seed=0, steps=steps)
        return method.why_adapter_only(attached)


def size(model: "nn.Module") -> Size:
    """Count the parameters of an attached model."""
    trainable = total = 0
    for parameter in model.parameters():
        # bitsandbytes packs two 4-bit values into a byte, and keeps the shape they stand for.
        shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
        count = shape.numel() if shape is not None else parameter.numel()
        total += count
        trainable += count if parameter.requires_grad else 0
    return Size(trainable=trainable, total=total)
