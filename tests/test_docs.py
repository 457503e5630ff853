"""The documentation, as far as it can be built without Quarto: pages, links, anchors, pictures, and no request to another host."""
import os
import re
import shutil
import subprocess
import sys
from bisect import bisect_left
from collections import Counter
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from PIL import Image

from migvis.show.frames import Choices, precompute
from migvis.show.page import to_html
from migvis.simulate.pretrained import load_pretrained
from migvis.support.files import digest_weights
from tests import make_readme, offline
from tests.conftest import ROOT
from tools import draw_front

NOTEBOOKS = sorted((ROOT / "nbs").rglob("*.ipynb"))


# what `nbdev_proc_nbs` does, but for its end: there each notebook's shell collects the garbage of all, for half a minute
BUILD = "import os; from nbdev.quarto import nbdev_proc_nbs as build; build(n_workers=0); os._exit(0)"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    "Folder of the processed notebooks. A stand-in for the quarto program does nothing; nbdev's part is real."
    copy, programs = tmp_path_factory.mktemp("site") / "project", tmp_path_factory.mktemp("bin")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", "*.egg-info", ".venv", "_proc", "migvis-demo"))
    (programs / "quarto").write_text("#!/bin/sh\nexit 0\n")
    (programs / "quarto").chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=copy, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return copy / "_proc"


def test_every_notebook_becomes_a_page(pages):
    assert {p.relative_to(pages) for p in pages.rglob("*.ipynb")} == {p.relative_to(ROOT / "nbs") for p in NOTEBOOKS}


def test_pages_keep_their_pictures_and_show_signatures(pages):
    for notebook in NOTEBOOKS:
        page = (pages / notebook.relative_to(ROOT / "nbs")).read_text(encoding="utf-8")
        assert page.count('"image/png"') >= notebook.read_text(encoding="utf-8").count('"image/png"'), notebook.name
    assert "guided_eps" in (pages / "05_ddim_guidance.ipynb").read_text(encoding="utf-8")


@cache # one for all pages: it keeps its compiled templates
def exporter():
    from nbconvert import HTMLExporter
    return HTMLExporter(template_name="basic", exclude_input=True)


def converted(notebook: Path) -> str:
    "What a notebook shows, as HTML: text and outputs, without the code."
    body, _ = exporter().from_notebook_node(nbformat.read(notebook, 4))
    return f"<!doctype html><meta charset=utf-8><title>{notebook.stem}</title><link rel=stylesheet href=styles.css>{body}"


@pytest.fixture(scope="module")
def site(pages):
    "HTML of every processed notebook, by its path without suffix."
    return {str(page.relative_to(pages).with_suffix("")): converted(page) for page in sorted(pages.rglob("*.ipynb"))}


class Parts(HTMLParser):
    "Links and pictures of a page."
    def __init__(self, text):
        super().__init__()
        self.links, self.pictures = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "a" and values.get("href"): self.links.append(values["href"])
        if tag == "img": self.pictures.append((values.get("src", ""), values.get("alt", "")))


def anchor(heading: str) -> str:
    "The identifier that pandoc, and so Quarto, gives a heading: plain text, lower case, hyphens for spaces, nothing before the first letter."
    if explicit := re.search(r"\{[^}]*#([\w-]+)[^}]*\}\s*$", heading): return explicit[1]
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)|<[^>]*>|[`*]", lambda m: m[1] or "", heading)
    text = re.sub(r"[^\w\s.-]", "", text).strip().lower()
    return re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", text)) or "section"


def anchors(page: Path) -> set[str]:
    "All of them on a page, with the numbers that repeated headings get."
    found, seen = set(), Counter()
    for cell in nbformat.read(page, 4).cells:
        texts = [cell.source] if cell.cell_type == "markdown" else [o.data.get("text/markdown", "") for o in cell.get("outputs", []) if "data" in o]
        for heading in re.findall(r"^#{1,6} +(.+)$", re.sub(r"^```.*?^```", "", "\n".join(texts), flags=re.M | re.S), re.M):
            name = anchor(heading)
            found.add(name + (f"-{seen[name]}" if seen[name] else ""))
            seen[name] += 1
    return found


@pytest.mark.parametrize("heading, name", [
    ("The method (Figure 2)", "the-method-figure-2"), ("3. Pairs, `edit` and *more*", "pairs-edit-and-more"), ("A {#fig-2}", "fig-2"),
    ("[Tables](05b.ipynb) 1--4", "tables-1--4"), ("What is in z_g?", "what-is-in-z_g")])
def test_anchors_are_named_as_pandoc_does(heading, name): assert anchor(heading) == name


def test_links_between_pages_lead_somewhere(pages, site):
    known = {str(page.relative_to(pages).with_suffix("")): anchors(page) for page in pages.rglob("*.ipynb")}
    for name, text in site.items():
        for link in Parts(text).links:
            if re.match(r"[a-z]+:|//", link): continue # another site, which is not looked up here
            target, _, place = link.partition("#")
            if not target and place not in known[name]: continue # the paragraph signs of this converter; Quarto makes its own
            there = os.path.normpath(os.path.join(os.path.dirname(name), target))
            if target.endswith((".ipynb", "")): assert not target or (ROOT / "nbs" / there).is_file(), f"{name}: {link}"
            elif not target.endswith(".html"): assert (pages / there).is_file(), f"{name}: {link}"
            if place and target.endswith(".ipynb"): assert place in known[there[:-6]], f"{name}: {link} is none of {sorted(known[there[:-6]])}"


def shown_texts(page: Path) -> list[str]:
    "Markdown of a processed page: prose, and what cells show."
    cells = nbformat.read(page, 4).cells
    return [c.source for c in cells if c.cell_type == "markdown"] + [
        o.data["text/markdown"] for c in cells for o in c.get("outputs", []) if "text/markdown" in o.get("data", {})]


def test_links_that_nbdev_makes_lead_to_a_heading(pages):
    "A name in backquotes is linked to its documentation. Names that have none there stand in double backquotes, with spaces."
    named = {(page.parent.relative_to(pages) / re.search(r"^output-file: (\S+)", nbformat.read(page, 4).cells[0].source, re.M)[1]).as_posix(): page
             for page in pages.rglob("*.ipynb")}
    known = {name: {place.lower() for place in anchors(page)} for name, page in named.items()}
    links = {(page.name, *found) for page in named.values() for text in shown_texts(page)
             for found in re.findall(re.escape(make_readme.site()) + r"/([\w/]+\.html)#([\w.-]+)", text)}
    assert len(links) > 50 and {link for link in links if link[2].lower() not in known.get(link[1], ())} == set()


def test_links_within_a_page_lead_to_a_heading(pages):
    for page in pages.rglob("*.ipynb"):
        linked = {place for text in shown_texts(page) for place in re.findall(r"\]\(#([\w.-]+)\)", text)}
        assert linked <= anchors(page), page.name


def test_no_link_is_made_of_a_name_that_becomes_a_link_itself(pages):
    "A name in backquotes is linked to its documentation, and a link within a link is none."
    for page in pages.rglob("*.ipynb"):
        text = "\n".join(c.source for c in nbformat.read(page, 4).cells if c.cell_type == "markdown")
        assert not (nested := re.findall(r"\[\[`[^]]*`\]\([^)]*\)\]\([^)]*\)", text)), f"{page.name}: {nested}; leave out the outer link"


def test_outputs_hold_no_progress_bars():
    for notebook in NOTEBOOKS: assert not re.search(r"\d+%\|.*\|", notebook.read_text(encoding="utf-8")), notebook.name


CITED = {"11_photographs": {"10.1016"}, "03_it": {"83.7"}, "03_dina": {".58", ".71", "2605.04309"}, "05_dina": {".71"}}     # numbers of the literature, said to be that where they stand

def unprinted(notebook) -> list[str]:
    "Decimal numbers in a notebook's prose that neither its outputs nor its code show, at the precision of the prose."
    shown = "\n".join(re.sub(r"<[^>]+>", " ", text) for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
                      for text in [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if k.startswith("text/"))])
    shown += "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    known = sorted({float(n) for n in re.findall(r"\d*\.?\d+(?:e[-+]?\d+)?", shown)})
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    prose = re.sub(r"```.*?```|\$[^$]*\$|`[^`]*`|\]\([^)]*\)|Sections? [\d., -]+", " ", prose, flags=re.DOTALL)
    missing = []
    for number in re.findall(r"(?<![\w.-])(\d*\.\d+)(?!\w|\.\d)", prose):
        reach = 0.51 * 10.0 ** -len(number.split(".")[1])
        places = [(bisect_left(known, scale * (float(number) - reach)), scale * (float(number) + reach)) for scale in (1, 100, 0.01)]
        if not any(i < len(known) and known[i] <= high for i, high in places): missing.append(number)
    return missing

@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_numbers_in_the_prose_are_printed_by_the_notebook(path):
    assert set(unprinted(nbformat.read(path, 4))) <= CITED.get(path.stem, set())

def test_a_number_that_nothing_printed_is_found():
    cells = [nbformat.v4.new_markdown_cell("It is .37 here, 12.5 % there, but 0.99 at $t = 1.5$ (the paper, Section 3.2)."),
             nbformat.v4.new_code_cell("x = 1", outputs=[nbformat.v4.new_output("stream", text="0.3712 and 0.125")])]
    assert unprinted(nbformat.v4.new_notebook(cells=cells)) == ["0.99"]

def test_readme_links_to_pages_of_the_site(pages):
    named = {str(page.parent.relative_to(pages) / re.search(r"^output-file: (\S+)", nbformat.read(page, 4).cells[0].source, re.M)[1])
             for page in pages.rglob("*.ipynb")}
    linked = set(re.findall(re.escape(make_readme.site()) + r"/([\w/]+\.html)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert len(linked) > 20 and linked <= named


def test_pictures_are_there_and_say_what_they_show(pages, site):
    for name, text in site.items():
        for source, alternative in Parts(text).pictures:
            if source.startswith("data:image/"): continue
            assert ((pages / name).parent / source).is_file() and alternative, f"{name}: {source}"


@pytest.mark.parametrize("name", draw_front.PICTURES)
def test_front_pictures_come_from_the_shipped_weights(name):
    assert Image.open(draw_front.IMAGES / name).text["weights"] == draw_front.weights_digest()




def without_alt(notebook) -> list[str]:
    "Identifiers of code cells that show a picture and do not say in words what one sees."
    return [cell.id for cell in notebook.cells if cell.cell_type == "code"
            and any("image/png" in output.get("data", {}) for output in cell.outputs)
            and not re.search(r"^#\|\s*fig-alt:\s*\S", cell.source, re.M)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_cell_with_a_picture_says_what_it_shows(path):
    assert without_alt(nbformat.read(path, 4)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_picture_is_of_the_tiny_preset(path):
    shown = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"
             and any("image/png" in output.get("data", {}) for output in cell.outputs)]
    assert not [source for source in shown if re.search(r"tiny (preset|run)", source)]


def test_a_picture_without_words_is_found():
    picture = nbformat.v4.new_output("display_data", {"image/png": "AA=="})
    cells = [nbformat.v4.new_code_cell(source, outputs=[picture]) for source in ("plot()", "#| fig-alt: A disc\nplot()")]
    assert without_alt(nbformat.v4.new_notebook(cells=cells)) == [cells[0].id]


def test_alt_texts_reach_the_pages(pages):
    for notebook in NOTEBOOKS:
        page = (pages / notebook.relative_to(ROOT / "nbs")).read_text(encoding="utf-8")
        assert page.count("fig-alt:") == notebook.read_text(encoding="utf-8").count("fig-alt:"), notebook.name


def test_pages_about_figures_hold_figures(site):
    for name, least in {"index": 2, "06_figures": 10, "results/03_comparison": 3}.items():
        assert len(Parts(site[name]).pictures) >= least, name


# The paper's figures

PAPER = [f"Figure {k}{part}" for k in (1, 3, 4, 6, 7, 11, 12) for part in "AB"] + [f"Figure {k}" for k in (2, 5, 8, 9, 10)] + [f"Table {k}" for k in (1, 2, 3, 4)]
PAGES = [ROOT / "nbs" / "results" / f"{name}.ipynb" for name in ("09_paper_figures", "10_paper_tables")]


def captioned(notebook) -> dict[str, str]:
    "What stands below each picture or table of a page: figure -> caption."
    found = {}
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        data = [output.get("data", {}) for output in cell.outputs]
        shown = any("image/png" in one or "<table" in one.get("text/html", "") for one in data)
        for text in (one["text/markdown"] for one in data if "text/markdown" in one):
            if shown and (named := re.match(r"\*\*((?:Figure|Table) \w+)\.", text)): found[named[1]] = text
    return found


@pytest.fixture(scope="module")
def shown_of_the_paper():
    return {name: caption for page in PAGES for name, caption in captioned(nbformat.read(page, 4)).items()}


def test_every_figure_and_table_of_the_paper_is_shown(shown_of_the_paper):
    assert set(PAPER) - set(shown_of_the_paper) == set()


def test_captions_say_preset_seed_and_the_digest_of_the_shipped_denoiser(shown_of_the_paper):
    digest = digest_weights(load_pretrained("demo", "cpu")[0])
    for name, caption in shown_of_the_paper.items():
        assert f"weights of the denoiser {digest}" in caption and "demo preset" in caption and re.search(r"seeds? \d", caption), f"{name}: {caption}"


def test_a_caption_without_a_picture_is_not_taken_for_one():
    below = nbformat.v4.new_output("display_data", {"text/markdown": "**Figure 4A.** Edits; weights 0."})
    picture = nbformat.v4.new_output("display_data", {"image/png": "AA=="})
    cells = [nbformat.v4.new_code_cell("show()", outputs=outputs) for outputs in ([below], [picture, below])]
    assert [len(captioned(nbformat.v4.new_notebook(cells=[cell]))) for cell in cells] == [0, 1]


# What a reader meets in a notebook

REFUSED = r"\\(?:rm|bf|it|sf|tt|cal|text(?:bf|it)?sc)\b"  # commands that pandoc's MathML does not know


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_maths_can_be_set_by_pandoc(path):
    prose = "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")
    assert re.findall(REFUSED, re.sub(r"```.*?```|`[^`]*`", "", prose, flags=re.S)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_hold_no_warnings_and_no_errors(path):
    outputs = [o for cell in nbformat.read(path, 4).cells if cell.cell_type == "code" for o in cell.outputs]
    assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_what_a_cell_needs_from_outside_is_said_in_words(path):
    notebook = nbformat.read(path, 4)
    words, code = ("\n".join(cell.source for cell in notebook.cells if cell.cell_type == kind) for kind in ("markdown", "code"))
    needed = {name for name in ("MIGVIS_RUN", "MIGVIS_REALDATA") if f'"{name}"' in code} | set(re.findall(r"""environ\[["'](\w+)""", code))
    assert {name for name in needed if name not in words} == set()
    assert "environ[\"MIGVIS_RUN\"]" not in code, "where it is not set, the demo's folder is the run"


@pytest.mark.parametrize("path", sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb")), ids=lambda p: p.stem)
def test_tutorials_open_in_colab_and_install_from_the_repository(path):
    cells, place = nbformat.read(path, 4).cells, path.relative_to(ROOT).as_posix()
    assert f"https://colab.research.google.com/github/migvis/migvis/blob/main/{place}" in cells[1].source
    install, first = (next(i for i, c in enumerate(cells) if text in c.source) for text in ("git+https://github.com/migvis/migvis", "from migvis"))
    assert install < first


# No request to another host

def test_no_page_requests_another_host(site):
    for name, text in site.items(): assert offline.html_requests(text) == [], name


def test_explorer_requests_nothing(tmp_path):
    album = {i: (name, np.zeros((1, 8, 8))) for i, name in enumerate("ab")}
    page = to_html(precompute(Choices(album, ((0, 1),), (0,), ("Group 1",), (0.0, 1.0)), lambda keys: np.zeros((len(keys), 1, 8, 8))), tmp_path / "page.html")
    assert offline.requests_of(page) == []


def test_styles_and_scripts_that_we_ship_request_nothing():
    shipped = [p for folder in ("nbs", "migvis") for p in (ROOT / folder).iterdir() if p.suffix in (".css", ".scss", ".js", ".svg")]
    assert {"styles.css", "dark.scss", "explorer.css", "explorer.js"} <= {p.name for p in shipped}
    for path in shipped: assert offline.requests_of(path) == [], path.name


ADDED = """<script src="https://cdn.jsdelivr.net/npm/requirejs@2.3.6/require.min.js" integrity="sha384-x" crossorigin="anonymous"></script>
<script src="https://cdnjs.cloudflare.com/ajax/libs/jquery/3.5.1/jquery.min.js" crossorigin="anonymous" data-relocate-top="true"></script>
<script type="application/javascript">define('jquery', [],function() {return window.jQuery;})</script>
"""


@pytest.mark.parametrize("page", [
    '<script src="https://a.org/x.js"></script>', "<img src='//a.org/x.png'>", '<img srcset="x.png 1x, https://a.org/x.png 2x">',
    '<link rel="stylesheet" href="https://a.org/x.css">', '<link rel=preconnect href=https://a.org>', '<iframe src="http://a.org"></iframe>',
    "<style>@import 'https://a.org/x.css';</style>", "<style>@font-face {src: url( \"https://a.org/x.woff\")}</style>",
    '<p style="background: url(//a.org/x.png)">', "<script>fetch('https://a.org/x.json')</script>", "<script>import x from 'https://a.org/x.js'</script>",
    "<script>let s = new Image(); s.src = 'https://a.org/x'</script>", '<iframe srcdoc="&lt;img src=https://a.org/x.png&gt;"></iframe>',
    '<object data="https://a.org/x.svg"></object>', "<svg><use href='https://a.org/x.svg#a'/></svg>", '<base href="https://a.org/">',
    '<meta http-equiv="refresh" content="0; url=https://a.org">', "<body onload=\"fetch('https://a.org')\">", "<script>new WebSocket('wss://a.org')</script>"])
def test_a_request_is_seen(page): assert len(offline.html_requests(page)) == 1


@pytest.mark.parametrize("page", [
    '<a href="https://a.org">a</a>', '<img src="data:image/png;base64,AA//http://">', '<link rel="canonical" href="https://a.org">',
    '<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0"/></svg>', "<script>fetch('search.json'); const ns = 'http://www.w3.org/2000/svg'</script>",
    "<pre>fetch('https://a.org')</pre>", "<style>a { background: url(data:image/svg+xml;utf8,x) }</style>", '<meta property="og:image" content="https://a.org/x.png">',
    '<script type="application/json">{"src": "https://a.org"}</script>'])
def test_a_link_is_no_request(page): assert offline.html_requests(page) == []


def test_step_after_rendering_removes_what_quarto_adds(pages, tmp_path):
    project = yaml.safe_load((ROOT / "nbs" / "_quarto.yml").read_text())["project"]
    page = f"<html><head>{ADDED}<script src='site_libs/x.js'></script></head><body><table></table></body></html>"
    (tmp_path / "index.html").write_text(page)
    run = lambda: subprocess.run([sys.executable, project["post-render"]], cwd=pages, env=os.environ | {"QUARTO_PROJECT_OUTPUT_DIR": str(tmp_path)},
                                 capture_output=True, text=True)
    assert len(offline.html_requests(page)) == 2
    assert run().returncode == 0 and (tmp_path / "index.html").read_text() == page.replace(ADDED, "")
    (tmp_path / "font.css").write_text("@import url(https://fonts.a.org/css2?family=Lato);")
    assert run().returncode == 1 and "font.css requests https://fonts.a.org" in run().stderr


# Nothing is wider than the screen

WIDE_PICTURE = "data:image/svg+xml;utf8,<svg xmlns='http://www.w3.org/2000/svg' width='2000' height='10'/>"


def as_quarto_names_it(text: str) -> str:
    "The body of a page, with Quarto's class of outputs, a wide picture in place of every picture, and no formulas (they scroll by themselves)."
    body = re.sub(r"\$\$.*?\$\$|\$[^$\n]{1,200}\$", "x", text.partition("styles.css>")[2], flags=re.S)
    body = re.sub(r"(<img[^>]*? src=)[\"'][^\"']*[\"']", rf'\1"{WIDE_PICTURE}"', body)
    return body.replace('class="output_area', 'class="cell-output cell-output-display output_area')


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_its_screen(site, browser, tmp_path, width):
    sections = "".join(f'<section data-page="{name}">{as_quarto_names_it(text)}</section>' for name, text in site.items())
    style = (ROOT / "nbs" / "styles.css").read_text() + "body { margin: 16px } pre { overflow-x: auto }"  # and what Bootstrap adds
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8><style>{style}</style><main>{sections}</main>")
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto((tmp_path / "page.html").as_uri())
    wide = "() => [...document.querySelectorAll('section')].filter(s => s.scrollWidth > s.clientWidth).map(s => s.dataset.page)"
    assert page.evaluate("document.images.length") > 100
    assert page.evaluate(wide) == []
    page.evaluate("document.querySelector('section').insertAdjacentHTML('beforeend', '<div style=\"width:2000px\">wide</div>')")
    assert len(page.evaluate(wide)) == 1  # and one would have been seen
    page.close()


# Settings of the site

WEB_FONTS = {"cosmo", "cyborg", "darkly", "flatly", "journal", "litera", "lumen", "lux", "materia", "minty", "morph", "pulse", "quartz", "sandstone",
             "simplex", "sketchy", "solar", "spacelab", "superhero", "united", "vapor", "yeti", "zephyr"} # themes that load their letters from elsewhere


def test_settings_of_the_site_ask_nobody_and_have_a_dark_mode(pages):
    top = yaml.safe_load((ROOT / "_quarto.yml").read_text())
    form = top["format"]["html"]
    assert form["html-math-method"] == "mathml", "mathjax and katex come from elsewhere unless they are shipped"
    assert set(form["theme"]) == {"light", "dark"} and form["respect-user-color-scheme"] is True
    for scheme in form["theme"].values():
        for part in [scheme] if isinstance(scheme, str) else scheme:
            assert part not in WEB_FONTS and (part == "default" or (pages / part).is_file()), part
    assert (pages / form["css"]).is_file()
    website = top["website"]
    assert not {"google-analytics", "comments", "cookie-consent"} & set(website)
    assert not re.search(r"https?://", (ROOT / "_quarto.yml").read_text() + (ROOT / "nbs" / "_quarto.yml").read_text())


def test_colours_of_the_dark_mode_can_be_read():
    named = dict(re.findall(r"^\$([\w-]+): *(#[0-9a-f]{6})", (ROOT / "nbs" / "dark.scss").read_text(), re.M))
    def light(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return sum(w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for w, c in zip((0.2126, 0.7152, 0.0722), parts))
    for front, back in [("body-color", "body-bg"), ("link-color", "body-bg"), ("code-color", "body-bg"), ("body-color", "code-block-bg"), ("sidebar-fg", "body-bg"), ("table-color", "body-bg"),
                        ("body-emphasis-color", "body-bg"), ("body-color", "popover-bg")]:
        a, b = sorted((light(named[front]), light(named[back])))
        assert (b + 0.05) / (a + 0.05) >= 4.5, f"{front} on {back}"
