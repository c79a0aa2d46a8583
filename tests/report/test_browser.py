"""The page in a real browser: Chromium, driven by Selenium over Chromium's own driver; nothing is downloaded."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from drawn_classes import write_classes
from report.synthetic import write_run
from toy_detector import data
from toy_detector.data import GridDataset
from toy_detector.model import untrained
from zoo_core import artifacts
from zoo_core.datasets.image_folder import ImageFolder
from zoo_core.evaluation.run import evaluate_request
from zoo_core.plugins import PluginHost
from zoo_core.report.html import write_report
from zoo_core.runs.request import EvaluationRequest
from zoo_torchvision_classification import hooks as classifiers

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

WIDTHS = {"desktop": 1280, "phone": 390}
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["real run", "detector", "classifier"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, host: PluginHost) -> Path:
    root = tmp_path_factory.mktemp("browser")
    if request.param == "classifier":
        plugins = PluginHost(installed=False)
        plugins.register(classifiers, "torchvision_classification")
        folder = write_classes(root / "drawn", num_val=20, num_train=1)
        dataset = ImageFolder(folder, "val", class_split="train")
        run = write_run(root / "run", dataset, folder, "torchvision_resnet18", noise=0.2)
        return write_report(run, host=plugins, against=run)
    grid = data.write(root / "grid", num_test=40)
    if request.param == "real run":
        return evaluated(root, grid, host)
    run = write_run(root / "run", GridDataset(grid, "test"), grid, "toy_squares", noise=0.12)
    return write_report(run, host=host, against=run)


def evaluated(root: Path, grid: Path, host: PluginHost) -> Path:
    """The report of a real run, whose pale green squares score 0.52 in float and less than 0.5 at 4 bits."""
    network = untrained(2)
    with torch.no_grad():
        network.head.weight[1] *= 0.52 / 0.1216
    artifacts.save_state_dict(root / "toy.safetensors", network.state_dict(), {})
    request = EvaluationRequest(
        model="toy_squares",
        data=grid,
        checkpoint=root / "toy.safetensors",
        settings=("quantsim.param_bw=4", "quantsim.output_bw=4"),
        stages="fp32,w4a4",
        out=root / "run",
        batch_size=4,
        limit=39,
    )
    run = evaluate_request(request, host=host).run_dir
    return write_report(run, host=host, against=run)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("Chromium and its driver are not installed (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (extra: browser)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started: Chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture(params=WIDTHS)
def opened(request: pytest.FixtureRequest, browser: Chrome, page: Path) -> Chrome:
    """The page at one width; logs of earlier pages are read away."""
    width = WIDTHS[request.param]
    mobile = request.param == "phone"
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": mobile},
    )
    for log in ("browser", "performance"):
        read_log(browser, log)
    browser.get(page.as_uri())
    return browser


def read_log(browser: Chrome, name: str) -> list[dict[str, Any]]:
    """The entries since the log was read last."""
    get_log: Callable[[str], list[dict[str, Any]]] = browser.get_log
    return get_log(name)


def requests(browser: Chrome) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in read_log(browser, "performance")]
    sent = [message for message in messages if message["method"] == "Network.requestWillBeSent"]
    return [message["params"]["request"]["url"] for message in sent]


def visible_shots(browser: Chrome) -> list[str]:
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll('.shot')].filter(s => s.offsetHeight > 0).map(s => s.dataset.changes)"
    )
    return found


def choose(browser: Chrome, field: str, value: str) -> None:
    browser.execute_script(
        "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
        "field.dispatchEvent(new Event('change', {bubbles: true}));",
        field,
        value,
    )


def test_the_page_asks_for_nothing_and_logs_nothing(opened: Chrome, page: Path) -> None:
    opened.execute_script("window.scrollTo(0, document.body.scrollHeight)")

    asked = requests(opened)
    assert page.as_uri() in asked
    assert [url for url in asked if not url.startswith(("data:", page.as_uri()))] == []
    assert read_log(opened, "browser") == []


def test_the_gallery_is_filtered_by_class_and_by_change(opened: Chrome) -> None:
    everything = visible_shots(opened)
    assert len(everything) > 3

    choose(opened, "filter-kind", "lost")
    lost = visible_shots(opened)
    assert lost == [tokens for tokens in everything if "lost:" in tokens]
    assert lost
    choose(opened, "filter-kind", "gained")
    gained = visible_shots(opened)
    assert gained == [tokens for tokens in everything if "gained:" in tokens]
    assert min(len(lost), len(gained)) < len(everything)
    choose(opened, "filter-kind", "lost")

    choose(opened, "filter-class", "1")
    both = visible_shots(opened)
    assert both == [tokens for tokens in everything if "lost:1" in tokens.split()]
    count = opened.execute_script("return document.getElementById('filter-count').textContent")
    assert count == f"{len(both)} of {len(everything)} images"

    choose(opened, "filter-kind", "")
    choose(opened, "filter-class", "")
    assert visible_shots(opened) == everything


def test_nothing_is_wider_than_the_window_and_no_text_is_tiny(opened: Chrome) -> None:
    run: Callable[[str], Any] = opened.execute_script
    assert run("return document.documentElement.scrollWidth <= window.innerWidth")
    smallest = run(
        "return Math.min(...[...document.querySelectorAll('body *')].filter(e => e.offsetParent || e.ownerSVGElement)"
        ".filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))"
        ".filter(e => !['SCRIPT', 'title'].includes(e.tagName))"
        ".map(e => parseFloat(getComputedStyle(e).fontSize) * "
        "(e.getScreenCTM && e.tagName === 'text' ? Math.hypot(e.getScreenCTM().a, e.getScreenCTM().b) : 1)))"
    )
    assert smallest >= 11.0


def test_tables_use_the_whole_width_of_a_wide_window(opened: Chrome) -> None:
    stages, protocols, definitions, main = opened.execute_script(
        "return ['#stages table', '#protocols table', '#protocols details', 'main']"
        ".map(s => document.querySelector(s).getBoundingClientRect().toJSON())"
    )
    assert stages["width"] >= 0.98 * main["width"]
    if main["width"] > 1000:
        assert definitions["left"] >= protocols["right"]
        assert definitions["right"] == pytest.approx(main["right"], abs=2)


def test_the_verdict_comes_first_and_a_phone_folds_what_is_long(opened: Chrome) -> None:
    verdict, warnings, stages = opened.execute_script(
        "return ['.verdict', '.notice', '#stages'].map(s => document.querySelector(s).getBoundingClientRect().top)"
    )
    assert verdict < warnings < stages
    opened_parts = opened.execute_script("return [...document.querySelectorAll('.narrow-closed')].map(d => d.open)")
    assert opened_parts == [opened.execute_script("return window.innerWidth > 1152")] * 2


def test_the_plot_of_the_drops_stands_beside_its_table_where_there_is_room(opened: Chrome) -> None:
    table, plot, width = opened.execute_script(
        "const boxes = [...document.querySelector('.beside').children].map(e => e.getBoundingClientRect());"
        "return [boxes[0].toJSON(), boxes[1].toJSON(), window.innerWidth]"
    )
    if width > 1000:
        assert plot["left"] >= table["right"]
        assert plot["top"] == pytest.approx(table["top"], abs=10)
    else:
        assert plot["top"] >= table["bottom"]


def test_pictures_are_loaded_and_shared_by_the_panels(opened: Chrome) -> None:
    if opened.find_elements("css selector", ".tile"):
        widths = opened.execute_script("return [...document.querySelectorAll('.tile img')].map(i => i.naturalWidth)")
        assert len(widths) == len(visible_shots(opened))
        assert min(widths) > 0
        return
    panels = opened.execute_script(
        "return [...document.querySelectorAll('.panel svg')].map(s => s.querySelector('image, use').getBBox().width)"
    )
    assert len(panels) == 3 * len(visible_shots(opened))
    assert min(panels) > 0


def test_without_script_the_page_is_complete(opened: Chrome, page: Path) -> None:
    opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened.get(page.as_uri())
        shots = opened.find_elements("css selector", ".shot")
        assert len(shots) > 3
        assert all(shot.is_displayed() for shot in shots)
        assert not opened.find_element("id", "filter").is_displayed()
    finally:
        opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_the_page_follows_the_colour_scheme_and_text_stands_out(opened: Chrome, scheme: str, dark: bool) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    paper, ink, plot_ink = opened.execute_script(
        "const of = (e, p) => getComputedStyle(e)[p]; return [of(document.body, 'backgroundColor'),"
        "of(document.body, 'color'), of(document.querySelector('.plot text'), 'fill')]"
    )
    assert (luminance(paper) < 0.2) == dark
    for text in (ink, plot_ink):
        light, low = sorted((luminance(paper), luminance(text)), reverse=True)
        assert (light + 0.05) / (low + 0.05) > 7  # WCAG 2.2, contrast (enhanced)


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, as WCAG 2.2 defines it."""
    channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_page_prints_on_a_few_sheets(opened: Chrome) -> None:
    printed = opened.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": False, "printBackground": False})
    pdf = base64.b64decode(printed["data"])
    assert pdf.startswith(b"%PDF")
    assert 2 <= pdf.count(b"/Type /Page\n") <= 40
