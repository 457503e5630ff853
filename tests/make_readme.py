"""Write README.md from nbs/index.ipynb; run as `python -m tests.make_readme` (--check only compares).

Markdown cells are taken as they are, code cells as fenced code with their text output, cells marked `#| hide` not at all.
Links to notebooks become links to their pages on the site; embedded pages are left out.
"""
import json
import re
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[1]


def site() -> str:
    "Address of the documentation."
    settings = ConfigParser(delimiters=["="], interpolation=None)
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    return settings["DEFAULT"]["doc_host"] + settings["DEFAULT"]["doc_baseurl"]


def pages(text: str) -> str:
    "Point links to notebooks at the site, and pictures at the repository."
    def link(match: re.Match) -> str:
        page = re.sub(r"(^|/)[0-9]+_", r"\1", match[1])
        return f"]({site()}/{page}.html{match[2] or ''})"
    text = re.sub(r"<iframe.*?</iframe>\n*", "", text)  # pages on which the README is read show none
    return re.sub(r"\]\((images/[^)]+)\)", r"](nbs/\1)", re.sub(r"\]\(([\w/]+)\.ipynb(#[\w-]+)?\)", link, text))


def cell(source: dict) -> str:
    "Markdown of one notebook cell."
    text = "".join(source["source"])
    if source["cell_type"] == "markdown": return pages(text)
    if source["cell_type"] != "code" or re.search(r"^#\s*\|\s*hide", text, re.M): return ""
    code = "\n".join(line for line in text.splitlines() if not re.match(r"^#\s*\|", line)).strip()
    return f"```python\n{code}\n```" if code else ""


def readme() -> str:
    "The whole text."
    cells = json.loads((ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8"))["cells"]
    note = "<!-- Made from nbs/index.ipynb by `python -m tests.make_readme`; edit that. -->"
    return "\n\n".join([note, *(text for c in cells if (text := cell(c)))]) + "\n"


def main() -> int:
    "Write, or compare."
    path = ROOT / "README.md"
    if "--check" not in sys.argv:
        path.write_text(readme(), encoding="utf-8")
        return 0
    current = path.is_file() and path.read_text(encoding="utf-8") == readme()
    if not current: print("README.md is not current: run python -m tests.make_readme")
    return 0 if current else 1


if __name__ == "__main__":
    sys.exit(main())
