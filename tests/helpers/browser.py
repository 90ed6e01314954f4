"""Headless Chromium for the tests of pages; without one on this machine they are skipped."""

import shutil
import time

import pytest

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
        if (found := shutil.which(name))
    ),
    None,
)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def until(page, expression: str) -> None:
    """Wait for it to be true (page.wait_for_function needs eval, which the page's policy forbids)."""
    stop = time.monotonic() + 10
    while not page.evaluate(expression):
        assert time.monotonic() < stop, expression
        page.wait_for_timeout(20)
