"""What accelerate's configuration file says of FSDP, as `accelerate launch` hands it on in the environment.

Only the frozen weights of a base are split among processes (`workbench.models.split`), each decoder layer a unit of its
own, whatever the file says of wrapping. What is trained is small and is held by every process, so that it is saved,
resumed and merged as without FSDP.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass

from workbench.errors import UserError

SWITCH = "ACCELERATE_USE_FSDP"
# Strategies of FSDP 1, and whether a layer's weights are given back between its forward and its backward pass. To hold
# all weights everywhere is what a multi-GPU configuration does.
STRATEGIES = {"FULL_SHARD": True, "SHARD_GRAD_OP": False}
# What FSDP 1 is told by a number: `fsdp_sharding_strategy: 1`.
NUMBERED = {"1": "FULL_SHARD", "2": "SHARD_GRAD_OP", "3": "NO_SHARD", "4": "HYBRID_SHARD", "5": "HYBRID_SHARD_ZERO2"}


@dataclass(frozen=True, kw_only=True)
class Fsdp:
    """How frozen weights are split.

    Attributes:
        reshard: a layer's weights are given back after its forward pass, and gathered anew for its backward pass.
        offload: each process keeps its part in the memory of the host, and a layer at a time goes to the device.
    """

    reshard: bool = True
    offload: bool = False


def taken_from(environment: MutableMapping[str, str]) -> Fsdp | None:
    """What is asked for, or None. Afterwards accelerate and transformers, which would split a model too, don't see it.

    Raises:
        UserError: something that is not done here.
    """
    if environment.get(SWITCH, "false").lower() != "true":
        return None
    if environment.get("FSDP_ACTIVATION_CHECKPOINTING", "false").lower() == "true":
        raise UserError(
            "fsdp_activation_checkpointing is not used here: leave it out of accelerate's configuration and write "
            'Training(extra={"gradient_checkpointing": True}) into the recipe'
        )
    del environment[SWITCH]
    return Fsdp(reshard=_reshards(environment), offload=environment.get("FSDP_OFFLOAD_PARAMS", "false") == "true")


def _reshards(environment: MutableMapping[str, str]) -> bool:
    """Of FSDP 2 true or false, of FSDP 1 (or where the file names it in its stead) a strategy."""
    told = environment.get("FSDP_RESHARD_AFTER_FORWARD", "true").upper()
    if environment.get("FSDP_VERSION", "1") == "1" and told in ("TRUE", "FALSE"):
        told = environment.get("FSDP_SHARDING_STRATEGY", "FULL_SHARD").upper()
    told = NUMBERED.get(told, told)
    known = {**STRATEGIES, "TRUE": True, "FALSE": False}
    if told not in known:
        raise UserError(
            f"FSDP by {told} is not done here: take FULL_SHARD or SHARD_GRAD_OP, or accelerate's multi-GPU "
            "configuration, by which every process holds all weights"
        )
    return known[told]
