"""What surrounds a displaced rib fracture on the film: bone splinters and a haematoma, drawn in display units."""

import numpy as np

from hilum_modelops.generator.scene import Box, Plane


def add_splinters(pixels: Plane, box: Box, rng: np.random.Generator) -> None:
    """Changes pixels (rows, cols), 0 to 1, inside a fracture's box (in pixels) in place."""
    x1, y1, x2, y2 = (round(v) for v in box)
    part = pixels[max(y1, 0) : y2, max(x1, 0) : x2]
    high, wide = part.shape
    if high < 4 or wide < 4:
        return
    v = np.linspace(-1, 1, high, dtype=np.float32)[:, None]
    u = np.linspace(-1, 1, wide, dtype=np.float32)[None, :]
    haze = rng.uniform(0.22, 0.34) * np.exp(-2.0 * ((u / 0.62) ** 2 + (v / 0.45) ** 2))
    for _ in range(int(rng.integers(3, 5))):
        turn, at_u, at_v = rng.uniform(0, np.pi), rng.uniform(-0.42, 0.42), rng.uniform(-0.38, 0.38)
        along = (u - at_u) * np.cos(turn) + (v - at_v) * np.sin(turn)
        across = (v - at_v) * np.cos(turn) - (u - at_u) * np.sin(turn)
        haze = np.maximum(haze, rng.uniform(0.5, 0.75) * np.exp(-((along / 0.20) ** 2) - (across / 0.11) ** 2))
    part += haze * np.maximum(1.0 - part, 0.0)
