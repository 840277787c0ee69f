"""A multi-frame object of 600 MB: a reader takes one frame of it from S3 or from a folder and stays small."""

import hashlib
import io
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from hilum.adapters.instances import open_instances
from hilum.testing.dicom_files import chest_image, write
from hilum.testing.s3 import S3Server, s3_server

ROWS, COLUMNS, FRAMES = 2048, 2560, 60
LIMIT_MB = 1000
PIXEL_DATA, ITEM = struct.pack("<HH", 0x7FE0, 0x0010), struct.pack("<HH", 0xFFFE, 0xE000)
PROGRAM = """
import sys
from pathlib import Path
from hilum.adapters.instances import open_instances
from hilum.domain.inference import ImageReference
from hilum.runtime.cluster import Cluster
from hilum_worker.handlers.examine import show

data, cluster, uri, frames, rows, columns = sys.argv[1:]
store = open_instances(Path(data), Cluster.model_validate_json(cluster) if cluster else None)
for frame in (1, int(frames)):
    image = ImageReference("1.2", "1.2.3", "1.2.4", uri, frame=frame, frames=int(frames), rows=int(rows),
                           columns=int(columns))
    print("mean", round(float(show(image, store).pixels.mean()), 1))
status = Path("/proc/self/status").read_text()
print("peak_mb", int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""


def native(path: Path) -> Path:
    """Uncompressed 16-bit frames, each of one value that grows with its number."""
    window = {"WindowCenter": "30000", "WindowWidth": "60000"}
    write(path, chest_image(np.zeros((2, ROWS, COLUMNS), np.uint16), NumberOfFrames=FRAMES, **window))
    head = before_pixels(path)
    with path.open("wb") as file:
        file.write(head + PIXEL_DATA + b"OW\0\0" + struct.pack("<I", FRAMES * ROWS * COLUMNS * 2))
        for frame in range(FRAMES):
            file.write(np.full(ROWS * COLUMNS, 1000 * frame, "<u2").tobytes())
    return path


def encapsulated(path: Path) -> Path:
    """JPEG fragments without an offset table, padded so that the file is as large: a reader must walk them."""
    dataset = chest_image(np.zeros((2, ROWS, COLUMNS), np.uint8), NumberOfFrames=FRAMES, PixelData=encapsulate([b"x"]))
    dataset["PixelData"].is_undefined_length = True
    head = before_pixels(write(path, dataset, syntax=JPEGBaseline8Bit))
    comment = (b"\xff\xfe" + struct.pack(">H", 65_002) + bytes(65_000)) * 160  # segments that a decoder skips
    with path.open("wb") as file:
        file.write(head + PIXEL_DATA + b"OB\0\0\xff\xff\xff\xff" + ITEM + struct.pack("<I", 0))
        for frame in range(FRAMES):
            jpeg = io.BytesIO()
            Image.fromarray(np.full((ROWS, COLUMNS), 4 * frame, np.uint8)).save(jpeg, "JPEG")
            content = jpeg.getvalue()[:2] + comment + jpeg.getvalue()[2:]
            content += b"\0" * (len(content) % 2)
            file.write(ITEM + struct.pack("<I", len(content)) + content)
        file.write(struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))
    return path


def before_pixels(path: Path) -> bytes:
    content = path.read_bytes()
    return content[: content.index(PIXEL_DATA)]


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    with s3_server(tmp_path / "s3") as server:
        yield server


@pytest.mark.parametrize("make", [native, encapsulated])
def test_a_reader_of_two_frames_from_s3_stays_under_one_gigabyte(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: object
) -> None:
    assert callable(make)
    file = make(tmp_path / "large.dcm")
    assert file.stat().st_size >= 600_000_000
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    cluster = s3.cluster()
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    uri = open_instances(tmp_path / "listener", cluster).publish(file, sop_instance_uid="1.2.3", sha256=sha256)
    file.unlink()
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path / "worker"), cluster.model_dump_json(), uri]
    command += [str(FRAMES), str(ROWS), str(COLUMNS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    said = dict(line.split() for line in done.stdout.splitlines() if not line.startswith("mean"))
    means = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("mean")]
    print(make, "peak", said["peak_mb"], "MB; means", means)
    assert int(said["peak_mb"]) < LIMIT_MB
    assert means[0] < means[1]
