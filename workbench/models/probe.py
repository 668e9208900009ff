"""Finding out about a model by letting it read."""

from typing import Any

import torch
from torch import nn


def read_short_text(model: nn.Module) -> Any:
    """What `model` makes of four tokens, in evaluation mode and without gradients; hooks see the rest."""
    training = model.training
    try:
        with torch.no_grad():
            ids = torch.arange(1, 5, device=next(model.parameters()).device)[None]
            return model.eval()(input_ids=ids, use_cache=False)
    finally:
        model.train(training)
