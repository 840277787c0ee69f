"""`hilum-medmo build` and `hilum-medmo ask`: the package from a shell."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hilum_medmo import grounding
from hilum_medmo.build import built
from hilum_medmo.config import read_config
from hilum_medmo.engine import load
from hilum_medmo.errors import MedMOError
from hilum_medmo.identity import checkpoint_digest, read_identity
from hilum_medmo.model import Request


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it did its work, 1 with a sentence on stderr if it could not."""
    parser = argparse.ArgumentParser(prog="hilum-medmo", description=__doc__)
    commands = parser.add_subparsers(required=True)
    build = commands.add_parser("build", help="build a checkpoint's ONNX graphs unless they are there")
    build.add_argument("--checkpoint", type=Path, required=True)
    build.set_defaults(run=_build)
    ask = commands.add_parser("ask", help="ask MedMO about images")
    ask.add_argument("--checkpoint", type=Path, required=True)
    ask.add_argument("--image", type=Path, action="append", default=[], help="an image file; repeat for several")
    ask.add_argument("--prompt", default="Detect and localize all abnormalities in this image.")
    ask.add_argument("--max-new-tokens", type=int, default=256)
    ask.add_argument("--threads", type=int)
    ask.set_defaults(run=_ask)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (MedMOError, OSError) as error:
        print(f"hilum-medmo: {error}", file=sys.stderr)
        return 1
    return 0


def _build(options: argparse.Namespace) -> None:
    checkpoint: Path = options.checkpoint
    started = time.perf_counter()
    digest = checkpoint_digest(checkpoint)
    identity = read_identity(checkpoint, digest)
    with built(checkpoint, read_config(checkpoint), digest) as graphs:
        files = sorted(graphs.decoder.parent.iterdir())
        done = f"built in {time.perf_counter() - started:.1f} s" if graphs.fresh else "already built"
        print(f"{identity.name} {identity.version} (sha256 {identity.digest}): {done}")
        for path in files:
            print(f"  {path}  {path.stat().st_size / 1e6:.2f} MB")


def _ask(options: argparse.Namespace) -> None:
    medmo = load(options.checkpoint, threads=options.threads)
    images = tuple(np.asarray(Image.open(path).convert("RGB")) for path in options.image)
    generation = medmo.generate(Request(images, options.prompt, options.max_new_tokens))
    print(generation.text)
    times = generation.timings
    rate = times.decode_s / max(len(generation.tokens) - 1, 1)
    print(
        f"# {generation.finish}, {len(generation.tokens)} tokens; preprocess {times.preprocess_s:.3f} s,"
        f" prefill {times.prefill_s:.3f} s (vision {times.vision_s:.3f} s), decode {rate * 1e3:.2f} ms a token",
        file=sys.stderr,
    )
    try:
        found = grounding.parse(generation.text, no_finding=medmo.identity.no_finding)
    except grounding.GrammarError as error:
        print(f"# not a grounded answer: {error}", file=sys.stderr)
        return
    for item, scores in zip(found, grounding.score(generation, found), strict=True):
        for box, score in zip(item.boxes, scores, strict=True):
            print(f"# {item.label} {box.x1} {box.y1} {box.x2} {box.y2}: {score.confidence:.3f}", file=sys.stderr)
    print(f"# {medmo.identity.disclaimer}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
