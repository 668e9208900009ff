"""Finding out about a model by letting it read."""

from typing import Any

import torch
from torch import nn

from workbench.models.head import head_name, last_states


def read_short_text(model: nn.Module, training: bool = False) -> Any:
    """What `model` makes of four tokens, without gradients; hooks see the rest.

    A head of classes, in float32 above a model that may not be, is left out.

    Args:
        training: in training mode, where dropout draws; else in evaluation mode.
    """
    before = model.training
    model.train(training)
    try:
        with torch.no_grad():
            ids = torch.arange(1, 5, device=next(model.parameters()).device)[None]
            if head_name(model) is not None:
                return last_states(model, ids, torch.ones_like(ids))
            return model(input_ids=ids, use_cache=False)
    finally:
        model.train(before)
