"""Tests reach no hub, no network and no tracking store, whatever the machine is set up for."""

import gc
import os

import pytest

os.environ["RETORT_TRACKING"] = "off"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DVC_NO_ANALYTICS"] = "1"
os.environ["GIT_CONFIG_GLOBAL"] = os.devnull
# A killed process leaves the disk as it is: only a power cut, which no test makes, could tell the difference.
os.fsync = lambda descriptor: None


def pytest_collection_modifyitems(items) -> None:
    """Files that are slow as a whole come first, so that no process is left with one of them at the end."""
    items.sort(key=lambda item: item.getparent(pytest.Module).get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """What was imported stays: Python need not look through it again and again for unreachable cycles."""
    gc.collect()
    gc.freeze()
