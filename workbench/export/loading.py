"""How a user loads an adapter on the base that its scores are of."""

COMPUTE = "bnb_4bit_compute_dtype"


def adapter_loading(
    folder: str,
    dtype: str,
    bits: int = 32,
    *,
    kind: str = "AutoModelForCausalLM",
    loads_with: str | None = None,
    arguments: str = "",
    whole: str = "",
) -> str:
    """Python that does it.

    Args:
        folder: of the adapter.
        dtype: in which the base computes.
        bits: 8 or 4 where bitsandbytes holds the base.
        kind: class of transformers.
        loads_with: a module that makes PEFT know the method.
        arguments: more of the base's `from_pretrained`.
        whole: more of the quantization.
    """
    lines = ["from peft import PeftModel", f"from transformers import {kind}, AutoTokenizer"]
    given = f'"PATH OF THE BASE", dtype="{dtype}"{arguments}'
    if bits < 16:
        lines[1] += ", BitsAndBytesConfig"
        nf4 = f'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, {COMPUTE}="{dtype}"'
        lines.append(f"held = BitsAndBytesConfig({'load_in_8bit=True' if bits == 8 else nf4}{whole})")
        given += ", quantization_config=held"
    if loads_with:
        lines.insert(2, f"import {loads_with}  # makes PEFT know the method")
    lines += [
        f"base = {kind}.from_pretrained({given})",
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}")',
        f'model = PeftModel.from_pretrained(base, "{folder}")',
    ]
    return "\n".join(lines)
