"""Trained vectors in front of the text."""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from workbench.errors import MethodError
from workbench.methods.merging import as_vocabulary
from workbench.methods.method import Attachment, Method
from workbench.methods.space import Range

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def typical_start(attachment: Attachment, length: int) -> list[int]:
    """The first `length` tokens of training prompts.

    Raises:
        MethodError: there are not as many.
    """
    ids = attachment.typical_ids[:length]
    if len(ids) < length:
        raise MethodError(f"{length} virtual tokens: the training prompts have only {len(ids)} in all to start from")
    return ids


def _prompt(attachment: Attachment, settings: Mapping[str, Any]) -> "nn.Module":
    """Attach prompt tuning, started from the embeddings of real text.

    Lester et al. found that a random start costs much unless the model is very large (section 3.2).
    """
    import torch
    from peft import PromptTuningConfig, get_peft_model

    ids = typical_start(attachment, settings["num_virtual_tokens"])
    model = attachment.model
    with torch.no_grad():
        start = model.get_input_embeddings()(torch.tensor(ids, device=model.device)).float()
    tuned: Any = get_peft_model(model, PromptTuningConfig(task_type=attachment.task_type, **settings))
    embedding = tuned.prompt_encoder[tuned.active_adapter].embedding
    with torch.no_grad():
        embedding.weight.copy_(start)
    return tuned


def _ptuning(attachment: Attachment, settings: Mapping[str, Any]) -> "nn.Module":
    from peft import PromptEncoderConfig, get_peft_model

    width = attachment.model.config.get_text_config().hidden_size
    config = PromptEncoderConfig(task_type=attachment.task_type, **{"encoder_hidden_size": width, **settings})
    return get_peft_model(attachment.model, config)


def lacking(argument: str, so: str) -> "Callable[[PreTrainedModel], str | None]":
    """Why a method can't be used with models whose `forward` has no such `argument`; None with all others."""

    def reason(model: "PreTrainedModel") -> str | None:
        if argument in inspect.signature(model.forward).parameters:
            return None
        return f"{type(model).__name__} {so}"

    return reason


NO_EMBEDDINGS = lacking("inputs_embeds", "reads tokens only, and no vectors in their place")

TOKENS = Range(low=8, high=128, whole=True)

METHODS = (
    Method(
        name="prompt",
        summary="trained vectors in front of the text",
        paper="Lester et al. 2021, arXiv:2104.08691",
        learning_rate=1e-2,
        attach=_prompt,
        settings={"num_virtual_tokens": 32},
        search_space={"learning_rate": Range(low=1e-3, high=1e-1), "num_virtual_tokens": TOKENS},
        unsupported=NO_EMBEDDINGS,
        merge=as_vocabulary,
    ),
    Method(
        name="ptuning",
        summary="vectors in front of the text that a small trained network makes",
        paper="Liu et al. 2021, arXiv:2103.10385",
        learning_rate=1e-3,
        attach=_ptuning,
        settings={"num_virtual_tokens": 32},
        search_space={"learning_rate": Range(low=1e-4, high=1e-2), "num_virtual_tokens": TOKENS},
        unsupported=NO_EMBEDDINGS,
        merge=as_vocabulary,
    ),
)
