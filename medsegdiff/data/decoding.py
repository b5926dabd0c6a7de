"""Picture files -> grey arrays. What a file claims to be is checked before any of it is decoded."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from medsegdiff.errors import UserError

# Ultrasound frames have 300 to 2,000 pixels a side, so nothing real is refused; and a grey picture within this bound
# takes 100 MB at most, where a file of some kB may claim gigabytes.
MAX_SIDE = 10_000
RESTORE = "Restore the file."
PNG_END = b"IEND\xaeB`\x82"

warnings.filterwarnings("ignore", module=r"PIL\.")  # about odd files, beside what we report


@dataclass(frozen=True)
class Kind:
    """A picture format."""

    name: str
    signatures: tuple[bytes, ...]  # how its files begin
    endings: tuple[str, ...]  # of its file names, lower-case
    reader: type[ImageFile]  # reads the header at once, pixels when asked to


PNG = Kind("PNG", (b"\x89PNG\r\n\x1a\n",), (".png",), PngImageFile)
KINDS = (
    PNG,
    Kind("JPEG", (b"\xff\xd8\xff",), (".jpg", ".jpeg"), JpegImageFile),
    Kind("BMP", (b"BM",), (".bmp",), BmpImageFile),
    Kind("TIFF", (b"II*\0", b"MM\0*"), (".tif", ".tiff"), TiffImageFile),
)


def read_picture(path: Path, channels: int) -> np.ndarray:
    """Read a picture as (H, W) uint8 grey for 1 channel or (H, W, 3) RGB for 3; grey is Rec. 601 luma of colour.

    Raises `UserError` where the file is damaged, of another kind than its name says, larger than `MAX_SIDE` or not 8
    bits deep, `OSError` where the system does not give it.
    """
    data = path.read_bytes()
    _check_file(path, data)
    picture = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise UserError(path, "a file that cannot be decoded", "a whole picture", RESTORE)
    if picture.dtype != np.uint8:
        found = f"{8 * picture.dtype.itemsize}-bit pixels"
        raise UserError(path, found, "8-bit pixels", "Convert the picture to 8 bits.")
    if picture.ndim == 2:
        return picture if channels == 1 else cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)
    if channels == 3:
        return np.ascontiguousarray(picture[..., 2::-1])
    code = cv2.COLOR_BGRA2GRAY if picture.shape[2] == 4 else cv2.COLOR_BGR2GRAY
    return cv2.cvtColor(picture, code)


def read_grey(path: Path) -> np.ndarray:
    """Read a picture as (H, W) uint8 grey. Raises as `read_picture` does."""
    return read_picture(path, 1)


def _check_file(path: Path, data: bytes) -> None:
    """Raise `UserError` unless `data` is a whole picture of the kind that the name says, and of a sensible size.

    Some versions of OpenCV decode a file that was cut off to half a picture without a word.
    """
    kind = next((k for k in KINDS if path.suffix.lower() in k.endings), PNG)
    found = next((k for k in KINDS if data.startswith(k.signatures)), None)
    expected = f"a whole {kind.name} picture"
    if found is None:
        raise UserError(path, "a file that is no picture" if data else "an empty file", expected, RESTORE)
    if found is not kind:
        hint = f"Save it as {kind.name}, or correct the ending of its name."
        raise UserError(path, f"a {found.name} picture", f"{expected}, as its name says", hint)
    try:
        header = kind.reader(io.BytesIO(data))
        if fits := max(header.size) <= MAX_SIDE:
            # Checksums show it for PNG at a twentieth of the price of decoding; the others have none.
            header.verify() if kind is PNG else header.load()
        if kind is PNG and PNG_END not in data:  # whose checksum Pillow leaves out
            raise ValueError("no whole end chunk")
    except (SyntaxError, OSError, ValueError, EOFError, IndexError) as error:  # what Pillow raises for broken files
        raise UserError(path, "a damaged or cut-off file", expected, RESTORE) from error
    if not fits:
        width, height = header.size
        limit = f"at most {MAX_SIDE} pixels a side"
        raise UserError(path, f"{width} x {height} pixels", limit, "Shrink the picture, or remove it.")
