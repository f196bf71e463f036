"""The page in a browser: it sorts, shows values, turns dark, prints, fits a phone, and asks nobody for anything.

Needs Chromium and its driver (Debian: chromium, chromium-driver); without them these tests are skipped.
"""

import base64
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from clbench.records.reading import RecordedRun
from clbench.records.samples import sample_strip
from clbench.reports import write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("chromium or chromedriver is not installed", allow_module_level=True)

MakeRuns = Callable[..., list[RecordedRun]]
RED, BLUE = (230, 10, 20), (10, 20, 230)
HOSTILE = "<img src=x onerror=document.title='run'>=1+1"


@pytest.fixture(scope="module")
def page(
    recorded_seeds: MakeRuns, counted: Callable[..., pd.DataFrame], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A report on five methods, one of which counts neurons and has sample images, and one has a hostile name."""
    rows = [
        (task, group, "neuron", 100, 90 - 10 * task, 10, 5 * task, 0.5, 0.1)
        for task in (1, 2)
        for group in ("layer_1", "layer_2")
    ]
    colours = torch.tensor([[RED, BLUE], [BLUE, RED]], dtype=torch.uint8)
    picture = sample_strip(colours[..., None, None].expand(-1, -1, -1, 8, 8))
    named = {"tasks": ["one", HOSTILE], "per_task": 2, "side": 8}
    clnp = recorded_seeds("clnp", 0.90, 0.91, 0.92, task_known_at_test=True, samples=named)
    capacity = counted(rows)
    runs = [
        *(replace(run, capacity=capacity, samples=picture) for run in clnp),
        *recorded_seeds("ewc", 0.80, 0.85, 0.83),
        *recorded_seeds("si", 0.07, 0.08, 0.09),
        *recorded_seeds("naive", 0.50, 0.5, 0.55),
        *recorded_seeds(HOSTILE, 0.60, 0.61, 0.63),
    ]
    (path,) = write_report(runs, "permuted-mnist", tmp_path_factory.mktemp("page"), formats=("html",))
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Any, page: str) -> Any:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    browser.get(page)
    return browser


METHODS_SHOWN = "return [...document.querySelectorAll('#table-results tbody tr')].map(row => row.cells[0].textContent)"


def heading(browser: Any, words: str) -> Any:
    return browser.find_element("xpath", f"//*[@id='table-results']//th[contains(., '{words}')]")


def test_it_loads_nothing_and_complains_of_nothing(opened: Any, page: str) -> None:
    asked = [
        json.loads(entry["message"])["message"]["params"]["request"]["url"]
        for entry in opened.get_log("performance")
        if '"Network.requestWillBeSent"' in entry["message"]
    ]
    assert {url for url in asked if not url.startswith("data:")} == {page}
    assert opened.get_log("browser") == []


def test_a_click_on_a_heading_sorts_by_the_number_and_another_turns_it(opened: Any) -> None:
    # As text, 8.00 would come after 60 and 80.
    by_accuracy = ["clnp", "ewc", HOSTILE, "naive", "si"]
    button = heading(opened, "Average accuracy").find_element("tag name", "button")
    button.click()
    assert opened.execute_script(METHODS_SHOWN) == by_accuracy
    assert heading(opened, "Average accuracy").get_attribute("aria-sort") == "descending"
    button.click()
    assert opened.execute_script(METHODS_SHOWN) == by_accuracy[::-1]
    assert heading(opened, "Average accuracy").get_attribute("aria-sort") == "ascending"


def test_a_table_can_be_sorted_from_the_keyboard(opened: Any) -> None:
    button = heading(opened, "Method").find_element("tag name", "button")
    opened.execute_script("arguments[0].focus()", button)
    webdriver.ActionChains(opened).send_keys("\ue007").perform()
    assert opened.execute_script(METHODS_SHOWN) == sorted(["clnp", "ewc", HOSTILE, "naive", "si"])


def test_pointing_at_a_drawing_shows_the_value_there(opened: Any) -> None:
    spots = opened.find_elements("css selector", "#figure-average-accuracy .spot")
    (last,) = [spot for spot in spots if spot.get_attribute("data-words") == "ewc, after 2 tasks: 82.67 %"][:1]
    webdriver.ActionChains(opened).move_to_element(last).perform()
    tip = opened.find_element("css selector", ".tip.shown")
    assert tip.text == "ewc, after 2 tasks: 82.67 %"
    box, marker = tip.rect, last.rect
    assert abs(box["y"] + box["height"] - marker["y"]) < 12
    # The spot lies on the line that is drawn: its height is that of 82.67 on the axis.
    # In the first panel; the close-up beside it has the leading methods again.
    heights: dict[str, float] = {}
    for spot in spots:
        heights.setdefault(spot.get_attribute("data-words").split(" ")[-2], spot.rect["y"])
    per_point = (heights["82.67"] - heights["91.00"]) / (91.00 - 82.67)
    assert heights["51.67"] - heights["82.67"] == pytest.approx(per_point * (82.67 - 51.67), rel=0.02)


def test_the_arrow_keys_walk_through_the_values_of_a_drawing(opened: Any) -> None:
    drawing = opened.find_element("css selector", "#figure-average-accuracy .drawing")
    opened.execute_script("arguments[0].focus()", drawing)
    seen = []
    for _ in range(2):
        webdriver.ActionChains(opened).send_keys("\ue014").perform()
        seen.append(opened.find_element("css selector", ".tip.shown").text)
    assert seen == ["clnp, after 1 task: 95.00 %", "clnp, after 2 tasks: 91.00 %"]
    webdriver.ActionChains(opened).send_keys("\ue00c").perform()
    assert opened.find_elements("css selector", ".tip.shown") == []


def test_a_hostile_name_is_text_and_runs_nothing(opened: Any) -> None:
    assert HOSTILE in opened.execute_script(METHODS_SHOWN)
    assert opened.title == "Permuted MNIST: clbench report"
    assert opened.find_elements("tag name", "img") == []
    # Not even a script that got into the page would run.
    script = "const s = document.createElement('script'); s.textContent = 'document.title = 1'; document.body.append(s)"
    opened.execute_script(script)
    assert opened.title == "Permuted MNIST: clbench report"


def luminance(colour: str) -> float:
    numbers = [float(part) for part in colour.strip("rgba()").split(",")[:3]]
    return 0.2126 * numbers[0] + 0.7152 * numbers[1] + 0.0722 * numbers[2]


INKS = (
    "const of = (element, what) => getComputedStyle(element)[what];"
    "return [of(document.body, 'backgroundColor'), of(document.body, 'color'),"
    " of(document.querySelector('#figure-average-accuracy svg g[id*=text] g'), 'fill')]"
)


def test_in_the_dark_page_and_drawings_are_dark(opened: Any) -> None:
    paper, ink, drawn = map(luminance, opened.execute_script(INKS))
    assert paper > 240
    assert max(ink, drawn) < 40
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    paper, ink, drawn = map(luminance, opened.execute_script(INKS))
    assert paper < 40
    assert min(ink, drawn) > 200
    # On paper it is light all the same.
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", **dark})
    assert luminance(opened.execute_script(INKS)[0]) > 240


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_sample_images_have_their_own_colours_and_between_them_is_the_page(opened: Any, scheme: str) -> None:
    features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
    drawn = opened.find_element("css selector", "#figure-samples svg image")
    picture = Image.open(io.BytesIO(drawn.screenshot_as_png)).convert("RGB")
    width, height = picture.size

    def colour(column: float, row: float) -> tuple[int, ...]:
        found = picture.getpixel((int(column * width), int(row * height)))
        assert isinstance(found, tuple)
        return found

    assert [colour(*place) for place in ((0.2, 0.2), (0.8, 0.2), (0.2, 0.8), (0.8, 0.8))] == [RED, BLUE, BLUE, RED]
    paper = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert colour(0.5, 0.5) == tuple(map(int, re.findall(r"\d+", paper)))


@pytest.mark.parametrize("width", [360, 400, 768, 1600])
def test_no_width_makes_the_page_scroll_sideways(opened: Any, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width


def test_on_a_phone_the_first_figure_fits_and_methods_and_accuracies_are_in_sight(opened: Any) -> None:
    metrics = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    drawings = opened.find_elements("css selector", "#figure-average-accuracy .drawing")
    (drawing,) = [found for found in drawings if found.is_displayed()]
    assert opened.execute_script("return arguments[0].scrollWidth <= arguments[0].clientWidth", drawing)
    # As large as the text around it.
    width = opened.execute_script("return arguments[0].querySelector('svg').viewBox.baseVal.width", drawing)
    assert drawing.find_element("css selector", "svg").rect["width"] > 1.2 * width
    accuracy = heading(opened, "Average accuracy").rect
    assert accuracy["x"] + accuracy["width"] < 400


def test_without_script_the_page_holds_the_same_tables_and_the_browsers_own_titles(browser: Any, page: str) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(page)
    html = browser.execute_cdp_cmd("DOM.getOuterHTML", {"backendNodeId": _root(browser)})["outerHTML"]
    assert "<title>ewc, after 2 tasks: 82.67 %</title>" in html
    assert "<button" not in html
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def _root(browser: Any) -> int:
    return int(browser.execute_cdp_cmd("DOM.getDocument", {"depth": 0})["root"]["backendNodeId"])


def test_printed_and_in_the_pdf_a_long_table_repeats_its_head_on_every_page(
    browser: Any, recorded_run: Callable[..., RecordedRun], tmp_path: Path
) -> None:
    program = shutil.which("pdftotext")
    if program is None:
        pytest.skip("pdftotext is not installed")
    runs = [recorded_run("ewc", seed, run_id=f"run-number-{seed}") for seed in range(90)]
    html, pdf = write_report(runs, "permuted-mnist", tmp_path, formats=("html", "pdf"))
    browser.get(html.as_uri())
    content = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})["data"]
    (tmp_path / "printed.pdf").write_bytes(base64.b64decode(content))
    for path in (tmp_path / "printed.pdf", pdf):
        done = subprocess.run([program, "-layout", str(path), "-"], capture_output=True, text=True, check=True)
        pages = [page for page in done.stdout.split("\f") if page.count("run-number-") > 3]
        assert len(pages) > 1
        assert all("Started (UTC)" in " ".join(page.split()) for page in pages)


def test_no_page_of_the_pdf_but_the_last_is_half_empty(recorded_seeds: MakeRuns, tmp_path: Path) -> None:
    program = shutil.which("pdftoppm")
    if program is None:
        pytest.skip("pdftoppm is not installed")
    methods = ("clnp", "ewc", "si", "naive", "mas", "psp", "joint")
    runs = [run for number, name in enumerate(methods) for run in recorded_seeds(name, *[0.9 - 0.1 * number] * 3)]
    (pdf,) = write_report(runs, "permuted-mnist", tmp_path, formats=("pdf",))
    subprocess.run([program, "-r", "20", "-gray", str(pdf), str(tmp_path / "page")], check=True)
    pages = [np.asarray(Image.open(path)) for path in sorted(tmp_path.glob("page-*.pgm"))]
    assert len(pages) > 3
    # Where the last ink is, above the number of the page.
    filled = [np.flatnonzero((page < 200).any(axis=1)[: int(0.93 * len(page))]).max() / len(page) for page in pages]
    assert min(filled[:-1]) > 0.55, filled


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (1400, "dark"), (400, "light")])
def test_axe_finds_no_barrier(opened: Any, width: int, scheme: str) -> None:
    axe = os.environ.get("CLBENCH_AXE")
    if not axe:
        pytest.skip("CLBENCH_AXE names no axe.min.js (npm install axe-core)")
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
    opened.execute_script(Path(axe).read_text(encoding="utf-8"))
    found = opened.execute_async_script(
        "const done = arguments[0];"
        "axe.run().then(r => done([r.passes.length, r.violations.map(v => [v.id, v.nodes.map(n => n.html)])]))"
    )
    assert found[1] == []
    assert found[0] > 10
