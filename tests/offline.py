"""Pages that ask no other host for anything: what a page requests when it is opened, and a step after Quarto that sees to it.

Quarto adds require.js and jQuery from a content network to every page that has a table or other HTML among its outputs, for plots
that need them. Ours do not. As a step after rendering (`post-render` in nbs/_quarto.yml; also `python tests/offline.py FOLDER`) this
takes both out again, and fails if any page still requests anything from elsewhere. Links that a reader may click are no requests.
"""
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

ELSEWHERE = re.compile(r"\s*(?:(?:https?|wss?|ftp):)?//", re.I)
SOURCES = {"src", "srcset", "poster", "data", "background", "code", "codebase", "manifest", "formaction"}
NO_REQUEST = {"canonical", "alternate", "author", "license", "help", "next", "prev", "search", "bookmark", "me", "up", "home"} # of a <link>
IN_CSS = re.compile(r"""url\(\s*['"]?([^'")]+)|@import\s+['"]([^'"]+)""", re.I)
IN_SCRIPT = re.compile(r"""(?:fetch|import|importScripts|require|Worker|WebSocket|EventSource|sendBeacon|Request|getScript)\s*\(\s*[\[('"`]+([^'"`)]+)"""
                       r"""|\.open\(\s*['"`]\w+['"`]\s*,\s*['"`]([^'"`]+)|\bfrom\s+['"]([^'"]+)|\bimport\s+['"]([^'"]+)"""
                       r"""|\.(?:src|srcset|href)\s*=\s*['"`]([^'"`]+)""")
WIDGETS = re.compile(r"""<script\b[^>]*\bsrc=["']https?://[^"']*/(?:require|jquery)(?:\.min)?\.js["'][^>]*>\s*</script>\s*"""
                     r"""|<script\b[^>]*>\s*define\('jquery', *\[\], *function\(\) *\{ *return window\.jQuery; *\}\)\s*</script>\s*""", re.I)


def css_requests(text: str) -> list[str]:
    "What a style sheet requests from elsewhere."
    return [url for match in IN_CSS.finditer(text) for url in match.groups() if url and ELSEWHERE.match(url)]


def script_requests(text: str) -> list[str]:
    "What a script says that it requests from elsewhere, as far as addresses are written out."
    return [url for match in IN_SCRIPT.finditer(text) for url in match.groups() if url and ELSEWHERE.match(url)]


class Requests(HTMLParser):
    "Collects the addresses on other hosts that a browser would ask when it opens a page."
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found, self.inside = [], ""

    def handle_starttag(self, tag: str, attributes: list) -> None:
        values = {name: value or "" for name, value in attributes}
        self.inside = {"style": "style", "script": "script"}.get(tag, "")
        if tag == "script" and re.search(r"json|template|markdown", values.get("type", "")): self.inside = ""
        if tag == "base": self.keep([values.get("href", "")])
        if tag == "link" and not set(values.get("rel", "").lower().split()) & NO_REQUEST: self.keep([values.get("href", "")])
        if tag in ("use", "image", "feimage"): self.keep([values.get("href", ""), values.get("xlink:href", "")])
        if tag == "meta" and values.get("http-equiv", "").lower() == "refresh": self.keep([values.get("content", "").partition("=")[2]])
        if tag != "meta": self.keep(part for name in SOURCES & set(values) for part in re.split(r",\s+", values[name]))
        if "style" in values: self.found += css_requests(values["style"])
        if "srcdoc" in values: self.found += html_requests(values["srcdoc"])
        for name, value in values.items():
            if name.startswith("on"): self.found += script_requests(value)

    def handle_endtag(self, tag: str) -> None: self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside: self.found += {"style": css_requests, "script": script_requests}[self.inside](data)

    def keep(self, urls) -> None: self.found += [url.split()[0] for url in urls if ELSEWHERE.match(url)]


def html_requests(text: str) -> list[str]:
    "Addresses on other hosts that are asked when a page is opened."
    parser = Requests()
    parser.feed(text)
    parser.close()
    return parser.found


def requests_of(path: Path) -> list[str]:
    "The same for a page, a style sheet or a script."
    kinds = {".html": html_requests, ".htm": html_requests, ".svg": html_requests, ".css": css_requests, ".scss": css_requests,
             ".js": script_requests}
    return kinds[path.suffix](path.read_text(encoding="utf-8")) if path.suffix in kinds else []


def without_widgets(text: str) -> str:
    "A page without the require.js and jQuery that Quarto adds."
    return WIDGETS.sub("", text)


def main(folder: Path) -> int:
    "Clean the pages of a site; 1 if one of them would still ask another host."
    bad = []
    for page in sorted(folder.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        clean = without_widgets(text)
        if clean != text: page.write_text(clean, encoding="utf-8")
        bad += [f"{page.relative_to(folder)} requests {url}" for url in html_requests(clean)]
    bad += [f"{sheet.relative_to(folder)} requests {url}" for sheet in sorted(folder.rglob("*.css")) for url in requests_of(sheet)]
    if bad: print("\n".join(bad), file=sys.stderr)
    return int(bool(bad))


if __name__ == "__main__":
    where = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("QUARTO_PROJECT_OUTPUT_DIR")
    sys.exit("python tests/offline.py FOLDER: the folder of the site is missing" if where is None else main(Path(where)))
