"""`python -m hilum_listener.fuzzing.guided TARGET REPORT FOLDER… OPTION…`: one target under atheris."""

import logging
import random
import sys
import warnings
from pathlib import Path

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]  # `make fuzz` installs it

with atheris.instrument_imports(include=["hilum.adapters.dicom", "hilum_listener", "pynetdicom", "python_multipart"]):
    from hilum_listener.fuzzing.grammar import GRAMMARS, damage
    from hilum_listener.fuzzing.tally import Tally


def main() -> None:
    name, report, *rest = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    make = GRAMMARS[name]

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        """A new input of the grammar, the given one damaged, or what libFuzzer makes of it."""
        draw = random.Random(seed)
        pick = draw.random()
        if pick < 0.4:
            made = make(draw)
        elif pick < 0.75:
            made = damage(data, draw)
        else:
            made = atheris.Mutate(data, max_size)
        return bytes(made)[:max_size]

    atheris.Setup([sys.argv[0], *rest], Tally(name, Path(report)).execute, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
