"""Take the README's picture of a report: ``python -m tools.report_picture RUN docs/images/report.png``.

Opens the report of a run in Chromium (Debian: chromium, chromium-driver; Python: the extra ``browser``) and joins its
top, its classes and its gallery into one picture below 300 KB. The picture shows RUN as given, so pass a relative path.
"""

from __future__ import annotations

import base64
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from selenium import webdriver

from zoo_core.report.html import write_report

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH = 1120
SECTIONS = {"body": 660, "#classes": 460, "#gallery": 560}
"""CSS selector of the place where each part starts, and the part's height in pixels."""
MAX_BYTES = 300_000
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def main(run: Path, target: Path) -> None:
    """Write the picture.

    Args:
        run: A run directory.
        target: A PNG file.
    """
    page = write_report(run)
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or "chromium"
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            screen = {"width": WIDTH, "height": max(SECTIONS.values()), "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            browser.get(page.absolute().as_uri())
            browser.execute_script(
                "document.querySelectorAll('code').forEach("
                "e => { e.textContent = e.textContent.replace(arguments[0], arguments[1]); })",
                str(run.absolute()),
                str(run),
            )
            parts = [_picture_of(browser, selector, height) for selector, height in SECTIONS.items()]
        finally:
            browser.quit()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(_encoded(np.concatenate(parts, axis=0)))
    sys.stdout.write(f"{target}: {target.stat().st_size} bytes\n")


def _picture_of(browser: webdriver.Chrome, selector: str, height: int) -> NDArray[np.uint8]:
    """Capture ``height`` pixels from the element's top on, ``(H, W, 3)`` BGR."""
    top = browser.execute_script(
        "const e = document.querySelector(arguments[0]);"
        "return e === document.body ? 0 : e.getBoundingClientRect().top + window.scrollY",
        selector,
    )
    clip = {"x": 0, "y": top, "width": WIDTH, "height": height, "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    data = np.frombuffer(base64.b64decode(shot["data"]), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _encoded(picture: NDArray[np.uint8]) -> bytes:
    """Encode a PNG below ``MAX_BYTES``, with as few colours as necessary."""
    for bits in range(8, 2, -1):
        step = 1 << (8 - bits)
        reduced = np.minimum((picture.astype(np.int32) + step // 2) // step * step, 255).astype(np.uint8)
        done, data = cv2.imencode(".png", reduced, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        if done and len(data) <= MAX_BYTES:
            return data.tobytes()
    raise SystemExit(f"The picture does not fit into {MAX_BYTES} bytes; make SECTIONS smaller.")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
