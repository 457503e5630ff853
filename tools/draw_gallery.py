"""All figures of a preset by one command, which goes on where it was stopped.

    python -m tools.draw_gallery OUT [--preset sharp] [--pairs 64] [--only 4 11] [--device auto]

Simulates the recording M1, fits into OUT/run, measures what the groups change on so many pairs (0: not), and draws into OUT/figures.
What is there already is not made again: stages of the fit, measured edits, figures. So a run may begin on a GPU and end on a CPU.
"""
import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw_missing(model: Any, out: Path, names: Sequence[str]) -> None:
    "Draw the figures whose files are not there yet; each is written before the next begins."
    from migvis.show.gallery import make_figures

    for name in names:
        if (out / "figures" / f"{name}.png").is_file(): continue
        try: made = make_figures(model, out / "figures", name, "png", progress=False, run=out / "run")[name][0]
        except (ValueError, FileNotFoundError) as reason: made = f"left out: {reason}"
        print(f"{name}: {made}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    "Fit, measure, draw."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", default="sharp")
    parser.add_argument("--pairs", type=int, default=0, help="held-out pairs on which groups are measured (default 0: not)")
    parser.add_argument("--only", nargs="+", help="figures to draw (default: all that are possible)")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    from migvis import EditSettings, MIGVis, simulate_hvm
    from migvis.figures import _save_figure
    from migvis.show.gallery import FIGURES, _figure_names
    from migvis.support.presets import get_preset

    preset, run = get_preset(options.preset), options.out / "run"
    names = sum((_figure_names(name) for name in options.only or FIGURES), [])
    recording = simulate_hvm(n_images=preset.n_images, size=preset.image_size, subject="M1")
    model = MIGVis(preset, device=options.device).fit(recording, out=run)
    if options.pairs:
        result = model.selectivity(options.pairs, EditSettings(steps=min(45, preset.t_edit)), folder=run / "selectivity")
        _save_figure(result.plot(), options.out / "figures" / "selectivity.png")
    draw_missing(model, options.out, names)


if __name__ == "__main__": main()
