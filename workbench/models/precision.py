"""On which device and in what precision a model is trained, scored and shipped."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def device() -> "torch.device":
    """The accelerator, if there is one, or the CPU."""
    import torch

    # Without the check it names what PyTorch was built for, GPU or no GPU.
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def bfloat16_is_fast() -> bool:
    """Whether this device multiplies bfloat16 matrices in hardware (AMX or AVX512-BF16, or a GPU that has it)."""
    import torch

    if device().type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device().type != "cpu":
        return False
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def default_bits() -> int:
    """16 where bfloat16 is computed in hardware, 32 elsewhere."""
    return 16 if bfloat16_is_fast() else 32
