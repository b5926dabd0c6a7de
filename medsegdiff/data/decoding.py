"""Picture files -> arrays. What a file claims to be is checked before any of it is decoded."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps
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
ORIENTATION = 0x0112  # EXIF and TIFF tag: 1 upright, 2 to 8 turned or mirrored

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


@dataclass(frozen=True)
class Decoded:
    """The pixels of a picture file, upright."""

    pixels: np.ndarray  # (H, W) uint8 grey, (H, W, 3) BGR or (H, W, 4) BGR and alpha
    numbers: np.ndarray | None  # (H, W) uint8 numbers of colours where the file has a palette

    @property
    def grey(self) -> np.ndarray:
        """(H, W) uint8; colour is converted (Rec. 601 luma), alpha left out."""
        if self.pixels.ndim == 2:
            return self.pixels
        code = cv2.COLOR_BGRA2GRAY if self.pixels.shape[2] == 4 else cv2.COLOR_BGR2GRAY
        return cv2.cvtColor(self.pixels, code)

    @property
    def colours(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, alpha left out."""
        if self.pixels.ndim == 2:
            return cv2.cvtColor(self.pixels, cv2.COLOR_GRAY2RGB)
        return np.ascontiguousarray(self.pixels[..., 2::-1])


def decode(path: Path) -> Decoded:
    """Read a picture file, turned upright where its EXIF orientation says that it is not, as every viewer shows it.

    Raises `UserError` where the file is damaged, of another kind than its name says, larger than `MAX_SIDE` or not 8
    bits deep, `OSError` where the system does not give it.
    """
    data = path.read_bytes()
    mode, turned = _check_file(path, data)
    if turned or mode == "P":
        with Image.open(io.BytesIO(data)) as file:
            upright = ImageOps.exif_transpose(file) if turned else file
            numbers = np.array(upright) if mode == "P" else None
            if turned:
                return Decoded(_pillow_pixels(path, upright), numbers)
    else:
        numbers = None
    picture = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise UserError(path, "a file that cannot be decoded", "a whole picture", RESTORE)
    if picture.dtype != np.uint8:
        found = f"{8 * picture.dtype.itemsize}-bit pixels"
        raise UserError(path, found, "8-bit pixels", "Convert the picture to 8 bits.")
    return Decoded(picture, numbers)


def _pillow_pixels(path: Path, picture: Image.Image) -> np.ndarray:
    """Pixels of a Pillow picture in the order of OpenCV."""
    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        raise UserError(path, f"pixels of mode {picture.mode}", "8-bit pixels", "Convert the picture to 8 bits.")
    if picture.mode in ("1", "L"):
        return np.array(picture.convert("L"))
    if "A" in picture.mode or "transparency" in picture.info:
        return cv2.cvtColor(np.array(picture.convert("RGBA")), cv2.COLOR_RGBA2BGRA)
    return cv2.cvtColor(np.array(picture.convert("RGB")), cv2.COLOR_RGB2BGR)


def read_grey(path: Path) -> np.ndarray:
    """Read a picture as (H, W) uint8 grey, upright. Raises as `decode` does."""
    return decode(path).grey


def read_picture(path: Path, channels: int) -> np.ndarray:
    """Read a picture upright, as (H, W) uint8 grey for 1 channel or (H, W, 3) RGB for 3. Raises as `decode` does."""
    found = decode(path)
    return found.grey if channels == 1 else found.colours


def _check_file(path: Path, data: bytes) -> tuple[str, bool]:
    """Raise `UserError` unless `data` is a whole picture of the kind that the name says, and of a sensible size.

    Returns its mode (as Pillow calls it), and whether its pixels are stored turned or mirrored.

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
            mode, turned = header.mode, _is_turned(header, data)
        if kind is PNG and PNG_END not in data:  # whose checksum Pillow leaves out
            raise ValueError("no whole end chunk")
    except (SyntaxError, OSError, ValueError, EOFError, IndexError) as error:  # what Pillow raises for broken files
        raise UserError(path, "a damaged or cut-off file", expected, RESTORE) from error
    if not fits:
        width, height = header.size
        limit = f"at most {MAX_SIDE} pixels a side"
        raise UserError(path, f"{width} x {height} pixels", limit, "Shrink the picture, or remove it.")
    return mode, turned


def _is_turned(header: ImageFile, data: bytes) -> bool:
    """Whether EXIF (or the tag of TIFF) says an orientation other than upright."""
    if isinstance(header, PngImageFile):  # whose checksums have been read; what it says may come after the pixels
        if b"eXIf" not in data:
            return False
        header = PngImageFile(io.BytesIO(data))
        header.load()
    stored = header.getexif().get(ORIENTATION, 1)
    return stored not in (0, 1)
