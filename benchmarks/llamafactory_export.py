"""What LLaMA-Factory's export notices of faults in a merge.

    python benchmarks/llamafactory_export.py --python PATH/OF/ITS/ENVIRONMENT/bin/python

A tiny base and a LoRA adapter with random weights are given to `llamafactory-cli export`, in an environment of its own,
in which PEFT's `merge_and_unload` has a fault. Noticed is an exit code other than 0, or a warning that it does not give
for a sound merge.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import measure  # quiets the libraries before they are imported
import torch
from peft import LoraConfig, get_peft_model

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from tiny import make_model, make_tokenizer

# What stands in front of the merge, and behind it, in the process that exports.
FAULTS = {
    "none": ("", ""),
    "adapter dropped": ("scale(lambda name: 0)", ""),
    "adapter merged twice (scale doubled)": ("scale(lambda name: 2)", ""),
    "one layer unmerged": ("scale(lambda name: 0 if '.1.' in name else 1)", ""),
    "NaN in one weight": ("", "merged.get_input_embeddings().weight.data[-1, 0] = float('nan')"),
    "a norm lost": ("", "next(p for n, p in merged.named_parameters() if 'norm' in n).data.fill_(1.0)"),
    "vocabulary shifted by one (embeddings)": (
        "",
        "w = merged.get_input_embeddings().weight.data; w.copy_(w.roll(1, 0))",
    ),
}
PATCH = """
import peft
whole = peft.PeftModel.__getattr__

def spoiled(self, name):
    if name != "merge_and_unload":
        return whole(self, name)
    real = whole(self, name)

    def merge(*arguments, **more):
        def scale(of):
            for name, module in self.named_modules():
                if hasattr(module, "scaling") and isinstance(module.scaling, dict):
                    module.scaling = {{key: value * of(name) for key, value in module.scaling.items()}}
        {before}
        merged = real(*arguments, **more)
        {after}
        return merged

    return merge

peft.PeftModel.__getattr__ = spoiled
from llamafactory.train.tuner import export_model
export_model(dict(model_name_or_path={base!r}, adapter_name_or_path={adapter!r}, template="chatml", export_dir={to!r},
                  infer_dtype="float32", finetuning_type="lora", trust_remote_code=False))
"""


def export(python: Path, folder: Path, fault: str) -> tuple[int, set[str], str]:
    """Exit code, warnings and last line of an export with a fault."""
    before, after = FAULTS[fault]
    to = folder / re.sub(r"\W", "-", fault)
    base, adapter = str(folder / "base"), str(folder / "adapter")
    code = PATCH.format(before=before or "pass", after=after or "pass", base=base, adapter=adapter, to=str(to))
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False, cwd=folder)
    said = {
        re.sub(r"\d+", "N", line.replace(to.name, ""))[:100]
        for line in done.stderr.splitlines()
        if "warn" in line.lower()
    }
    return done.returncode, said, (done.stderr.strip().splitlines() or [""])[-1]


def main() -> None:
    """Export with each fault, and print what came of it."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--python", type=Path, required=True, metavar="FILE", help="Python with llamafactory installed")
    options = p.parse_args()
    print(measure.machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model("llama").save_pretrained(folder / "base")
        make_tokenizer().save_pretrained(folder / "base")
        base = make_model("llama")
        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        get_peft_model(base, config).save_pretrained(str(folder / "adapter"))
        usual: set[str] = set()
        for fault in FAULTS:
            code, said, last = export(options.python, folder, fault)
            if fault == "none":
                usual = said
                if code:
                    raise SystemExit(f"a sound export failed: {last}")
            print(f"{fault}: exit code {code}, new warnings: {sorted(said - usual) or 'none'}")


if __name__ == "__main__":
    main()
