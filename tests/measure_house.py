"""Measure the house: sizes, names, cells, lines, imports; run as `python -m tests.measure_house` (--rooms: one line for each module).

Goals are those of the design; `test_project.py` holds them.
"""
import ast
import json
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHAPTERS = ["data", "vae", "partial_correlation", "denoiser", "infonce", "ddim_guidance", "figures", "model", "cli"]
GOALS = {"lines": 14_000, "files over 700 lines": 0, "public names": 250, "median cell": 10, "95 % of cells": 30, "longest cell": 40,
         "lines over 100, %": 2, "lines over 110": 0, "**options": 10, "circles": 0, "wrong imports": 0}


def modules() -> dict[str, str]:
    "Source of every module by its dotted name; generated and dunder files left out."
    paths = sorted(p for p in (ROOT / "migvis").rglob("*.py") if not p.stem.startswith("_"))
    return {".".join(p.relative_to(ROOT / "migvis").with_suffix("").parts): p.read_text(encoding="utf-8") for p in paths}


def code_lines(source: str) -> list[str]:
    "Lines that somebody reads: no blank ones, no marks of cells."
    return [line for line in source.splitlines() if line.strip() and not line.startswith("# %% ")]


def written_lines(source: str) -> list[str]:
    "Lines that somebody writes: without `__all__`, which nbdev makes and wraps."
    start = source.find("__all__ = [")
    return code_lines(source if start < 0 else source[:start] + source[source.index("]", start) + 1:])


def public_names(source: str) -> list[str]:
    "What a module offers: its `__all__`."
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__": return ast.literal_eval(node.value)
    return []


def exported_cells() -> list[tuple[str, list[str]]]:
    "Notebook and code lines of every exported cell."
    found = []
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts: continue
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and re.match(r"#\s*\|\s*export", source):
                name = str(path.relative_to(ROOT / "nbs").with_suffix(""))
                found.append((name, [line for line in source.splitlines() if line.strip() and not re.match(r"#\s*\|", line)]))
    return found


def imported_modules(name: str, source: str, known: set[str], at_top: bool = False) -> set[str]:
    "Modules of migvis that a module imports, as dotted names; `at_top` leaves out imports inside functions."
    tree, found = ast.parse(source), set()
    for node in tree.body if at_top else ast.walk(tree):
        if not isinstance(node, ast.ImportFrom): continue
        if node.level:
            base = ".".join([*name.split(".")[:-node.level], *filter(None, [node.module])])
        elif (node.module or "").split(".")[0] == "migvis":
            base = node.module.removeprefix("migvis").lstrip(".")
        else:
            continue
        found |= {place for a in node.names for place in (base, f"{base}.{a.name}".lstrip(".")) if place in known}
    return found - {name}


def forbidden(name: str, imports: set[str]) -> set[str]:
    "Imports that break the order: chapters look back and into support only, nothing below the model knows it."
    room = name.split(".")[0]
    if name in ("model", "cli") or room in ("compare", "show"): return imports & {"cli"}
    if name in CHAPTERS:
        earlier = CHAPTERS[: CHAPTERS.index(name)]
        return {i for i in imports if i not in earlier and not i.startswith("support.")}
    if room == "support": return {i for i in imports if not i.startswith("support.")}
    return {i for i in imports if i in ("model", "cli") or i.startswith(("compare.", "show."))}


def circle(needs: dict[str, set[str]]) -> set[str]:
    "Modules on a circle of imports, or that need one: what is left after taking away, again and again, what needs nothing."
    needs = dict(needs)
    while leaves := {name for name, others in needs.items() if not others}:
        needs = {name: others - leaves for name, others in needs.items() if name not in leaves}
    return set(needs)


def typed_imports(source: str) -> str:
    "The source without `if TYPE_CHECKING` blocks, which import nothing when the program runs."
    tree = ast.parse(source)
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    return ast.unparse(tree)


def measure() -> dict[str, float]:
    "All numbers that have a goal."
    sources, cells = modules(), [len(lines) for _, lines in exported_cells()]
    lines = [line for source in sources.values() for line in code_lines(source)]
    written = [line for source in sources.values() for line in written_lines(source)]
    bare = {name: typed_imports(source) for name, source in sources.items()}
    wrong = [(name, i) for name, source in bare.items() for i in forbidden(name, imported_modules(name, source, set(sources)))]
    catchalls = [f for source in sources.values() for f in ast.walk(ast.parse(source)) if isinstance(f, ast.FunctionDef) and f.args.kwarg]
    return {
        "lines": len(lines),
        "files over 700 lines": sum(len(code_lines(source)) > 700 for source in sources.values()),
        "public names": sum(len(public_names(source)) for source in sources.values()),
        "median cell": statistics.median(cells),
        "95 % of cells": sorted(cells)[int(0.95 * len(cells))],
        "longest cell": max(cells),
        "lines over 100, %": round(100 * sum(len(line) > 100 for line in written) / len(written), 1),
        "lines over 110": sum(len(line) > 110 for line in written),
        "**options": len(catchalls),
        "circles": len(circle({name: imported_modules(name, s, set(sources), at_top=True) for name, s in bare.items()})),
        "wrong imports": len(wrong),
    }


def rooms() -> None:
    "One line for each module: what is large or long there."
    cells = exported_cells()
    for name, source in modules().items():
        lines = code_lines(source)
        own = [c for n, c in cells if re.sub(r"(^|/)\d+_", r"\1", n).replace("/", ".") == name]
        sizes = sorted(map(len, own)) or [0]
        catchalls = sum(isinstance(f, ast.FunctionDef) and f.args.kwarg is not None for f in ast.walk(ast.parse(source)))
        print(f"{name:32} lines {len(lines):4}  public {len(public_names(source)):2}  cells {statistics.median(sizes):4.0f} / "
              f"{sizes[int(0.95 * len(sizes))]:3} / {sizes[-1]:3}  over 100: {sum(len(x) > 100 for x in lines):3}  over 110: "
              f"{sum(len(x) > 110 for x in lines):3}  **: {catchalls}")


def main() -> int:
    "Print every number beside its goal; 1 if one is missed."
    numbers = measure()
    for key, number in numbers.items(): print(f"{key:24}{number:>8}   goal {GOALS[key]:>6}{'' if number <= GOALS[key] else '   missed'}")
    if "--rooms" in sys.argv: rooms()
    return int(any(number > GOALS[key] for key, number in numbers.items()))


if __name__ == "__main__":
    sys.exit(main())
