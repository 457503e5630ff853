"""What several test files share."""
import os
import shutil
from collections.abc import MutableMapping
from pathlib import Path

import pytest


def share_machine(environment: MutableMapping[str, str]) -> None:
    "Where several processes test at once: no GPU (sharing one ended in segmentation faults), and one thread each."
    if int(environment.get("PYTEST_XDIST_WORKER_COUNT", 1)) < 2: return
    environment["CUDA_VISIBLE_DEVICES"] = ""
    environment.setdefault("OMP_NUM_THREADS", "1") # more would wait for each other: the suite took many times as long


share_machine(os.environ)  # before torch is imported

ROOT = Path(__file__).parents[1]
FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync").split()
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="session")
def realdata() -> Path:
    "Folder with the real recordings, or a skip that says how to provide it."
    folder = Path(os.environ.get("MIGVIS_REALDATA", ROOT.parent / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip(f"real recordings are not at {folder}; set MIGVIS_REALDATA to their folder")
    return folder


@pytest.fixture(scope="session")
def browser():
    "Headless Chromium."
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright: pip install playwright")
    program = os.environ.get("MIGVIS_CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if not program: pytest.skip("the browser tests need Chromium: install the system's package, or set MIGVIS_CHROMIUM to a browser")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield running
        running.close()


def pytest_configure(config: pytest.Config) -> None:
    "Marks of our own."
    config.addinivalue_line("markers", "cuda: needs a GPU that torch sees, and one process (pytest -n0 -m cuda)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    "Skip what needs a GPU where there is none."
    if not (marked := [item for item in items if item.get_closest_marker("cuda")]): return
    import torch
    if torch.cuda.is_available(): return
    for item in marked: item.add_marker(pytest.mark.skip(reason="torch sees no GPU, or several processes test at once"))
