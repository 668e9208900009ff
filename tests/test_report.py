"""The report: in both languages, every answer beside its reference, and in a browser as people look at it."""

import ast
import json
import re
import shutil
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tiny import metric_info, run_record, tiny_results
from workbench.compare import compare_methods, conclude, table, write_report
from workbench.compare.answers import MISSING, MORE, SAME, differences, questions
from workbench.compare.chinese import CHINESE
from workbench.compare.language import say, written_in
from workbench.compare.matrix import matrix
from workbench.evaluation import Prediction, find_metrics, score_all
from workbench.results import Results

COMPARE = Path(__file__).parent.parent / "workbench" / "compare"
# As many as there are; their points lie so near to each other that names beside them would overlap.
METHODS = ("untuned", "lora", "rslora", "dora", "adalora", "ia3", "houlsby", "pfeiffer", "parallel", "prefix", "prompt")


def texts_said() -> set[str]:
    """All that the code and the page say."""
    found = set()
    for path in COMPARE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "say":
                found |= {node.args[0].value} if isinstance(node.args[0], ast.Constant) else set()
    page = (COMPARE / "report.html.jinja").read_text(encoding="utf-8")
    return found | set(re.findall(r'say\("((?:[^"\\]|\\.)*)"', page))


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_text_has_a_translation_with_the_same_places() -> None:
    said = texts_said()
    assert len(said) > 150
    assert not said - CHINESE.keys()
    assert not {text for text, told in CHINESE.items() if places(text) != places(told)}


def test_the_language_ends_with_its_block() -> None:
    with written_in("zh"):
        assert say("method") == "方法"
    assert say("method") == "method"


@given(some.text("ab ,.你好", max_size=30), some.text("ab ,.你好", max_size=30))
def test_what_differs_makes_both_texts(text: str, reference: str) -> None:
    parts = differences(text, reference)
    assert "".join(part for kind, part in parts if kind != MISSING) == text
    assert "".join(part for kind, part in parts if kind != MORE) == reference


def test_differences_are_told_by_words() -> None:
    parts = differences("A transfer costs 5 euros today.", "A transfer costs 4 euros today.")
    assert parts == [(SAME, "A transfer costs "), (MORE, "5"), (MISSING, "4"), (SAME, " euros today.")]
    assert differences("转账需要五天", "转账需要四天") == [
        (SAME, "转账需要"),
        (MORE, "五"),
        (MISSING, "四"),
        (SAME, "天"),
    ]


def answers(method: str, right: int, count: int = 40) -> list[Prediction]:
    said = [f"It costs {n}." if n % 10 < right else f"It costs {n} or so, {method} thinks." for n in range(count)]
    return [
        Prediction(
            id=f"q{n}", split="test", prompt=f"What does number {n} cost? <script>", reference=f"It costs {n}.",
            prediction=text, nll=3.0, tokens=4, source="",
        )
        for n, text in enumerate(said)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def results() -> Results:
    """Of eleven methods that lie as near to each other as methods do."""
    metrics = find_metrics(["bleu", "figures"])
    given = {method: answers(method, min(9, 3 + number)) for number, method in enumerate(METHODS)}
    runs = [
        run_record(
            method,
            score_all(metrics, given[method], ()),
            trainable_parameters=6_270_000 + 1000 * number,
            train_seconds=172.0 + number,
            adapter_bytes=25_000_000 + number,
            peak_memory_bytes=3_400_000_000 + number,
            curve=[{"step": s, k: 2.0 - s / 100} for s in (1, 50, 100) for k in ("loss", "validation_loss")],
        )
        for number, method in enumerate(METHODS)
    ]
    return tiny_results(
        runs=runs,
        metrics={"bleu": metric_info("BLEU"), "figures": metric_info("right figures")},
        comparisons=compare_methods(metrics[0], "test", {name: [some] for name, some in given.items()}),
    )


@pytest.fixture(scope="module")
def page(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    given = {method: answers(method, min(9, 3 + number)) for number, method in enumerate(METHODS)}
    write_report(folder, results, given, "Eleven methods.", find_metrics(["bleu", "figures"]))
    return folder / "report.html"


def test_a_report_in_chinese(results: Results, tmp_path: Path) -> None:
    write_report(tmp_path, results, {"lora": answers("lora", 3)}, "A job.", find_metrics(["bleu"]), "zh")
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "以 95 % 的置信度" in text
        assert "lora" in text
    assert '<html lang="zh">' in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Comparison" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert conclude(results).startswith("Best by BLEU on test")  # the language of one report is not that of the next
    assert table(results).startswith("| method")


def test_questions_have_the_score_of_each_answer() -> None:
    given = {"lora": answers("lora", 3), "dora": answers("dora", 9)}
    found = questions(given, find_metrics(["figures", "bleu", "accuracy"]))
    assert [one.id for one in found] == [f"q{n}" for n in range(40)]
    right, wrong = found[1], found[5]
    assert right.scores["figures"] == {"lora": 100.0, "dora": 100.0}
    assert wrong.scores["bleu"]["dora"] == 100.0 > wrong.scores["bleu"]["lora"]
    assert "accuracy" not in right.scores  # nothing was chosen
    assert [part for kind, part in wrong.answers[0].parts if kind == MORE] == [" or so, lora thinks"]
    short = {"lora": answers("lora", 3)[:5], "dora": answers("dora", 9)}
    assert [one.id for one in questions(short, ())] == [f"q{n}" for n in range(5)]


def test_the_matrix_tells_each_pair_from_both_sides(results: Results) -> None:
    found = dict(matrix(results))
    names = list(found)
    assert names == list(METHODS)
    for row in names:
        for column, cell in zip(names, found[row], strict=True):
            other = found[column][names.index(row)]
            if row == column:
                assert cell.text == ""
            else:
                assert float(cell.text) == -float(other.text)
                assert {cell.kind, other.kind} in ({"better", "worse"}, {"luck"})
    assert found["parallel"][0].kind == "better"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium, where it is installed."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("apt-get install chromium chromium-driver")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    with Chrome(options=options, service=Service(str(shutil.which("chromedriver")))) as opened:
        yield opened


def look(browser: Any, page: Path, width: int, dark: bool = False) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    browser.get(page.as_uri())


@pytest.mark.parametrize("width", [390, 800, 1600])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_every_screen(browser: Any, page: Path, width: int, dark: bool) -> None:
    look(browser, page, width, dark)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    colours = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    ink, paper = (sum(map(int, re.findall(r"\d+", one)[:3])) for one in browser.execute_script(colours))
    assert (paper < ink) == dark
    assert abs(paper - ink) > 400
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    # No question's text is code, and nothing is fetched.
    assert browser.execute_script("return document.querySelectorAll('article script').length") == 0
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


OVERLAPS = """
const found = [], apart = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) < 1
  || Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) < 2;
for (const picture of document.querySelectorAll("svg")) {
  const texts = [...picture.querySelectorAll("text")].filter(one => one.textContent.trim());
  const boxes = texts.map(one => one.getBoundingClientRect());
  for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++)
    if (!apart(boxes[i], boxes[j])) found.push([texts[i].textContent, texts[j].textContent]);
}
return found;
"""


def test_no_label_of_a_picture_lies_over_another(browser: Any, page: Path) -> None:
    look(browser, page, 1300)
    assert browser.execute_script(OVERLAPS) == []
    named = browser.execute_script("return [...document.querySelectorAll('svg text')].map(t => t.textContent.trim())")
    assert set(METHODS) <= set(named)


def test_answers_are_searched_sorted_and_compared_by_keyboard(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    look(browser, page, 1300)

    def shown() -> list[str]:
        found = browser.find_elements(By.TAG_NAME, "article")
        return [one.find_element(By.CLASS_NAME, "soft").text.split()[-1] for one in found if one.is_displayed()]

    assert shown() == [f"q{n}" for n in range(40)]
    search = browser.find_element(By.ID, "search")
    search.send_keys("number 17")
    assert shown() == ["q17"]
    assert browser.find_element(By.ID, "found").text == "1"
    search.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.get_attribute("id") == "order"
    search.clear()
    search.send_keys(" ", Keys.BACKSPACE)
    Select(browser.find_element(By.ID, "order")).select_by_value("worst")
    Select(browser.find_element(By.ID, "method")).select_by_visible_text("untuned")
    assert int(shown()[0][1:]) % 10 >= 3  # what untuned got wrong
    assert int(shown()[-1][1:]) % 10 < 3
    browser.find_element(By.ID, "differ").click()
    assert {int(name[1:]) % 10 >= 3 for name in shown()} == {True}  # the others all answered alike
    marked = browser.find_elements(By.CSS_SELECTOR, "#list ins")
    clear = marked[0].value_of_css_property("background-color")
    browser.find_element(By.ID, "diff").click()
    assert marked[0].value_of_css_property("background-color") != clear
    scores = json.loads(browser.find_elements(By.TAG_NAME, "article")[0].get_attribute("data-scores"))
    assert scores.keys() == {"bleu", "figures"}
