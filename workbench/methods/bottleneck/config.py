"""The configuration, saved as `adapter_config.json`."""

from dataclasses import dataclass, field
from typing import Literal

from peft.config import PeftConfig

from workbench.methods.bottleneck.peft_type import BOTTLENECK

# Which blocks of a layer are adapted, where the user names no modules.
Place = Literal["attention", "feed_forward"]
PLACES: tuple[Place, ...] = ("attention", "feed_forward")


@dataclass
class BottleneckConfig(PeftConfig):
    """Configuration of `BottleneckModel`.

    The defaults are the adapters of Houlsby et al. 2019 (arXiv:1902.00751). `places=["feed_forward"]` makes those
    of Pfeiffer et al. 2021 (arXiv:2005.00247), and with `parallel=True` besides those of He et al. 2022
    (arXiv:2110.04366).

    Args:
        bottleneck_size: width between the projections.
        places: blocks of a layer that get an adapter, "attention" and "feed_forward".
        parallel: the adapter reads what the block reads, and its output is added to the block's. Otherwise it reads
            what the block says.
        scale: factor of the adapter's output.
        activation: name of an activation of transformers (`ACT2FN`), between the projections. None takes GELU behind
            a block. Beside a feed-forward block it takes the block's own activation, biases and gate (a second
            projection whose activation the first is multiplied by): the sum is then a wider feed-forward block, into
            which it can be merged. Where the block is of another kind, such as a mixture of experts, it is GELU.
        dropout: probability, on the activations of the bottleneck.
        target_modules: names or a regular expression of the modules that get an adapter; any module will do whose
            input and output, or the first of its outputs, are hidden states. None finds the blocks of `places`.
        exclude_modules: names or a regular expression of modules to leave alone.
        layers_to_transform: indices of the layers to adapt; None for all.
        layers_pattern: name of the list of layers, needed with `layers_to_transform` where it is not found.
        modules_to_save: further modules to train and save whole.
        init_weights: start with an up-projection of zeros, so that the model begins as the base. False draws it
            at random, which tests need.
        init_neurons: what a bottleneck that is merged into its block begins with: "block" copies randomly chosen
            neurons of the block, all but where they lead to; "random" begins as linear layers do. What the block
            computes of a text is worth knowing: on finserve, before its prompts had passages, half an epoch comes to a
            validation loss of 0.87 from copies and 1.33 from random neurons.
        kinds: how many bottlenecks are of which kind, "gated" and "plain" as the blocks that they stand beside, or of
            their "own". Noted when the adapter is made; on a base where it would be others, it is refused.
    """

    bottleneck_size: int = field(default=64, metadata={"help": "Width between the projections"})
    places: list[Place] = field(
        default_factory=lambda: list(PLACES), metadata={"help": "Blocks of a layer that get an adapter"}
    )
    parallel: bool = field(default=False, metadata={"help": "Beside the block, not behind it"})
    scale: float = field(default=1.0, metadata={"help": "Factor of the adapter's output"})
    activation: str | None = field(
        default=None, metadata={"help": "Activation between the projections; None for the block's own"}
    )
    dropout: float = field(default=0.0, metadata={"help": "Dropout on the activations of the bottleneck"})
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Modules that get an adapter; None finds them"}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Modules to leave alone"})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Layers to adapt"})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of layers"})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Further modules to train"})
    init_weights: bool = field(default=True, metadata={"help": "Start as the base"})
    init_neurons: Literal["block", "random"] = field(
        default="block", metadata={"help": "What a mergeable bottleneck starts with: copies of the block's neurons"}
    )
    kinds: dict[str, int] | None = field(
        default=None, metadata={"help": "Noted: how many bottlenecks are of which kind"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BOTTLENECK
        if self.bottleneck_size < 1:
            raise ValueError(f"bottleneck_size must be at least 1, not {self.bottleneck_size}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if not self.places or set(self.places) - set(PLACES):
            raise ValueError(f"places must be some of {', '.join(PLACES)}, not {self.places}")
        if self.init_neurons not in ("block", "random"):
            raise ValueError(f"init_neurons must be block or random, not {self.init_neurons!r}")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]  # as PEFT's configs do
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)  # type: ignore[assignment]
