"""The watch: false alarms as stated, surges found, nothing lost or repeated when it is killed."""

import errno
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, fisher_exact

from tiny import recipe_text, write_rows
from watching import HOUR, asked, told, watch_in, watch_of
from workbench import Monitoring, Recipe
from workbench.errors import UserError
from workbench.monitor import stream as stream_module
from workbench.monitor import texts as texts_module
from workbench.monitor import watch as watch_module
from workbench.monitor.__main__ import main
from workbench.monitor.counted import what_is_counted
from workbench.monitor.session import _as_json
from workbench.monitor.stream import Line, Spool, batches
from workbench.monitor.surge import Surges, overdispersion, surge_p_value
from workbench.monitor.watch import ITEMS, REJECTED
from workbench.run.__main__ import main as run


def test_the_p_value_is_fishers() -> None:
    history = [(20, 6)] * 10  # no more spread than binomial counts have
    table = [[9, 11], [60, 140]]
    assert surge_p_value(20, 9, history) == pytest.approx(fisher_exact(table, alternative="greater").pvalue)


def test_texts_in_clusters_are_known_by_their_spread() -> None:
    random = np.random.default_rng(0)
    single = [(20, int(random.binomial(20, 0.3))) for _ in range(400)]
    fourfold = [(20, 4 * int(random.binomial(5, 0.3))) for _ in range(400)]
    assert overdispersion(single) < 1.2
    assert 3 < overdispersion(fourfold) < 5
    # What would be a surge of single texts is none where each story is told four times.
    assert surge_p_value(20, 13, single[:48]) < 0.02
    assert surge_p_value(20, 13, fourfold[:48]) > 0.05


def simulated(streams: int, windows: int, false_alarms: float, copies: int, history: int) -> tuple[int, int]:
    """Alerts of quiet streams whose stories are told so many times, and windows that were judged."""
    random = np.random.default_rng(copies)
    alerts = judged = 0
    for _ in range(streams):
        share = random.uniform(0.1, 0.6)
        surges = Surges(false_alarms, history)
        for number in range(windows):
            stories = max(1, int(random.poisson(20 / copies)))
            found = surges.close(number * HOUR, copies * stories, copies * int(random.binomial(stories, share)))
            judged += found.p_value is not None
            alerts += found.window.surge
    return alerts, judged


@pytest.mark.parametrize(("stated", "history"), [(0.01, 8), (0.01, 48), (0.001, 12)])
@pytest.mark.parametrize("copies", [1, 2, 3])
def test_quiet_streams_raise_no_more_alerts_than_stated(stated: float, history: int, copies: int) -> None:
    alerts, judged = simulated(60, 50, stated, copies, history)
    assert judged > 2000
    assert alerts <= binom.ppf(0.999, judged, stated)


def test_a_surge_is_found_and_a_new_level_gets_usual() -> None:
    random = np.random.default_rng(1)
    delays, late = [], 0
    for _ in range(60):
        surges = Surges(0.001, history=48)
        found = [
            surges.close(n * HOUR, 20, int(random.binomial(20, 0.25 if n < 30 else 0.7))).window.surge
            for n in range(60)
        ]
        delays.append(found[30:].index(True))
        late += any(found[45:])
    assert np.median(delays) <= 1
    assert max(delays) <= 5
    assert late < 6


def line(number: int, seconds: float, **rest: Any) -> dict[str, Any]:
    return {"id": f"t{number}", "time": seconds, "text": f"text {number}", **rest}


def texts_of(windows: int, surge_at: int) -> list[dict[str, Any]]:
    """Ten texts an hour, two of them negative; in one hour nine."""
    return [
        line(10 * hour + k, hour * HOUR + k, says="negative" if k < (9 if hour == surge_at else 2) else "neutral")
        for hour in range(windows)
        for k in range(10)
    ]


def lines_of(rows: list[Any]) -> list[Line]:
    contents = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    ends = [int(end) for end in np.cumsum([len(content) + 1 for content in contents])]
    return [Line(content, end - len(content) - 1, end) for content, end in zip(contents, ends, strict=True)]


def test_alerts_name_the_window(tmp_path: Path) -> None:
    watch = watch_in(tmp_path)
    (alert,) = watch.take(lines_of(texts_of(20, surge_at=15)), asked, told)
    assert alert["from"] == "1970-01-01T15:00:00Z"
    assert (alert["texts"], alert["negative"], alert["share_before"]) == (10, 9, 0.2)
    assert alert["p_value"] < 0.001
    assert json.loads((tmp_path / "alerts.jsonl").read_text()) == alert
    assert watch.counts == {"items": 200, "rejected": 0, "repeated": 0, "late": 0, "alerts": 1}


def test_an_alert_does_nothing_to_a_terminal() -> None:
    shown = _as_json({"topic": "a\x1b[2J\x9b31m\x7f", "texts": 3})
    assert shown.isprintable()
    assert json.loads(shown) == {"topic": "a\x1b[2J\x9b31m\x7f", "texts": 3}


def test_a_topic_that_falls_silent_is_judged_all_the_same(tmp_path: Path) -> None:
    rows = [{**row, "topic": "fraud"} for row in texts_of(16, surge_at=15)]
    watch = watch_in(tmp_path)
    assert watch.take(lines_of(rows), asked, told) == []
    (alert,) = watch.take(lines_of([line(1000, 16 * HOUR, says="neutral", topic="mergers")]), asked, told)
    assert (alert["topic"], alert["from"]) == ("fraud", "1970-01-01T15:00:00Z")


def test_a_weak_surge_is_told_with_its_windows(tmp_path: Path) -> None:
    rows = [
        line(20 * hour + k, hour * HOUR + k, says="negative" if k < (4 if hour < 30 else 9) else "neutral")
        for hour in range(50)
        for k in range(20)
    ]
    alerts = watch_in(tmp_path).take(lines_of(rows), asked, told)
    first = alerts[0]
    assert first["texts"] > 20
    assert first["share"] == pytest.approx(first["negative"] / first["texts"], abs=1e-4)
    assert first["share_before"] == 0.2
    # No window is told of twice, and after six of them their share is the topic's level.
    assert all(one["to"] <= other["from"] for one, other in itertools.pairwise(alerts))
    assert sum(alert["texts"] for alert in alerts) == 20 * 6
    assert [alert["new_level"] for alert in alerts] == [False, False, True]
    assert alerts[2]["share_before"] == 0.2


def test_what_a_surge_was_is_forgotten_when_it_is_over() -> None:
    surges = Surges(0.01, history=48)
    for number in range(20):
        surges.close(number * HOUR, 20, 4)
    assert surges.close(20 * HOUR, 20, 18).window.surge
    after = [surges.close((21 + number) * HOUR, 20, 4) for number in range(8)]
    assert not any(judged.window.surge for judged in after)
    assert surges.surge == []
    assert sum(window.negative for window in surges.quiet) == 4 * len(surges.quiet)


def test_what_comes_again_is_not_counted_again(tmp_path: Path) -> None:
    rows = [line(n, n, says="neutral") for n in range(5)]
    watch = watch_in(tmp_path)
    watch.take(lines_of([*rows, rows[2]]), asked, told)
    again = watch_in(tmp_path)
    again.take(lines_of([rows[4], line(9, 9, says="neutral")]), asked, told)
    assert (again.counts["items"], again.counts["repeated"]) == (6, 2)
    assert [json.loads(row)["id"] for row in (tmp_path / ITEMS).open()] == ["t0", "t1", "t2", "t3", "t4", "t9"]


def test_what_came_again_is_known_after_a_restart_however_long_ids_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "RECENT", 300)
    monkeypatch.setattr(watch_module, "BLOCK_BYTES", 1000)
    rows = [{**line(n, n, says="neutral"), "id": f"{n:0200}"} for n in range(400)]
    watch_in(tmp_path).take(lines_of(rows), asked, told)
    again = watch_in(tmp_path)
    again.take(lines_of(rows[100:]), asked, told)
    assert (again.counts["items"], again.counts["repeated"]) == (400, 300)
    again.take(lines_of(rows[99:100]), asked, told)  # beyond what is remembered
    assert again.counts["items"] == 401


def test_an_output_that_was_shortened_is_told(tmp_path: Path) -> None:
    watch_in(tmp_path).take(lines_of(texts_of(1, -1)), asked, told)
    (tmp_path / ITEMS).write_text("")
    with pytest.raises(UserError, match="has been shortened"):
        watch_in(tmp_path)


@pytest.mark.parametrize("name", ["state.json", ITEMS])
@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"settings": 7}', "[" * 100_000])
def test_damaged_files_of_a_watch_are_told(tmp_path: Path, name: str, content: str) -> None:
    watch_in(tmp_path).take(lines_of(texts_of(1, -1)), asked, told)
    size = (tmp_path / name).stat().st_size
    (tmp_path / name).write_text(content + "\n" * max(0, size - len(content)))
    with pytest.raises(UserError, match=f"{name}.*(is not what the watch left|has been shortened)"):
        watch_in(tmp_path)


def test_what_is_no_text_is_left_out_with_its_reason(tmp_path: Path) -> None:
    rows = [
        b"{", b"[1]", {"id": "1", "text": "x"}, line(1, 0, says="neutral", bad=1), {**line(2, 0), "time": "yesterday"},
        line(5, 1769850000000), line(6, 10**400), line(7, 4102444800), {**line(8, 0), "text": 123},
        b'{"id": "\\ud83d", "time": 1, "text": "x"}', b"[" * 100_000, {**line(9, 0), "id": "9" * 257},
        b'{"id": NaN, "time": 1, "text": "x"}', {**line(10, 0), "time": "0001-01-01T00:00:00+14:00"},
        {**line(11, 0), "time": "1969-12-31T23:59:59Z"}, line(12, time.time() + 3600), line(13, -1),
        b"", line(3, 0, says="neutral"), {**line(4, 0, says="neutral"), "time": "2026-01-31T09:00:00+01:00"},
    ]  # fmt: skip
    watch_in(tmp_path).take(lines_of(rows), asked, told)
    reasons = [json.loads(row)["reason"] for row in (tmp_path / REJECTED).open()]
    expected = (
        "not JSON", "not list", "no time", "no firm", "yesterday", "milliseconds", "neither seconds", "in the future",
        "text must be a string", "surrogates not allowed", "recursion", "more than 256 bytes", "no number",
        "before 1970", "before 1970", "in the future", "neither seconds",
    )  # fmt: skip
    for reason, part in zip(reasons, expected, strict=True):
        assert part in reason
    items = [json.loads(row) for row in (tmp_path / ITEMS).open()]
    assert [item["time"] for item in items] == ["1970-01-01T00:00:00Z", "2026-01-31T08:00:00Z"]


def test_times_may_be_numbers_as_texts(tmp_path: Path) -> None:
    times = ["1769850000", 1769850000, "1769850000.5", "20260131", "1701010101234"]
    rows = [{**line(n, 0, says="neutral"), "time": time} for n, time in enumerate(times)]
    watch_in(tmp_path).take(lines_of(rows), asked, told)
    items = [json.loads(row)["time"] for row in (tmp_path / ITEMS).open()]
    same = "2026-01-31T09:00:00Z"
    assert items == [same, same, "2026-01-31T09:00:00.500000Z", "2026-01-31T00:00:00Z"]
    (rejected,) = [json.loads(row)["reason"] for row in (tmp_path / REJECTED).open()]
    assert "'1701010101234'" in rejected
    assert "milliseconds" in rejected


def test_a_late_text_counts_where_it_arrives(tmp_path: Path) -> None:
    watch = watch_in(tmp_path)
    watch.take(lines_of([line(n, at * HOUR, says="neutral") for n, at in enumerate((0, 1, 0, 1))]), asked, told)
    assert (watch.topics["all"].texts, watch.counts["late"]) == (3, 1)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    watch_in(tmp_path).take(lines_of(texts_of(1, -1)), asked, told)
    with pytest.raises(UserError, match=r"was begun with stream posts, window seconds 3600\.0: give the same"):
        watch_of(tmp_path, stream="b", window_seconds=60).resume()
    with pytest.raises(UserError, match=r"was begun with task sentiment, label negative: give the same"):
        watch_of(tmp_path, monitoring=Monitoring(task="tone", label="angry")).resume()


def test_a_watch_that_version_0_1_began_goes_on(tmp_path: Path) -> None:
    watch_in(tmp_path).take(lines_of(texts_of(1, -1)), asked, told)
    file = tmp_path / "state.json"
    state = json.loads(file.read_text())
    assert (state["settings"].pop("task"), state["settings"].pop("label")) == ("sentiment", "negative")
    file.write_text(json.dumps({**state, "settings": {**state["settings"], "negative": "negative"}}))
    assert watch_in(tmp_path).counts["items"] == 10
    with pytest.raises(UserError, match=r"was begun with label negative: give the same"):
        watch_of(tmp_path, monitoring=Monitoring(task="sentiment", label="positive")).resume()


def test_half_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(b"1\n2")
    done = threading.Event()
    reading = batches(path, None, 10, done)
    assert [part.content for part in next(reading)] == [b"1"]
    with path.open("ab") as file:
        file.write(b"2\n333")
    assert [part.content for part in next(reading)] == [b"22"]
    done.set()
    (last,) = next(reading)
    assert (last.content, last.start, last.end) == (b"333", 5, 8)
    assert list(reading) == []
    path.write_bytes(b'1\n{"id')  # without following, the rest is left for the next time
    assert [[part.content for part in found] for found in batches(path, None, 10)] == [[b"1"]]


def contents(found: Any) -> list[bytes]:
    return [one.content for one in found]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "QUIET_SECONDS", 0.5)
    monkeypatch.setattr(stream_module, "POLL_SECONDS", 0.02)


@pytest.mark.usefixtures("soon")
def test_a_file_that_is_rotated_or_cut_off_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(b"1\n2\n")
    done, said = threading.Event(), list[str]()
    reading = batches(path, None, 10, done, said.append)
    assert contents(next(reading)) == [b"1", b"2"]
    path.rename(tmp_path / "stream.1")
    path.write_bytes(b"3\n4\n5\n")
    assert contents(next(reading)) == [b"3", b"4", b"5"]
    assert said == []
    path.write_bytes(b"6\n")
    (last,) = next(reading)
    assert (last.content, last.start) == (b"6", 0)
    assert "whether lines were lost before can't be known" in said[0]
    done.set()
    assert list(reading) == []


@pytest.mark.parametrize("names", [("stream.2", "stream.1"), ("stream-20260130", "stream-20260131")])
def test_files_that_were_rotated_while_nobody_read_are_read_in_their_order(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    path, numbers = tmp_path / "stream", [f"{n}".encode() for n in range(300)]
    path.write_bytes(b"".join(n + b"\n" for n in numbers[:100]))
    reading = batches(path, None, 40)
    first = next(reading)
    older, newer = (tmp_path / name for name in names)
    path.rename(older)
    newer.write_bytes(b"".join(n + b"\n" for n in numbers[100:200])[:-1])  # nobody will end its last line
    path.write_bytes(b"".join(n + b"\n" for n in numbers[200:]))
    (tmp_path / "stream.bak").write_bytes(b"no part of it\n")
    after_a_restart = batches(path, first[-1].place, 40)
    assert contents(first) + [c for found in after_a_restart for c in contents(found)] == numbers


@pytest.mark.usefixtures("soon")
def test_two_rotations_during_one_batch_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(b"1\n2\n3\n4\n")
    done = threading.Event()
    reading = batches(path, None, 2, done)
    found = contents(next(reading))
    path.rename(tmp_path / "stream.2")
    (tmp_path / "stream.1").write_bytes(b"5\n6\n")
    path.write_bytes(b"7\n")
    while len(found) < 7:
        found += contents(next(reading))
    assert found == [b"1", b"2", b"3", b"4", b"5", b"6", b"7"]


@pytest.mark.usefixtures("soon")
def test_a_writer_that_goes_on_in_the_renamed_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    done = threading.Event()
    with path.open("wb", buffering=0) as writer:
        writer.write(b"1\n")
        reading = batches(path, None, 2, done)
        assert contents(next(reading)) == [b"1"]
        path.rename(tmp_path / "stream.1")
        path.touch()
        writer.write(b"2\n")
        assert contents(next(reading)) == [b"2"]
        path.write_bytes(b"4\n")
        threading.Timer(0.2, writer.write, [b"3"]).start()  # its end never comes
        assert contents(next(reading)) == [b"3"]
    assert contents(next(reading)) == [b"4"]


@pytest.mark.usefixtures("soon")
def test_a_file_that_was_copied_and_cut_off_and_has_grown_again_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(b"11\n22\n")
    done, said = threading.Event(), list[str]()
    reading = batches(path, None, 2, done, said.append)
    assert contents(next(reading)) == [b"11", b"22"]
    (tmp_path / "stream.1").write_bytes(b"11\n22\n33\n")
    path.write_bytes(b"44\n55\n66\n77\n")
    found = [content for _ in range(3) for content in contents(next(reading))]
    assert found == [b"33", b"44", b"55", b"66", b"77"]
    assert said == []


def test_the_rest_of_a_line_that_is_too_long_is_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (stream_module, texts_module):
        monkeypatch.setattr(module, "MOST_BYTES", 100)
    whole = json.dumps(line(2, 2, says="neutral")).encode()
    path = tmp_path / "stream"
    path.write_bytes(b"x" * 100 + whole + b"\n" + whole + b"\n")
    watch = watch_in(tmp_path / "out")
    for found in batches(path, None, 1):
        watch.take(found, asked, told)
    assert (watch.counts["items"], watch.counts["rejected"]) == (1, 1)
    assert "more than 100 are not read" in (tmp_path / "out" / REJECTED).read_text()
    spool = Spool(io.BytesIO(b"x" * 250), tmp_path / "spool", dealt_with=0)
    assert spool.done.wait(10)
    assert (tmp_path / "spool").read_bytes() == b"x" * 250 + b"\n"


def test_a_pipe_is_spooled_and_its_failure_told(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    path.write_bytes(b"old\nhalf")
    spool = Spool(io.BytesIO(b"new\nlast"), path, dealt_with=4)
    assert spool.done.wait(10)
    assert path.read_bytes() == b"old\nnew\nlast\n"
    assert spool.error is None

    class Broken(io.BytesIO):
        def readline(self, *_: Any) -> bytes:
            raise OSError(errno.ENOSPC, "No space left on device")

    broken = Spool(Broken(), path, dealt_with=0)
    assert broken.done.wait(10)
    assert broken.error is not None


KILLED = """
import sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}]
from watching import asked, told, watch_in
from workbench.monitor.stream import batches

def slowly(texts):
    time.sleep(0.004)
    return told(texts)

state = watch_in(Path(sys.argv[2]))
for lines in batches(Path(sys.argv[1]), state.last, 7):
    state.take(lines, asked, slowly)
"""


KILLS = 2


def test_killed_at_random_nothing_is_lost_or_repeated(tmp_path: Path) -> None:
    stream, whole, killed = tmp_path / "stream.jsonl", tmp_path / "whole", tmp_path / "killed"
    rows: list[Any] = texts_of(150, surge_at=120)
    rows[333] = {"id": "no text"}
    write_rows(stream, rows)
    script = tmp_path / "watching.py"
    script.write_text(KILLED.format(tests=str(Path(__file__).parent)))

    def start(folder: Path) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, str(script), str(stream), str(folder)])

    assert start(whole).wait() == 0
    random = np.random.default_rng(5)
    kills = 0
    while True:
        process = start(killed)
        if kills == KILLS:
            assert process.wait() == 0
            break
        deadline = time.monotonic() + 60
        while not (killed / "state.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        before = (killed / "state.json").stat().st_mtime_ns
        while (killed / "state.json").stat().st_mtime_ns == before and process.poll() is None:
            time.sleep(0.002)
        time.sleep(float(random.uniform(0, 0.5)))
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills == KILLS  # it did not end before
    for name in ("items.jsonl", "alerts.jsonl", "rejected.jsonl"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert len((whole / "items.jsonl").read_text().splitlines()) == 1499
    assert json.loads((whole / "alerts.jsonl").read_text())["from"] == "1970-01-06T00:00:00Z"


def recipe_with(**fields: Any) -> Recipe:
    return Recipe(
        checkpoint="gpt2", data={"train": "a", "validation": "b", "test": "c"}, row_to_examples=lambda row: [],
        methods=("lora",), metrics=("macro_f1",), primary_metric="macro_f1", **fields,
    )  # fmt: skip


def test_the_recipe_says_what_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    tone = Monitoring(task="tone", label="angry", topic_task="product")
    recipe = recipe_with(monitoring=tone, inference_examples=asked)
    assert what_is_counted(recipe, {"tone", "product"}, Path("r.py")) is tone
    assert not caplog.records
    with pytest.raises(UserError, match=r"r\.py: monitoring has topic_task='product'; tasks .*: 'sentiment', 'tone'\."):
        what_is_counted(recipe, {"tone", "sentiment"}, Path("r.py"))


def test_a_recipe_of_version_0_1_is_still_watched(caplog: pytest.LogCaptureFixture) -> None:
    former = recipe_with(inference_examples=asked)
    for tasks, line in (
        ({"sentiment"}, 'write monitoring=Monitoring(task="sentiment", label="negative") there'),
        ({"sentiment", "topic"}, 'write monitoring=Monitoring(task="sentiment", label="negative", topic_task="topic")'),
    ):
        caplog.clear()
        found = what_is_counted(former, tasks, Path("r.py"))
        assert found == Monitoring(task="sentiment", label="negative", topic_task="topic")
        assert line in caplog.text


@pytest.mark.parametrize(
    ("fields", "tasks", "message"),
    [
        ({"inference_examples": asked}, {"tone"}, r"to its recipe .* chooses: 'tone'$"),
        ({"inference_examples": asked}, set(), "chooses: none$"),
        ({}, {"sentiment"}, "and inference_examples, which say how a new text is asked, to its recipe"),
    ],
)
def test_a_recipe_that_says_nothing_is_told_what_to_add(fields: Any, tasks: set[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        what_is_counted(recipe_with(**fields), tasks, Path("r.py"))
    assert "r.py does not say what is counted: add monitoring=Monitoring(" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_monitoring_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"(?s)2 problems.*label is empty.*topic_task 'tone' must be another task"):
        Monitoring(task="tone", label="", topic_task="tone")
    with pytest.raises(UserError, match="monitoring needs inference_examples"):
        recipe_with(monitoring=Monitoring(task="tone", label="angry"))


RECIPE = """
from workbench import Monitoring
from workbench.data import choice
from dataclasses import replace

def tone(row, answer=None):
    return choice(row, row["text"] + row["firm"], ("angry", "calm", "glad"), answer, task="tone")

def product(row, answer=None):
    return choice(row, row["text"] + row["firm"], ("card", "loan"), answer, task="product")

recipe = replace(recipe, data={s: recipe.data[s] for s in ("train", "validation", "test")},
    row_to_examples=lambda row: [tone(row, row["tone"]), product(row, row["product"])],
    inference_examples=lambda row: [tone(row), product(row)], metrics=("macro_f1",), primary_metric="macro_f1",
    monitoring=Monitoring(task="tone", label="angry", topic_task="product"))
"""


@pytest.fixture
def opinion_run(checkpoint: Path, tmp_path: Path) -> Path:
    """A finished run of a recipe that asks for tones and products."""
    for split in ("train", "validation", "test"):
        rows = [
            {
                "id": f"{split}{n}",
                "text": f"{split} {n}",
                "firm": "A",
                "tone": ("angry", "calm", "glad")[n % 3],
                "product": ("card", "loan")[n % 2],
            }
            for n in range(12)
        ]
        write_rows(tmp_path / f"{split}.jsonl", rows)
    path = tmp_path / "watched.py"
    path.write_text(recipe_text(checkpoint, tmp_path) + RECIPE)
    assert run([str(path), "--methods", "lora", "--bits", "32", "--out", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def test_a_run_watches_a_file_that_grows(opinion_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line(n, n * 600, firm="Larkmoor") for n in range(40)]
    rows[5].pop("firm")
    stream, half = tmp_path / "posts.jsonl", tmp_path / "half.jsonl"
    write_rows(stream, rows)
    assert main([str(opinion_run), str(stream), "--out", str(tmp_path / "once")]) == 0
    write_rows(half, rows[:21])
    arguments = [str(opinion_run), str(half), "--out", str(tmp_path / "twice"), "--batch", "4"]
    assert main(arguments) == 0
    write_rows(half, rows)
    capsys.readouterr()
    assert main(arguments) == 0
    assert "39 texts, 1 lines left out" in capsys.readouterr().err
    once, twice = ((tmp_path / name / ITEMS).read_text() for name in ("once", "twice"))
    assert [json.loads(r)["id"] for r in once.splitlines()] == [r["id"] for r in rows if "firm" in r]
    assert [json.loads(r)["sentiment"] for r in twice.splitlines()] == [
        json.loads(r)["sentiment"] for r in once.splitlines()
    ]
    items = [json.loads(item) for item in once.splitlines()]
    assert {item["topic"] for item in items} <= {"card", "loan"}
    assert {item["sentiment"] for item in items} <= {"angry", "calm", "glad"}
    for item in items:
        assert list(item) == ["id", "time", "topic", "sentiment", "probability_negative"]
        assert item["probability_negative"] <= 1
        assert item["sentiment"] != "angry" or item["probability_negative"] >= 1 / 3
    page = (tmp_path / "twice" / "trend.html").read_text()
    assert "39 texts" in page
    assert "Share of angry texts" in page
    assert "negative" not in page
    assert "<svg" in page
    for wrong, message in (
        (["nothing.jsonl"], "no stream at"),
        ([str(half), "--history", "2"], "at least 8"),
        ([str(half), "--method", "prefix"], "unknown method of this run"),
        ([str(half), "--out", str(tmp_path / "twice"), "--window", "1d"], "was begun with window seconds"),
    ):
        assert main([str(opinion_run), *wrong]) == 2
        assert message in capsys.readouterr().err
