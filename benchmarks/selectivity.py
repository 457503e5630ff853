"""What each latent group of a fitted model changes, and which criteria of selective guidance are met: one command, with intervals.

    python benchmarks/selectivity.py --run RUN --out FOLDER [--pairs 64] [--modes selective paper] [--gammas 0 0.1 0.2] [--steps 45]
                                     [--lever "interval=(150, 45)" hold=0.5] [--device auto]

RUN is a folder of `MIGVis.save` or `migvis demo`. Prints the criteria at every strength (* where met) and writes to FOLDER: the edits,
table.csv, scores.csv, realism.csv, settings.json and selectivity.png. Edits that are already in FOLDER are not made again, so an interrupted run goes on.
"""
import argparse
import ast
import time
from pathlib import Path

import pandas as pd
import torch

from migvis.measure.edits import run_selectivity
from migvis.model import MIGVis
from migvis.measure.readouts import load_readouts
from migvis.support.presets import EditSettings


def lever(text: str) -> tuple[str, object]:
    "name=value of a field of `EditSettings`."
    name, _, value = text.partition("=")
    try: return name, ast.literal_eval(value)
    except (ValueError, SyntaxError): return name, value


def main(arguments: argparse.Namespace) -> None:
    if arguments.threads: torch.set_num_threads(arguments.threads)
    model, judge, out = MIGVis.load(arguments.run, arguments.device), load_readouts(arguments.judge, arguments.device), Path(arguments.out)
    given = dict(lever(text) for text in arguments.lever)
    if arguments.gammas: given["gammas"] = tuple(arguments.gammas)
    if arguments.steps: given["steps"] = arguments.steps
    settings = {mode: EditSettings(mode, **given) for mode in arguments.modes}
    start = time.perf_counter()
    result = run_selectivity(model, judge, arguments.pairs, settings, folder=out, seed=arguments.seed, progress=not arguments.quiet)
    with pd.option_context("display.width", 250, "display.max_columns", 20, "display.max_rows", 500, "display.max_colwidth", 60):
        print(result.report().to_string())
    told = result.settings
    print(f"\n{told['n_pairs']} pairs; held-out images: improved precision {told['reference']['realism']:.3f}, KID {told['reference']['kid']:.4f}; latents read "
          f"from images by the judge: R2 {', '.join(f'{r:.2f}' for r in told['latents_r2'])}; {time.perf_counter() - start:.0f} s")
    result.plot().savefig(out / "selectivity.png", dpi=110)
    for name in settings: print(f"{name}: most moved and kept at gamma {result.best_gamma(name):g}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--modes", nargs="+", default=["selective", "paper"])
    parser.add_argument("--gammas", nargs="+", type=float, default=None)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--lever", nargs="*", default=[])
    parser.add_argument("--judge", default="demo")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true")
    main(parser.parse_args())
