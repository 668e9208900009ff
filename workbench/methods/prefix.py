"""Trained keys and values in front of the text."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.errors import MethodError
from workbench.methods.method import Attachment, Method

if TYPE_CHECKING:
    from torch import nn


def _prefix(attachment: Attachment, settings: Mapping[str, Any]) -> "nn.Module":
    """Attach prefix tuning, started from the keys and values of real text.

    Li and Liang found that a random start costs much quality where data are few, and that activations of real
    words mend it (section 7.4): here, those of the first training prompts.
    """
    import torch
    from peft import PrefixTuningConfig, get_peft_model, initialize_kv_prefix_from_past_key_values

    length = settings["num_virtual_tokens"]
    ids = attachment.typical_ids[:length]
    if len(ids) < length:
        raise MethodError(f"prefix of {length} tokens: the training prompts have only {len(ids)} in all to start from")
    model = attachment.model
    with torch.no_grad():
        past = model(torch.tensor([ids], device=model.device), use_cache=True).past_key_values
    keys_and_values = [(layer.keys.float(), layer.values.float()) for layer in past.layers]
    tuned = get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", **settings))
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
        no_plain_checkpoint="keys and values that no token produces have no place in a plain checkpoint; "
        "load adapter/ with PEFT",
    ),
)
