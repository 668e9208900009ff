"""Known weaknesses of what is installed, by pip-audit; where its service can't be reached, that is said.

    python tools/audit.py

Exit codes: 0, none are known, or nobody could be asked; 1, some are.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The build of PyTorch for a CPU is of the version that requirements-torch.txt names, and no package may be named twice.
FILES = tuple(sorted({path.name for path in ROOT.glob("requirements*.txt")} - {"requirements-torch-cpu.txt"}))
# What pip-audit says where its service can't be reached.
UNREACHED = ("ConnectionError", "ServiceError", "Timeout", "resolve", "Connection")
# Identifiers of weaknesses that don't touch this project, each with the reason.
ACCEPTED: dict[str, str] = {}


def main() -> None:
    """Ask, and say what was found."""
    asked = [option for file in FILES for option in ("--requirement", str(ROOT / file))]
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--format", "json", *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        print(f"known weaknesses: not looked up: {last}")
        sys.exit(not any(word in last for word in UNREACHED))
    weak = {
        f"{package['name']} {package['version']}: {known['id']}, mended in {', '.join(known['fix_versions']) or 'none'}"
        for package in found
        for known in package.get("vulns", ())
        if known["id"] not in ACCEPTED
    }
    reasons = [package["skip_reason"] for package in found if "skip_reason" in package]
    looked_up = len(found) - len(reasons)
    print("\n".join(sorted(weak)) or f"known weaknesses: none of {looked_up} packages that could be looked up")
    if reasons:
        print(f"not looked up: {len(reasons)} packages, such as: {reasons[0]}")
    sys.exit(bool(weak))


if __name__ == "__main__":
    main()
