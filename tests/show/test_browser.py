"""Pages in a real browser: the documentation and the exported explorer ask no other host; the widgets in JupyterLab. Skipped without Chromium."""
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlparse

import nbformat
import numpy as np
import pandas as pd
import pytest

from migvis.show.frames import Choices, FrameKey, _Manifold, precompute
from migvis.show.page import _explorer_html, to_html
from migvis.support.files import save_record
from tests.conftest import ROOT
from tests.test_docs import converted

SIZE = 32


def until(condition, seconds=20):
    "Wait for something to become true."
    for _ in range(int(seconds / 0.05)):
        if condition(): return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def drawn(keys):
    "Pictures that tell their key: a ramp, brighter with everything that changes, and a square whose place is the group."
    out = np.repeat(np.linspace(0, 0.2, SIZE)[None, None, None], len(keys), 0) * np.ones((len(keys), 1, SIZE, SIZE))
    for picture, k in zip(out, keys):
        picture += 0.05 + 0.09 * k.gamma + 0.05 * k.original + 0.08 * k.target + 0.07 * k.draw * (k.gamma > 0) + 0.15 * sum(s * (d + 1) for d, s in zip(k.dims, k.strengths)) / 2
        picture[:, 4 : 12, 8 * k.group : 8 * k.group + 8] = 1
    return out.clip(0, 1)


def grid(dimensions=False, draws=1):
    album = {i: (f"image {i}", drawn([FrameKey(i, i, 3, 0)])[0]) for i in range(4)}
    offer = Choices(album, ((0, 2), (0, 3), (1, 2), (1, 3)), (0, 2), ("Group 1", "Group 3"), (0.0, 1.0, 2.0), caption="simulated: drawn by a test", draws=draws)
    if not dimensions: return precompute(offer, drawn)
    rng = np.random.default_rng(0)
    labels = pd.DataFrame({"category": rng.choice(["a", "b"], 30), "angle": rng.normal(size=30)})
    manifold = _Manifold(rng.normal(size=(30, 9)), ((0, 1, 2), (3, 4, 5), (6, 7, 8)), labels)
    return precompute(Choices(album, ((0, 2), (1, 3)), (0, 2), ("Group 1", "Group 3"), (1.0,), ((0, 1), (1, 2)), (0.0, 0.5, 1.0), manifold,
                              "simulated: drawn by a test"), drawn)


class Page:
    "An exported explorer, opened without a network."
    def __init__(self, browser, path):
        self.context = browser.new_context(offline=True, viewport={"width": 1000, "height": 900})
        self.page, self.requests, self.errors = self.context.new_page(), [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.goto(Path(path).as_uri())
        self.page.wait_for_selector(".migvis-explorer[data-ready=yes]", timeout=20_000)

    def canvas(self, name, where=""):
        "Red and alpha of a picture's pixels, from 0 to 1."
        read = """selector => { const c = document.querySelector(selector);
                  return [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; }"""
        width, height, *data = self.page.evaluate(read, f"{where} .mv-{name} canvas")
        return np.array(data).reshape(height, width, 4)[..., [0, 3]] / 255

    def shows(self, key, where=""):
        "Whether the picture of the edit is the frame with this key, and only roughly any other."
        return np.abs(self.canvas("edit", where)[..., 0] - drawn([key])[0, 0]).mean() < 0.01

    def done(self):
        "Nothing was loaded, and nothing went wrong."
        assert self.errors == [] and all(url.startswith(("file:", "data:")) for url in self.requests), (self.errors, self.requests)
        self.context.close()


@pytest.fixture
def open_page(browser, tmp_path):
    def open_(what): return Page(browser, to_html(what, tmp_path / "page.html"))
    return open_


def test_each_control_of_the_page_changes_the_picture(open_page):
    opened = open_page(grid())
    page = opened.page
    says = page.locator(".mv-says")
    assert opened.shows(FrameKey(0, 2, 0, 0.0)) and "Turn γ up" in says.inner_text(), "it opens at the original"
    assert page.locator(".mv-badge").inner_text().lower() == "simulated data"
    slider = page.get_by_label("Guidance")
    slider.focus()
    slider.press("ArrowRight")
    assert opened.shows(FrameKey(0, 2, 0, 1.0)) and not opened.shows(FrameKey(0, 2, 0, 2.0)) and slider.get_attribute("aria-valuetext") == "1"
    assert "Turn γ up" not in says.inner_text() and "γ = 1" in says.inner_text()
    box = slider.bounding_box() # and with a mouse
    page.mouse.click(box["x"] + box["width"] - 4, box["y"] + box["height"] / 2)
    assert opened.shows(FrameKey(0, 2, 0, 2.0))
    for name, key in [("Group 3", FrameKey(0, 2, 2, 2.0)), ("image 3", FrameKey(0, 3, 2, 2.0)), ("image 1", FrameKey(1, 3, 2, 2.0))]:
        before = opened.canvas("edit")
        page.get_by_role("radio", name=name).check()
        assert opened.shows(key) and np.abs(opened.canvas("edit") - before).mean() > 0.02
    for name, number in [("original", 1), ("target", 3)]:
        assert np.abs(opened.canvas(name)[..., 0] - drawn([FrameKey(number, number, 3, 0)])[0, 0]).mean() < 0.01
    page.get_by_role("radio", name="image 3").press("ArrowLeft")
    assert opened.shows(FrameKey(1, 2, 2, 2.0))
    opened.done()


def test_difference_and_matrix_of_the_page(open_page):
    opened = open_page(grid())
    page = opened.page
    cell = page.get_by_role("button", name="Group 3, γ = 1")
    cell.click()
    assert opened.shows(FrameKey(0, 2, 2, 1.0)) and cell.get_attribute("aria-pressed") == "true"
    red, alpha = np.moveaxis(opened.canvas("difference"), -1, 0)
    change = drawn([FrameKey(0, 2, 2, 1.0)])[0, 0] - drawn([FrameKey(0, 0, 3, 0)])[0, 0]
    assert np.corrcoef(alpha.ravel(), np.abs(change).clip(0, 0.5).ravel())[0, 1] > 0.95
    cell.press("ArrowUp")
    assert opened.shows(FrameKey(0, 2, 0, 1.0)) and page.evaluate("document.activeElement.getAttribute('aria-label')") == "Group 1, γ = 1"
    assert page.locator(".mv-cell[tabindex='0']").count() == 1
    opened.done()


def test_strengths_of_two_dimensions_move_picture_and_path(open_page):
    opened = open_page(grid(dimensions=True))
    page = opened.page
    at = lambda: tuple(float(page.locator(".mv-now").get_attribute(name)) for name in ("cx", "cy"))
    assert opened.shows(FrameKey(0, 2, 0, 1.0, (0, 1), (0, 0))) and "Turn one up" in page.locator(".mv-says").inner_text()
    corner = at()
    page.get_by_label("Strength of z1").press("ArrowRight")
    assert opened.shows(FrameKey(0, 2, 0, 1.0, (0, 1), (0.5, 0))) and at()[0] != corner[0] and at()[1] == pytest.approx(corner[1])
    page.get_by_label("Strength of z2").press("End")
    assert opened.shows(FrameKey(0, 2, 0, 1.0, (0, 1), (0.5, 1))) and at()[1] != pytest.approx(corner[1])
    page.get_by_role("radio", name="z2, z3").check()
    assert opened.shows(FrameKey(0, 2, 0, 1.0, (1, 2), (0.5, 1)))
    assert page.get_by_label("Strength of z3").count() == 1 and "z2 of Group 1" in page.locator(".mv-manifold").inner_text()
    page.get_by_role("radio", name="Group 3").check()
    page.get_by_role("radio", name="image 1").check()
    assert opened.shows(FrameKey(1, 3, 2, 1.0, (1, 2), (0.5, 1)))
    fills = lambda: page.evaluate("[...document.querySelectorAll('.mv-points circle')].map(c => c.getAttribute('fill'))")
    before = fills()
    page.get_by_label("coloured by").select_option(label="angle")
    assert len(before) == 30 and len(set(before)) == 2 < len(set(fills()))
    opened.done()


def test_the_slider_of_draws_moves_the_picture_where_there_is_guidance(open_page):
    opened = open_page(grid(draws=3))
    slider, says = opened.page.get_by_role("slider", name="Draw"), opened.page.locator(".mv-says")
    start = opened.canvas("edit")
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "2" and np.array_equal(opened.canvas("edit"), start)
    opened.page.get_by_label("Guidance").press("End")
    assert opened.shows(FrameKey(0, 2, 0, 2.0, draw=1)) and "draw 2 of 3" in says.inner_text()
    slider.press("End")
    assert opened.shows(FrameKey(0, 2, 0, 2.0, draw=2)) and not opened.shows(FrameKey(0, 2, 0, 2.0)) and "draw 3 of 3" in says.inner_text()
    opened.done()


def test_one_draw_has_no_slider(open_page):
    opened = open_page(grid())
    assert opened.page.get_by_role("slider", name="Draw").count() == 0 and "draw" not in opened.page.locator(".mv-says").inner_text()
    opened.done()


def test_playing_goes_through_the_strengths_and_stops(open_page):
    opened = open_page(grid())
    opened.page.get_by_role("button", name="Play").click()
    until(lambda: opened.page.get_by_label("Guidance").input_value() != "0")
    opened.page.get_by_role("button", name="Pause").click()
    assert opened.page.get_by_role("button", name="Play").count() == 1
    opened.done()


def test_everything_has_a_name_and_follows_the_dark_scheme(open_page):
    opened = open_page(grid(dimensions=True))
    page = opened.page
    unnamed = page.evaluate("""[...document.querySelectorAll('input, select, button, canvas[role=img], svg')]
        .filter(n => !(n.getAttribute('aria-label') || n.labels?.length)).map(n => n.outerHTML)""")
    assert unnamed == []
    colour = lambda: page.evaluate("getComputedStyle(document.querySelector('.migvis-explorer')).backgroundColor")
    light = colour()
    page.emulate_media(color_scheme="dark")
    assert sum(map(int, colour()[4:-1].split(","))) < 150 < 600 < sum(map(int, light[4:-1].split(",")))
    page.set_viewport_size({"width": 380, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    opened.done()


def test_on_a_phone_the_picture_is_above_the_sliders(open_page):
    opened = open_page(grid())
    top = lambda name: opened.page.locator(f".mv-{name}").first.bounding_box()["y"]
    assert top("controls") < top("edit")
    opened.page.set_viewport_size({"width": 380, "height": 800})
    assert top("edit") < top("original") < top("controls") < top("matrix") < top("foot")
    opened.done()


def test_several_explorers_in_one_page_and_in_a_closed_frame(browser, tmp_path):
    one, two = _explorer_html(grid()), _explorer_html(grid(dimensions=True))
    inner = one.replace("&", "&amp;").replace('"', "&quot;")
    page = f"<!doctype html><meta charset=utf-8><div id=a>{one}</div><div id=b>{two}</div><iframe sandbox=allow-scripts srcdoc=\"{inner}\"></iframe>"
    (tmp_path / "both.html").write_text(page, encoding="utf-8")
    opened = Page(browser, tmp_path / "both.html")
    opened.page.wait_for_selector("#b .migvis-explorer[data-ready=yes]")
    for part in ("#a", "#b"): # names of controls must not clash
        assert opened.page.locator(f"{part} fieldset").count() == opened.page.locator(f"{part} input:checked").count() > 0
    assert opened.page.evaluate("(ids => ids.length === new Set(ids).size)([...document.querySelectorAll('[id]')].map(n => n.id))")
    opened.page.locator("#a").get_by_label("Guidance").press("End")
    assert opened.shows(FrameKey(0, 2, 0, 2.0), "#a") and opened.shows(FrameKey(0, 2, 0, 1.0, (0, 1), (0, 0)), "#b")
    frame = opened.page.frame_locator("iframe")
    frame.get_by_label("Guidance").press("ArrowRight")
    assert "γ = 1" in frame.locator(".mv-says").inner_text()
    opened.done()


# The documentation

@pytest.mark.parametrize("name", ["index", "00_data", "show/01_widgets", "show/03_gallery"])
def test_pages_of_the_documentation_ask_no_other_host(browser, tmp_path, name):
    shutil.copytree(ROOT / "nbs" / "images", tmp_path / "images")
    shutil.copy(ROOT / "nbs" / "styles.css", tmp_path)
    (tmp_path / "page.html").write_text(converted(ROOT / "nbs" / f"{name}.ipynb"), encoding="utf-8")
    context, asked, errors = browser.new_context(), [], []
    def answer(route): # a page that asked would get an answer and go on
        asked.append(route.request.url)
        route.fulfill(body="")
    context.route(lambda url: not url.startswith(("file:", "data:", "blob:")), answer)
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_load_state("networkidle")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true); window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(200)
    assert asked == [] and errors == []
    assert page.evaluate("[...document.images].filter(i => !(i.complete && i.naturalWidth)).length") == 0, "a picture is missing"
    page.evaluate("new Image().src = 'https://example.org/x.png'") # and a request would have been seen
    page.wait_for_timeout(100)
    assert asked == ["https://example.org/x.png"]
    context.close()


# JupyterLab

CELL = """
import time
from migvis.show.frames import FrameGrid
from migvis.show.widgets import Explorer, explore
from migvis.support.files import load_record
explore(load_record("guidance.npz", FrameGrid))
""", """
explore(load_record("dimensions.npz", FrameGrid))
""", """
stored = load_record("guidance.npz", FrameGrid)
def source(keys):
    time.sleep(1.5)
    if keys[0].group == 2: raise RuntimeError("no such luck")
    import numpy as np
    return np.stack([stored.at(key) for key in keys])
Explorer(stored.choices, source)
""", """
stored
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "Address of a notebook in a running JupyterLab, in folders of its own."
    pytest.importorskip("jupyterlab", reason="this test needs JupyterLab: pip install jupyterlab")
    folder, home = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("home")
    save_record(folder / "guidance.npz", grid())
    save_record(folder / "dimensions.npz", grid(dimensions=True))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source.strip()) for source in CELL])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "explore.ipynb")
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    own = {"HOME": str(home), "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
           "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "JUPYTER_DATA_DIR": str(home / "data")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0",
               "--IdentityProvider.token=secret", f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True"]
    log = (home / "log").open("w")
    server = subprocess.Popen(command, cwd=folder, env=os.environ | own, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(port, server, home / "log")
        yield f"http://127.0.0.1:{port}/lab/tree/explore.ipynb?token=secret"
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def wait_for(port, server, log):
    "Until the server answers."
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0: return
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start: {log.read_text()}")


def test_widgets_in_jupyterlab(browser, lab):
    context = browser.new_context(viewport={"width": 1400, "height": 1600})
    page, hosts = context.new_page(), set()
    page.on("request", lambda request: hosts.add(urlparse(request.url).hostname))
    page.goto(lab)
    page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell", timeout=60_000)
    page.evaluate("async () => { await window.jupyterapp.serviceManager.ready; }")
    page.wait_for_function("window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", timeout=60_000)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    cells = [page.locator(".jp-CodeCell").nth(i) for i in range(len(CELL))]

    def moves(cell, act):
        picture = lambda: cell.locator("figure img").first.get_attribute("src")
        before = picture()
        act()
        until(lambda: picture() != before)
    cells[0].locator("figure img").first.wait_for(timeout=60_000)
    slider = cells[0].get_by_role("slider")
    moves(cells[0], lambda: slider.press("End"))
    for label, option in [("latent group", "Group 3"), ("target", "image 3"), ("original", "image 1")]:
        moves(cells[0], lambda: cells[0].get_by_label(label, exact=True).select_option(label=option))
    moves(cells[0], lambda: slider.press("ArrowLeft"))

    cells[1].locator("svg .mv-now").wait_for(timeout=60_000)
    place = lambda: [cells[1].locator(".mv-now").get_attribute(name) for name in ("cx", "cy")]
    before = place()
    for i in (0, 1): moves(cells[1], lambda: cells[1].get_by_role("slider").nth(i).press("ArrowRight"))
    assert place()[0] != before[0] and place()[1] != before[1]
    moves(cells[1], lambda: cells[1].get_by_label("dimensions").select_option(label="z2 and z3"))

    status = cells[2].get_by_role("status")
    cells[2].locator("figure img").first.wait_for(timeout=20_000)
    cells[2].locator("[aria-busy]").wait_for(state="detached", timeout=20_000)
    cells[2].get_by_role("slider").press("ArrowRight")
    until(lambda: "Computing this frame" in status.inner_text())
    cells[2].locator("[aria-busy]").wait_for(state="detached", timeout=20_000)
    cells[2].get_by_label("latent group", exact=True).select_option(label="Group 3")
    cells[2].get_by_role("alert").wait_for(timeout=20_000)
    assert "no such luck" in status.inner_text()

    cells[3].locator(".migvis-explorer[data-ready=yes]").wait_for(timeout=20_000)
    cells[3].get_by_label("Guidance").press("End")
    assert "γ = 2" in cells[3].locator(".mv-says").inner_text()
    if os.environ.get("MIGVIS_SCREENSHOTS"): page.screenshot(path=str(Path(os.environ["MIGVIS_SCREENSHOTS"]) / "lab.png"))
    assert hosts <= {"127.0.0.1", None, ""}
    context.close()
