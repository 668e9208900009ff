"""Trained keys and values in front of the text."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.methods.method import Attachment, Method, NotMergeable
from workbench.methods.prompts import lacking, typical_start
from workbench.methods.space import Range

if TYPE_CHECKING:
    from torch import nn


def _prefix(attachment: Attachment, settings: Mapping[str, Any]) -> "nn.Module":
    """Attach prefix tuning, started from the keys and values of real text.

    Li and Liang found that a random start costs much quality where data are few, and that activations of real
    words mend it (section 7.4): here, those of the first training prompts. With `prefix_projection` a small network
    makes the keys and values (section 4.3), and nothing can be said about where they start.
    """
    import torch
    from peft import PrefixTuningConfig, get_peft_model, initialize_kv_prefix_from_past_key_values
    from transformers import DynamicCache

    model = attachment.model
    if settings.get("prefix_projection"):
        width = model.config.get_text_config().hidden_size
        settings = {"encoder_hidden_size": width, **settings}
        return get_peft_model(model, PrefixTuningConfig(task_type=attachment.task_type, **settings))
    ids = typical_start(attachment, settings["num_virtual_tokens"])
    with torch.no_grad():
        # A model's own cache may keep no more than its window.
        cache = DynamicCache()
        inputs = torch.tensor([ids], device=model.device)
    past = model.base_model(inputs, past_key_values=cache, use_cache=True).past_key_values  # whatever head it has
    keys_and_values = [(layer.keys.float(), layer.values.float()) for layer in past.layers]
    tuned = get_peft_model(model, PrefixTuningConfig(task_type=attachment.task_type, **settings))
    initialize_kv_prefix_from_past_key_values(tuned, past_key_values=keys_and_values)
    return tuned


METHODS = (
    Method(
        name="prefix",
        summary="trained keys and values in front of every layer's attention",
        paper="Li and Liang 2021, arXiv:2101.00190",
        learning_rate=1e-2,
        attach=_prefix,
        settings={"num_virtual_tokens": 32},
        search_space={
            "learning_rate": Range(low=1e-3, high=1e-1),
            "num_virtual_tokens": Range(low=8, high=128, whole=True),
        },
        unsupported=lacking("past_key_values", "takes no keys and values from before, and so no prefix of them"),
        recomputes=False,  # transformers takes keys and values away from layers that are computed anew
        merge=NotMergeable("keys and values that no token produces have no place in a plain checkpoint"),
    ),
)
