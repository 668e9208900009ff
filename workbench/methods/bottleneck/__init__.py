"""Bottleneck adapters as a PEFT tuner: importing this package makes PEFT know it.

from peft import get_peft_model
from workbench.methods.bottleneck import BottleneckConfig

model = get_peft_model(model, BottleneckConfig(bottleneck_size=64, task_type="CAUSAL_LM"))
"""

from peft.utils import register_peft_method

from workbench.methods.bottleneck.config import BottleneckConfig
from workbench.methods.bottleneck.layer import BottleneckLayer
from workbench.methods.bottleneck.model import BottleneckModel

__all__ = ["BottleneckConfig", "BottleneckLayer", "BottleneckModel"]

register_peft_method(name="bottleneck", config_cls=BottleneckConfig, model_cls=BottleneckModel)
