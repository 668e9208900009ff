"""How often the monitor raises an alert where nothing happens, and how soon where something does.

    python benchmarks/alarms.py
    python benchmarks/alarms.py --streams 100 --out alarms

Streams are simulated: some 20 texts of a topic in each window, the topic's own share of negative texts drawn between
10 and 60 %, stories told once, twice or three times. Quiet streams stay so; in the others the share jumps in the
middle. Printed are alerts by judged window beside the rate that was stated, and windows until the first alert.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import beta
from tqdm.auto import tqdm

from workbench.monitor.surge import Surges

WINDOWS, TURN = 80, 60
TEXTS = 20
STATED = (0.01, 0.001)
COPIES = (1, 2, 3)
SHARE, JUMPS = 0.25, (0.4, 0.5, 0.7)
NEVER = WINDOWS - TURN


@dataclass(frozen=True)
class Quiet:
    """What came of quiet streams."""

    stated: float
    copies: int
    judged: int
    alerts: int

    @property
    def rate(self) -> float:
        return self.alerts / self.judged

    @property
    def limits(self) -> tuple[float, float]:
        """95 % of Clopper and Pearson (1934); alerts of neighbouring windows are not independent, so it is rough."""
        low = beta.ppf(0.025, self.alerts, self.judged - self.alerts + 1) if self.alerts else 0.0
        return float(low), float(beta.ppf(0.975, self.alerts + 1, self.judged - self.alerts))

    def __str__(self) -> str:
        low, high = self.limits
        return (
            f"{self.stated:8} {self.copies:8} {self.judged:9} {self.alerts:7}   {self.rate:.5f} [{low:.5f}, {high:.5f}]"
        )


@dataclass(frozen=True)
class Surged:
    """Windows from a jump to the first alert; `NEVER` where none came."""

    copies: int
    share: float
    delays: Sequence[int]

    def __str__(self) -> str:
        found = [delay for delay in self.delays if delay < NEVER]
        soon = [sum(delay < most for delay in self.delays) / len(self.delays) for most in (1, 2, 4, 8)]
        median = f"{np.median(found) + 1:.0f}" if found else "-"
        shares = "".join(f"{100 * one:7.1f}" for one in soon)
        return f"{self.share:8} {self.copies:8}{shares}{100 * len(found) / len(self.delays):8.1f}{median:>8}"


def counts(random: np.random.Generator, share: float, copies: int) -> tuple[int, int]:
    """Texts of a window, and negative ones, where each story is told so many times."""
    stories = max(1, int(random.poisson(TEXTS / copies)))
    return copies * stories, copies * int(random.binomial(stories, share))


def quiet(streams: int, stated: float, copies: int, history: int) -> Quiet:
    """Streams in which nothing happens."""
    random = np.random.default_rng([copies, round(1 / stated)])
    alerts = judged = 0
    for _ in tqdm(range(streams), desc=f"quiet, {stated}, told {copies}x", unit="stream", file=sys.stderr):
        share = random.uniform(0.1, 0.6)
        surges = Surges(stated, history)
        for number in range(WINDOWS):
            found = surges.close(3600.0 * number, *counts(random, share, copies))
            judged += found.p_value is not None
            alerts += found.window.surge
    return Quiet(stated, copies, judged, alerts)


def surged(streams: int, stated: float, copies: int, share: float, history: int) -> Surged:
    """Streams whose share of negative texts jumps and stays."""
    random = np.random.default_rng([copies, round(100 * share)])
    delays = []
    for _ in tqdm(range(streams), desc=f"to {share:.0%}, told {copies}x", unit="stream", file=sys.stderr):
        surges = Surges(stated, history)
        for number in range(TURN):
            surges.close(3600.0 * number, *counts(random, SHARE, copies))
        delay = 0
        while delay < NEVER and not surges.close(3600.0 * (TURN + delay), *counts(random, share, copies)).window.surge:
            delay += 1
        delays.append(delay)
    return Surged(copies, share, delays)


def plot(quiets: Sequence[Quiet], surges: Sequence[Surged], file: Path) -> None:
    """Both tables as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for place, one in enumerate(quiets):
        low, high = one.limits
        left.errorbar(place, one.rate, [[one.rate - low], [high - one.rate]], fmt="o", capsize=4, color="C0")
        left.plot([place - 0.4, place + 0.4], [one.stated] * 2, color="C3")
    left.set_yscale("symlog", linthresh=1e-4)
    left.set_xticks(range(len(quiets)), [f"{one.stated}\n{one.copies}x" for one in quiets])
    left.set(title="Quiet streams: alerts by window (line: stated)", xlabel="stated rate, times a story is told")
    for index, some in enumerate(surges):
        within = [sum(delay < most for delay in some.delays) / len(some.delays) for most in range(1, NEVER + 1)]
        style = ("-", "--", ":")[COPIES.index(some.copies)]
        label, color = f"{some.share}, {some.copies}x", f"C{index % len(JUMPS)}"
        right.plot(range(1, NEVER + 1), within, style, color=color, label=label)
    right.set(title=f"Negative share from {SHARE} to ...: alert raised", ylim=(0, 1.02))
    right.set_xlabel("within so many windows")
    right.xaxis.get_major_locator().set_params(integer=True)
    right.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file, dpi=120)


def main() -> None:
    """Simulate, print, and draw."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--streams", type=int, default=1000, metavar="N", help="of each kind (default: 1000)")
    p.add_argument("--history", type=int, default=48, metavar="N", help="quiet windows to compare with (default: 48)")
    p.add_argument("--out", type=Path, metavar="DIR", help="leave alarms.png there")
    options = p.parse_args()
    quiets = [quiet(options.streams, stated, copies, options.history) for stated in STATED for copies in COPIES]
    print("quiet streams: alerts by judged window\n  stated  told, x    judged  alerts      rate [95 %]")
    print(*quiets, sep="\n")
    fewer = max(1, options.streams // 5)
    surges = [surged(fewer, 0.001, copies, share, options.history) for copies in COPIES for share in JUMPS]
    print(f"\na share of {SHARE} jumps; alerts at 0.001: % of {fewer} told within 1, 2, 4, 8 windows, ever; median")
    print("   share  told, x      1      2      4      8    ever  median")
    print(*surges, sep="\n")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        plot(quiets, surges, options.out / "alarms.png")


if __name__ == "__main__":
    main()
