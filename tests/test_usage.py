"""What was used of the machine, and by whom: a time is worth what the machine did meanwhile."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tiny import metric_info, run_record, tiny_results
from workbench.compare.entries import disturbance, disturbed_text, entries
from workbench.compare.report import usage_table
from workbench.compare.tables import head, rows
from workbench.results import Results, Score, Usage
from workbench.run import usage
from workbench.run.usage import Energy, Meter, product_seconds

BUSY = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end:\n    pass"


def work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_own_work_and_that_of_others_are_told_apart() -> None:
    meter = Meter()
    work(0.5)
    own = meter.read()
    assert own.processor_seconds >= 0.45
    assert own.processor_seconds <= own.seconds * 1.5
    meter = Meter()
    with subprocess.Popen([sys.executable, "-c", BUSY.format(1.0)]) as other:
        while other.poll() is None:
            time.sleep(0.02)
        shared = meter.read()
    # It was waited for: from then on it is this program's own.
    assert shared.processor_seconds >= 0.9 or shared.others * shared.seconds >= 0.9
    with subprocess.Popen([sys.executable, "-c", BUSY.format(30)]) as other:
        time.sleep(0.2)
        meter = Meter()
        time.sleep(1.0)
        beside = meter.read()
        other.kill()
    assert beside.others > 0.3
    assert beside.processor_seconds < 0.3


def test_energy_is_summed_over_packages_and_over_counters_that_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "POWERCAP", tmp_path)
    assert Energy().joules is None
    assert Meter().read().joules is None

    def count(**values: int) -> None:
        for name, value in values.items():
            domain = tmp_path / name.replace("_", ":").replace("intel:rapl", "intel-rapl")
            domain.mkdir(exist_ok=True)
            (domain / "energy_uj").write_text(f"{value}\n")
            (domain / "max_energy_range_uj").write_text("10000000\n")

    count(intel_rapl_0=1_000_000, intel_rapl_1=9_000_000, intel_rapl_0_0=5)
    energy = Energy()
    count(intel_rapl_0=3_000_000, intel_rapl_1=500_000, intel_rapl_0_0=9_999_999)
    energy.note()
    assert energy.joules == pytest.approx(2 + 1.5)
    count(intel_rapl_0=4_000_000)
    energy.note()
    assert energy.joules == pytest.approx(4.5)


def test_the_reference_product_takes_time() -> None:
    assert 0 < product_seconds() < 10


def used(others: float) -> Usage:
    return Usage(seconds=10.0, processor_seconds=20.0, others=others, joules=3600.0)


def results(*records: Any, threads: int = 2) -> Results:
    return tiny_results(
        headline="figures",
        metrics={"figures": metric_info("right figures")},
        environment={"cores": 2, "threads": threads},
        runs=list(records),
    )


def record(name: str, others: float = 0.0, products: tuple[float, float] = (0.01, 0.01), **more: Any) -> Any:
    score = Score(value=1, low=0, high=2)
    return run_record(name, {"figures[test]": score}, training_usage=used(others), product_seconds=products, **more)


def test_a_time_that_other_programs_made_longer_is_marked_and_the_reason_said() -> None:
    found = results(record("lora", others=1.1, train_seconds=188.0), record("parallel", train_seconds=23.0))
    told = {row[0]: row[head(found).index("seconds")] for row in rows(found)}
    assert told == {"lora": "188*", "parallel": "23"}
    assert "lora (other processes took 1.1 of 2 cores while it was trained)" in disturbed_text(found)
    (lora, parallel) = usage_table(found)
    assert lora[-1].startswith("other processes")
    assert parallel[-1] == "nothing"
    assert parallel[1] == "20 s, 0.0 of 2 cores"
    assert parallel[4] == "1.00 Wh"


def test_others_on_cores_that_are_not_used_disturb_nothing() -> None:
    assert not disturbance(results(alone := record("lora", others=1.0), threads=1), alone)


def test_a_machine_that_became_slower_is_told() -> None:
    found = results(record("lora"), slow := record("dora", products=(0.01, 0.02)))
    assert "2.0 times slower" in disturbance(found, slow)
    assert not disturbance(found, found.runs[0])


def test_means_over_seeds_are_of_those_that_nothing_disturbed() -> None:
    found = results(
        record("lora", seed=0, train_seconds=10.0),
        record("lora", seed=1, train_seconds=99.0, others=1.0),
        record("lora", seed=2, train_seconds=14.0),
    )
    (lora,) = entries(found)
    assert lora.train_seconds == 12.0
    assert disturbed_text(found) == ""
