"""The documentation, as far as it can be built without Quarto: every page is processed, and its links and outputs are there."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    "Folder of the processed notebooks. A stand-in for the quarto program does nothing; nbdev's part is real."
    copy, programs = tmp_path_factory.mktemp("site") / "project", tmp_path_factory.mktemp("bin")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", "*.egg-info", ".venv", "_proc", "migvis-demo"))
    (programs / "quarto").write_text("#!/bin/sh\nexit 0\n")
    (programs / "quarto").chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(["nbdev_proc_nbs", "--n_workers", "0"], cwd=copy, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return copy / "_proc"


def test_every_notebook_becomes_a_page(pages):
    assert {p.name for p in pages.glob("*.ipynb")} == {p.name for p in (ROOT / "nbs").glob("*.ipynb")}


def test_pages_keep_their_pictures_and_show_signatures(pages):
    for notebook in (ROOT / "nbs").glob("*.ipynb"):
        page = (pages / notebook.name).read_text(encoding="utf-8")
        assert page.count('"image/png"') >= notebook.read_text(encoding="utf-8").count('"image/png"'), notebook.name
    assert "guided_eps" in (pages / "05_ddim_guidance.ipynb").read_text(encoding="utf-8")


def test_links_between_pages_lead_somewhere(pages):
    for page in pages.glob("*.ipynb"):
        cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            if link.endswith((".ipynb", ".png", ".svg")): assert (ROOT / "nbs" / link).is_file(), f"{page.name}: {link}"
