"""`PeftType.BOTTLENECK`: the one place where PEFT has to be changed to know a method it doesn't bring.

`register_peft_method` takes only names that are members of the enum `PeftType`, and an enum can't be extended
by subclassing. This does what the enum's own machinery does for each member when the class is made. It goes
away on the day PEFT takes the tuner in.
"""

from peft import PeftType

if "BOTTLENECK" not in PeftType.__members__:
    member = str.__new__(PeftType, "BOTTLENECK")
    member._name_, member._value_ = "BOTTLENECK", "BOTTLENECK"
    PeftType._member_map_["BOTTLENECK"] = member
    PeftType._value2member_map_["BOTTLENECK"] = member
    PeftType._member_names_.append("BOTTLENECK")
    type.__setattr__(PeftType, "BOTTLENECK", member)

BOTTLENECK = PeftType("BOTTLENECK")
