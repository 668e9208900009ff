"""The configuration, saved as `adapter_config.json`."""

from dataclasses import dataclass, field

from peft.config import PeftConfig

from workbench.methods.bottleneck.peft_type import BOTTLENECK


@dataclass
class BottleneckConfig(PeftConfig):
    """Configuration of `BottleneckModel`.

    Args:
        bottleneck_size: width between the two projections.
        activation: name of an activation of transformers (`ACT2FN`), between the projections.
        dropout: probability, on the activations of the bottleneck.
        target_modules: names or a regular expression of the linear layers whose output is adapted. None finds
            the last projection of each attention and each feed-forward block, the place of Houlsby et al.
        exclude_modules: names or a regular expression of modules to leave alone.
        layers_to_transform: indices of the layers to adapt; None for all.
        layers_pattern: name of the list of layers, needed with `layers_to_transform` where it is not found.
        modules_to_save: further modules to train and save whole.
        init_weights: start with an up-projection of zeros, so that the model begins as the base. False draws it
            at random, which tests need.
    """

    bottleneck_size: int = field(default=64, metadata={"help": "Width between the two projections"})
    activation: str = field(default="gelu", metadata={"help": "Activation between the projections"})
    dropout: float = field(default=0.0, metadata={"help": "Dropout on the activations of the bottleneck"})
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Linear layers whose output is adapted; None finds them"}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Modules to leave alone"})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Layers to adapt"})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of layers"})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Further modules to train"})
    init_weights: bool = field(default=True, metadata={"help": "Start as the base"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BOTTLENECK
        if self.bottleneck_size < 1:
            raise ValueError(f"bottleneck_size must be at least 1, not {self.bottleneck_size}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]  # as PEFT's configs do
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)  # type: ignore[assignment]
