"""Headless Chromium for the tests of the page."""

import importlib.util
import json
import os
import shutil
import tempfile
from contextlib import contextmanager

import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


def needed() -> tuple[str, str]:
    """(chromium, chromedriver). Skips where they or selenium are missing; fails where BENCHMARK_BROWSER=required."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    message = "no Chromium with its chromedriver is installed (Debian: apt-get install chromium chromium-driver)"
    if importlib.util.find_spec("selenium") is None:
        message = "the package selenium is not installed"
    elif browser and driver:
        return browser, driver
    if os.environ.get("BENCHMARK_BROWSER") == "required":
        pytest.fail(message)
    pytest.skip(message)


@contextmanager
def chromium(width: int = 1280, height: int = 900):
    """A browser with a fresh profile, which records its console and its network requests."""
    browser, driver = needed()
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        window = webdriver.Chrome(options=options, service=Service(driver))
        try:
            window.set_page_load_timeout(120)
            yield window
        finally:
            window.quit()


def resize(window, width: int, height: int = 900) -> None:
    """Set the size of the page's viewport, which a window cannot make as narrow as a phone."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def prefer(window, scheme: str, media: str = "") -> None:
    """Emulate the system's colour scheme (light or dark) and the medium (screen or print)."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def requests(window) -> list[str]:
    """The addresses asked for since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in window.get_log("performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


def complaints(window) -> list[str]:
    """What the console has said since the last call."""
    return [f"{entry['level']}: {entry['message']}" for entry in window.get_log("browser")]
