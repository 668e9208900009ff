"""Finding out about a model by letting it read."""

from typing import Any

import torch
from torch import nn

from workbench.models.head import head_name, last_states


def read_short_text(model: nn.Module) -> Any:
    """What `model` makes of four tokens, in evaluation mode and without gradients; hooks see the rest.

    A head of classes, in float32 above a model that may not be, is left out.
    """
    training = model.training
    try:
        with torch.no_grad():
            ids = torch.arange(1, 5, device=next(model.parameters()).device)[None]
            if head_name(model) is not None:
                return last_states(model.eval(), ids, torch.ones_like(ids))
            return model.eval()(input_ids=ids, use_cache=False)
    finally:
        model.train(training)
