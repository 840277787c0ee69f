"""`python -m hilum_modelops.evaluate`: every figure of the model card, and the thresholds in hilum.json.

Answers are kept in the work folder (`test-a.jsonl` and so on) and asked again only if missing or of other weights.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from hilum_medmo.identity import checkpoint_digest
from hilum_modelops.evaluation import card, figures
from hilum_modelops.evaluation.questioning import TEST_SEED, VALIDATION_SEED, Answered, answer_all, read, save

CHECKPOINT = Path("shared/medmo/checkpoints/medmo-nano")


def _answers(args: argparse.Namespace, name: str, seed: int, count: int, variant: str, talk: bool) -> list[Answered]:
    digest = checkpoint_digest(args.checkpoint)[:12]
    path = Path(args.work) / f"{name}-{count}-{digest}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return read(path)
    results = []
    for result in answer_all(args.checkpoint, seed, count, variant, talk, args.workers):
        results.append(result)
        if len(results) % 50 == 0:
            print(f"{name}: {len(results)} of {count}", flush=True)
    save(path, results)
    return results


def calibrate(args: argparse.Namespace) -> None:
    """Sets the thresholds in hilum.json from validation images."""
    results = _answers(args, "validation", VALIDATION_SEED, args.validation, "a", False)
    path = args.checkpoint / "hilum.json"
    declared = json.loads(path.read_text())
    declared["thresholds"] = figures.calibrate(results)
    path.write_text(json.dumps(declared, indent=2) + "\n")
    print(json.dumps(declared["thresholds"]))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures, on images that nothing was chosen on."""
    thresholds = json.loads((args.checkpoint / "hilum.json").read_text())["thresholds"]
    a = _answers(args, "test-a", TEST_SEED, args.count, "a", True)
    b = _answers(args, "test-b", TEST_SEED, args.count, "b", False)
    return {
        "seed": TEST_SEED,
        "a": figures.located(a, None).figures(),
        "a_thresholds": figures.located(a, thresholds).figures(),
        "b": figures.located(b, None).figures(),
        "b_thresholds": figures.located(b, thresholds).figures(),
        "blobs": figures.baseline(a).figures(),
        "questions": figures.questions(a),
        "reports": figures.reports(a),
        "difficulty": figures.difficulty(a),
        "seconds_p50": statistics.median(r.seconds for r in a),
    }


def main(argv: list[str] | None = None) -> int:
    """Calibrates if asked, measures, prints, and writes the card where the facts of training are known."""
    parser = argparse.ArgumentParser(prog="hilum-modelops evaluate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--work", type=Path, default=Path("build/evaluation"), help="where answers are kept")
    parser.add_argument("--count", type=int, default=500, help="held-out images of each variant")
    parser.add_argument("--validation", type=int, default=400, help="validation images for --calibrate")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--calibrate", action="store_true", help="choose the thresholds anew, from validation images")
    parser.add_argument("--facts", type=Path, help="facts.json of the training: also writes README.md")
    args = parser.parse_args(argv)
    if args.calibrate:
        calibrate(args)
    measured = measure(args)
    print(json.dumps(measured, indent=2))
    if args.facts:
        thresholds = json.loads((args.checkpoint / "hilum.json").read_text())["thresholds"]
        (args.checkpoint / "README.md").write_text(card.write(measured, json.loads(args.facts.read_text()), thresholds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
