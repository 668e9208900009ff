"""The rank schedule of AdaLoRA, driven by the trainer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from workbench.errors import MethodError

PATTERN = "rank_pattern"
AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class RankSchedule:
    """Keeps the singular vectors orthogonal, and takes the least important ranks away (arXiv:2303.10512, section 3).

    PEFT has both, but leaves it to the user's loop to call the one, and adds the other to a loss that it computes
    itself.

    Attributes:
        settled: steps after which the ranks stay as they are.
    """

    def __init__(self, model: nn.Module) -> None:
        tuner: Any = model.base_model
        self.tuner = tuner
        self.config = tuner.peft_config[tuner.trainable_adapter_name]
        self.allocator = tuner.rankallocator
        self.settled: int = self.config.total_step - self.config.tfinal

    def before_update(self) -> None:
        """Add the gradient of the penalty, the mean of |P'P - 1| over all factors P (equation 4)."""
        factors = [
            (name, parameter)
            for name, parameter in self.tuner.model.named_parameters()
            if parameter.requires_grad and ("lora_A" in name or "lora_B" in name)
        ]
        with torch.enable_grad():
            penalty = torch.zeros(())
            for name, factor in factors:
                product = factor @ factor.T if "lora_A" in name else factor.T @ factor
                distance = product - torch.eye(len(product), device=product.device)
                penalty = penalty.to(factor.device) + torch.linalg.norm(distance)
            (self.config.orth_reg_weight * penalty / len(factors)).backward()

    def after_update(self, step: int) -> None:
        """Note what matters, and take ranks away when it is time.

        Raises:
            MethodError: the training was too short to tell any rank from another.
        """
        if step == self.settled and not self.allocator.ipt:
            self.allocator.update_ipt(self.tuner.model)  # at its last step PEFT only reads what the steps before noted
        self.tuner.update_and_allocate(step)
        if step == self.settled and not any(any(kept) for kept in self.config.rank_pattern.values()):
            raise MethodError(f"{step} steps are too few to tell important ranks from others: train for longer")

    def state(self) -> dict[str, torch.Tensor]:
        """The running averages of importance, and the ranks that are left."""
        state = {
            f"{average}.{name}": value
            for average in AVERAGES
            for name, value in getattr(self.allocator, average).items()
        }
        for name, kept in (self.config.rank_pattern or {}).items():
            state[f"{PATTERN}.{name}"] = torch.tensor(kept)
        return state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a `state`."""
        parts: dict[str, dict[str, torch.Tensor]] = {name: {} for name in (*AVERAGES, PATTERN)}
        for key, value in state.items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        for average in AVERAGES:
            setattr(self.allocator, average, parts[average])
        pattern = {name: value.tolist() for name, value in parts[PATTERN].items()}
        self.config.rank_pattern = pattern or None
