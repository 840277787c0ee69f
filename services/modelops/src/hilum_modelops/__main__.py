"""`hilum-modelops train | export | evaluate | sample`: the command line. Only train and export import torch."""

import argparse
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hilum_modelops import evaluate
from hilum_modelops.generator import draw_shape, render


def _train(args: argparse.Namespace) -> int:
    from hilum_modelops.training.schedule import run

    run(args.work, args.minutes, args.seed, args.processes)
    return 0


def _export(args: argparse.Namespace) -> int:
    from hilum_modelops.training.export import export

    export(args.work, args.checkpoint)
    return 0


def _sample(args: argparse.Namespace) -> int:
    """One generated radiograph as PNG, with its boxes if asked."""
    rows, cols = draw_shape(args.seed, args.side)
    film = render(args.seed, variant=args.variant, rows=rows, cols=cols)
    image = Image.fromarray(np.round(film.pixels * 255).astype(np.uint8)).convert("RGB")
    if args.boxes:
        pen = ImageDraw.Draw(image)
        for finding in film.findings:
            pen.rectangle(finding.box, outline=(255, 220, 0))
            pen.text((finding.box[0] + 3, finding.box[1] + 2), finding.label, fill=(0, 255, 255))
    image.save(args.out)
    print(f"{args.out}: {', '.join(f.label for f in film.findings) or 'normal'}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs one command; answers the exit status."""
    given = sys.argv[1:] if argv is None else argv
    if given[:1] == ["evaluate"]:
        return evaluate.main(given[1:])
    parser = argparse.ArgumentParser(prog="hilum-modelops", description=__doc__)
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train MedMO-Nano; run again to resume")
    train.add_argument("--work", type=Path, default=Path("build/nano"))
    train.add_argument("--minutes", type=float, default=120.0, help="wall clock, all stages together")
    train.add_argument("--seed", type=int, default=1)
    train.add_argument("--processes", type=int, default=max(1, multiprocessing.cpu_count() // 2))
    train.set_defaults(run=_train)
    export = commands.add_parser("export", help="write the checkpoint folder from a work folder")
    export.add_argument("--work", type=Path, default=Path("build/nano"))
    export.add_argument("--checkpoint", type=Path, default=evaluate.CHECKPOINT)
    export.set_defaults(run=_export)
    commands.add_parser("evaluate", help="measure a checkpoint (see evaluate --help)")
    sample = commands.add_parser("sample", help="write one generated radiograph as PNG")
    sample.add_argument("out", type=Path)
    sample.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    sample.add_argument("--variant", choices=("a", "b"), default="a")
    sample.add_argument("--side", type=int, default=768, help="mean side in pixels")
    sample.add_argument("--boxes", action="store_true")
    sample.set_defaults(run=_sample)
    args = parser.parse_args(given)
    return int(args.run(args))


if __name__ == "__main__":
    raise SystemExit(main())
