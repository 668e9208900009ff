"""Make a checkpoint, or a file of another format, of a method of a finished run, and prove it.

python -m workbench.export runs/finserve/2026-01-31-0900 --method lora --to bank-model
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.console import add_device_option, command, printable

if TYPE_CHECKING:
    from workbench.run.folder import RunFolder

EPILOG = """\
examples:
  %(prog)s RUN --method lora --to bank-model
  %(prog)s RUN --method lora --to bank-model --precision bfloat16     half the size
  %(prog)s RUN --method lora --to bank-model --base original          for a run at 8 or 4 bits
  %(prog)s --verify bank-model                                         later, on another machine
  %(prog)s --verify bank-model --push my-company/bank-model            what was proven, on a hub
  %(prog)s RUN --method lora --to bank-gguf --format gguf --quantize q8_0    for llama.cpp
  %(prog)s RUN --method houlsby --to bank-adapter --format peft           for PEFT

The checkpoint is read from disk in a process with transformers alone. It must have the settings of its base and the
tokens of the training, and end its answers at the end of the turn. In float32 its logits must be the trained
model's within 1e-5 of the largest; it must give the same greedy text on 99 of 100 held-out prompts, and must not be the
base. With a head of classes, it must give the same class on all prompts, in half precision on 99 of 100. Otherwise
nothing is left, and the exit code is 1. The checkpoint of a run in bfloat16 must give the same single tokens at 95 of
100 positions in the place of texts.

Another format, or half precision of a run in float32, is made from the run's merged checkpoint (peft and gguf-lora from
its adapter), and read back by the software that will run it. Its chat template and tokenizer must make the tokens of
the training; its next tokens are compared (in nats per token), its answers, and its headline score with that of the run
on the same examples. A file whose weights are floats must be within 0.001 nats per token, and a hundredth of what the
base is away; one that is quantized or rounded, or of a run in bfloat16, within half of it. A file that scores
significantly less is refused, unless --accept-loss is given. Rounded to half precision, long answers differ (SmolLM2:
every fourth of 88 tokens); what that does to the score is what is measured.

exit codes: 0 the checkpoint is there, or unchanged; 1 it is not what was trained; 2 a mistake in what was asked for.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="workbench export",
        description="Make a checkpoint, or a file of another format, of a method of a finished run, and prove it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("run", type=Path, nargs="?", metavar="RUN", help="output folder of `workbench run`")
    p.add_argument("--method", metavar="NAME", help="a method of that run, such as lora, or lora-classes")
    p.add_argument("--seed", type=int, metavar="N", help="of a run with several seeds (default: its first)")
    p.add_argument("--to", type=Path, metavar="DIR", help="where the checkpoint goes; must not exist")
    p.add_argument(
        "--verify",
        type=Path,
        metavar="DIR",
        help="hold an export's files against its manifest, and do nothing else",
    )
    add_device_option(p)
    p.add_argument("--push", metavar="NAME", help="upload the export to a hub of Hugging Face, private where it is new")
    p.add_argument(
        "--format", default="hf", metavar="NAME",
        help="hf for transformers, peft for PEFT (the adapter alone), gguf for llama.cpp and Ollama, gguf-lora (the "
        "adapter alone), onnx for onnxruntime-genai, openvino for OpenVINO GenAI (default: hf)",
    )  # fmt: skip
    p.add_argument(
        "--quantize",
        metavar="HOW",
        help="how the weights are held: gguf f16 (default), f32, q8_0, q4_k_m; gguf-lora f32, f16; onnx fp32, int4; "
        "openvino fp16, int8, int4",
    )
    p.add_argument(
        "--accept-loss",
        action="store_true",
        help="of another format, or a coarser --precision: accept that the file scores less than what was trained",
    )
    p.add_argument(
        "--precision", choices=("float32", "bfloat16", "float16"),
        help="of the saved weights (default: that in which the run was scored)",
    )  # fmt: skip
    p.add_argument(
        "--base", choices=("original", "dequantized"),
        help="for a run at 8 or 4 bits: the weights to merge into (default: those with the lower validation loss)",
    )  # fmt: skip
    return p


@command(parser)
def main(arguments: argparse.Namespace) -> int:
    """Carry out what was asked for; return the exit code."""
    from workbench.device import choose
    from workbench.errors import UserError
    from workbench.run.export import export_method, finished_record, is_rounded
    from workbench.run.folder import RunFolder

    choose(arguments.device)
    if arguments.verify:
        return _verify(arguments.verify) or _push(arguments.verify, arguments.push)
    if missing := [name for name in ("run", "method", "to") if getattr(arguments, name) is None]:
        names = [name if name == "run" else f"--{name}" for name in missing]
        raise UserError(f"missing: {', '.join(names)}; an export is RUN --method NAME --to DIR, see --help")
    if arguments.format != "hf" and arguments.precision:
        raise UserError("--precision is for --format hf: take --quantize")
    if arguments.format == "hf" and arguments.quantize:
        raise UserError("--quantize is for other formats than hf: take --precision")
    folder = RunFolder.open(arguments.run)
    precision = arguments.precision or folder.options.precision
    rounded = arguments.format == "hf" and is_rounded(
        finished_record(folder, arguments.method, arguments.seed), precision
    )
    if arguments.format != "hf" or rounded:
        return _scored_anew(arguments, folder, precision if rounded else arguments.quantize)
    if arguments.accept_loss:
        raise UserError("--accept-loss is for what is scored anew: another format, or a coarser --precision")
    proof = export_method(
        folder, arguments.method, arguments.to, seed=arguments.seed, precision=precision, base=arguments.base
    )
    if not proof.merged:
        print(printable(f"nothing was exported: {proof.reason}"))
        return 1
    base = f", {proof.base}" if proof.base else ""
    print(
        f"{arguments.to}: a plain checkpoint in {precision}{base}\n"
        f"largest logit difference {proof.max_abs_logit_difference:.2g} of {proof.max_abs_logit:.3g} "
        f"(the base: {proof.base_logit_difference:.3g}), the same answer on "
        f"{proof.greedy_agreement:.1%} of {proof.prompts} held-out prompts, the same likeliest token at "
        f"{proof.greedy_token_agreement:.1%} of positions"
    )
    return _push(arguments.to, arguments.push)


def _verify(folder: Path) -> int:
    """Tell whether an export is what was proven."""
    from workbench.export.verify import changes, manifest_text, read_manifest

    manifest = read_manifest(folder)
    if changed := changes(folder, manifest):
        print(printable(f"{folder} is not what was exported: {'; '.join(changed)}"))
        return 1
    print(printable(f"{folder} is what was exported: {len(manifest['files'])} files\n{manifest_text(manifest)}"))
    return 0


def _push(folder: Path, name: str | None) -> int:
    """Upload an export, if that was asked for."""
    from workbench.export.push import push

    if name:
        print(printable(f"uploaded to {push(folder, name)}"))
    return 0


def _scored_anew(arguments: argparse.Namespace, folder: "RunFolder", quantization: str | None) -> int:
    """Export in a format, or a precision, whose file is scored anew."""
    from workbench.export.formats.verdict import verdict_text
    from workbench.run.formats import export_format

    verdict = export_format(
        folder,
        arguments.method,
        arguments.to,
        arguments.format,
        quantization=quantization,
        seed=arguments.seed,
        accept_loss=arguments.accept_loss,
        base=arguments.base,
    )
    if not verdict.holds:
        print(printable(f"nothing was exported: {verdict.reason}"))
        return 1
    print(printable(f"{arguments.to}: {verdict_text(verdict)}"))
    return _push(arguments.to, arguments.push)


if __name__ == "__main__":
    raise SystemExit(main())
