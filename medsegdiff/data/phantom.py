"""Phantom: simulated B-mode breast ultrasound with exact masks, written as a raw folder in BUSI's layout.

For trying the whole pipeline without patient data. It is physics in miniature, in words:

- Speckle is "fully developed" (Wagner et al. 1983): many scatterers in each resolution cell sum to a circular
  complex Gaussian field; its magnitude, the envelope, is Rayleigh distributed with mean / std = 1.91.
- Tissue differs by how strongly it scatters back and how fast it attenuates; attenuation adds up along the
  beam, which runs down a column. Shadow and enhancement behind a lesion come from that sum alone.
- The picture is the logarithm of the envelope, cut to 50-60 dB, as on every scanner.
- Benign and malignant differ as in the BI-RADS lexicon: oval, parallel, circumscribed, enhancement behind;
  against irregular, spiculate, not parallel, indistinct margin with echogenic halo, shadow behind.

Scattering strengths are in dB relative to fibroglandular tissue, lengths in pixels, depth runs down the rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from medsegdiff.engine.files import make_folder, write_bytes, write_png
from medsegdiff.engine.run_folder import Fingerprint, Kind, RunFolder
from medsegdiff.engine.settings import expand_home, fingerprint_of
from medsegdiff.errors import UserError, require

LABELS = ("benign", "malignant", "normal")
NOTE_FILE = "PHANTOM.txt"
NOTE = "Simulated ultrasound pictures (a phantom) made by medsegdiff. These are NOT patients. Settings:\n"
RECIPE = 1  # raise it when the same settings would give other pictures
MIN_SIDE = 96  # smallest picture that has room for layers and a lesion, pixels
PSF = (0.85, 1.7)  # point-spread function: axial and lateral standard deviation, pixels; the beam is the wider one
NOISE_FLOOR_DB = -46.0  # electronic noise of the receiver

# Layers from the skin down: name, strength in dB, depth of the upper edge as a share of the height.
LAYERS = (
    ("skin", 3.0, 0.0),
    ("fat", -11.0, 0.035),
    ("gland", 0.0, 0.2),
    ("muscle", -8.0, 0.74),
    ("rib", -15.0, 0.92),
)


# Pixel values of label maps (`tissue_classes`); skin and rib are background
TISSUE_VALUES = {"background": 0, "fat": 1, "gland": 2, "muscle": 3, "lesion": 4}


@dataclass(frozen=True)
class PhantomConfig:
    """A simulated data set in the layout of BUSI."""

    output_dir: str  # folder to write; new, empty, or made by the same settings
    num_benign: int = 44  # cases with a benign lesion
    num_malignant: int = 24  # cases with a malignant lesion
    num_normal: int = 0  # cases without a lesion (all-zero masks)
    duplicates: int = 4  # second recordings of cases above, spread over the classes, in addition
    tissue_classes: bool = False  # label maps of lesion and tissue in images/ and masks/, not masks of lesions
    seed: int = 0  # of everything

    def __post_init__(self) -> None:
        expand_home(self)
        for name in ("num_benign", "num_malignant", "num_normal", "duplicates", "seed"):
            require(getattr(self, name) >= 0, f"--{name}", getattr(self, name), "a whole number of 0 or more")
        cases = self.num_benign + self.num_malignant + self.num_normal
        require(cases > 0, "the counts of cases", "0 altogether", "at least one case", "Raise --num_benign.")


@dataclass(frozen=True)
class Lesion:
    """Where one lesion lies and how it looks to the beam."""

    inside: np.ndarray  # (H, W) bool
    strength: float  # scattering inside, dB
    loss: float  # attenuation added by crossing its whole height, dB; negative is enhancement behind
    blur: float  # standard deviation of the margin, pixels
    halo: float  # strength added in a band around it, dB
    texture: float  # standard deviation of the strength inside, dB


def smooth_noise(shape: tuple[int, int], sigma: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """(H, W) smooth Gaussian noise with variance 1; `sigma`: (down, across) correlation length, pixels."""
    noise = cv2.GaussianBlur(rng.standard_normal(shape), (0, 0), sigmaX=sigma[1], sigmaY=sigma[0])
    return np.asarray((noise - noise.mean()) / noise.std())


def speckle_envelope(strength: np.ndarray, rng: np.random.Generator, psf: tuple[float, float] = PSF) -> np.ndarray:
    """(H, W) envelope of fully developed speckle for a (H, W) map of scattering amplitude.

    A complex circular Gaussian field times the amplitude, filtered by a Gaussian point-spread function of
    unit energy, so that the mean of envelope^2 is amplitude^2. `psf`: (axial, lateral) sigma, pixels.
    """
    pad = int(np.ceil(4 * max(psf)))  # mirrored borders would be correlated, hence brighter: cut them off
    padded = np.pad(strength, pad, mode="edge")
    field = rng.standard_normal((*padded.shape, 2)) * padded[..., None] / np.sqrt(2)
    kernels = [cv2.getGaussianKernel(2 * pad + 1, s) for s in psf]
    axial, lateral = (k / np.sqrt(np.sum(k**2)) for k in kernels)
    field = cv2.sepFilter2D(field, cv2.CV_64F, lateral, axial)[pad:-pad, pad:-pad]
    return np.asarray(np.hypot(field[..., 0], field[..., 1]))


def log_compress(envelope: np.ndarray, dynamic_range: float, gain: float) -> np.ndarray:
    """(H, W) uint8 picture of an envelope: level in dB plus `gain`, 0 is white, -`dynamic_range` black."""
    level = 20 * np.log10(np.maximum(envelope, 1e-6)) + gain
    return np.asarray(np.clip(255 * (1 + level / dynamic_range), 0, 255).round().astype(np.uint8))


def _tissue(shape: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) scattering strength in dB of layered breast tissue without a lesion, and (H, W) uint8 `TISSUE_VALUES`."""
    height, width = shape
    rows = np.arange(height)[:, None]
    bend = smooth_noise((1, width), (1.0, width / 5), rng) * height * 0.012  # common to all: the breast is curved
    septa = np.exp(-((smooth_noise(shape, (7.0, 16.0), rng) / 0.10) ** 2))  # zero lines of noise: thin curved sheets
    textures = {
        "skin": np.zeros(shape),
        "fat": 11.0 * septa + 1.0 * smooth_noise(shape, (4.0, 8.0), rng),
        "gland": 2.8 * smooth_noise(shape, (3.0, 12.0), rng) + 3.5 * smooth_noise(shape, (9.0, 22.0), rng),
        "muscle": 3.5 * smooth_noise(shape, (1.3, 30.0), rng),  # fibre bundles, seen lengthwise
        "rib": 1.5 * smooth_noise(shape, (5.0, 20.0), rng),
    }
    strength, lines = np.zeros(shape), np.zeros(shape)
    layers = np.zeros(shape, np.uint8)
    for number, (name, level, share) in enumerate(LAYERS):
        rough = height * (0.004 if name == "fat" else 0.02)
        edge = np.full((1, width), share * height * rng.uniform(0.94, 1.06))
        if number:
            edge = edge + bend + rough * smooth_noise((1, width), (1.0, width / 8), rng)
        below = 1 / (1 + np.exp(-np.clip((rows - edge) / 1.2, -50, 50)))
        strength = strength + below * (level + textures[name] - strength)
        layers[rows >= edge] = TISSUE_VALUES.get(name, 0)
        if name in ("skin", "muscle", "rib"):  # specular: skin surface, fascia, pleura; bright where level
            slope = np.gradient(edge, axis=1)
            lines += 13.0 * np.exp(-(((rows - edge) / 1.6) ** 2) - (slope / 0.25) ** 2)
    return strength + lines, layers


def _contour(label: str, rng: np.random.Generator) -> np.ndarray:
    """(720, 2) outline (x, y) of a lesion around the origin, with area 1."""
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    malignant = label == "malignant"
    aspect = rng.uniform(0.62, 0.88) if malignant else rng.uniform(1.35, 2.1)  # width over height
    radius = np.ones_like(angle)
    for order in range(2, 8):
        size = rng.uniform(0.4, 1.0) * (0.16 / order**0.5 if malignant else 0.05 / order)
        radius += size * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    if malignant:
        for centre in rng.uniform(0, 2 * np.pi, rng.integers(3, 14)):  # spicules
            radius += rng.uniform(0.1, 0.45) * np.exp(rng.uniform(40, 160) * (np.cos(angle - centre) - 1))
    points = np.stack([radius * np.cos(angle) * aspect**0.5, radius * np.sin(angle) / aspect**0.5], axis=1)
    tilt = np.deg2rad(rng.normal(0, 8))
    points = points @ np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    return np.asarray(points / np.sqrt(cv2.contourArea(points.astype(np.float32))))


def _place(outline: np.ndarray, area: float, at: tuple[float, float], shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool inside of an outline, scaled to a share `area` of the picture and put at (x, y) shares.

    It keeps clear of the skin and leaves room below it for its shadow: too tall a lesion is scaled down.
    """
    height, width = shape
    points = outline * np.sqrt(area * height * width)
    points *= min(1.0, 0.56 * height / np.ptp(points[:, 1]), 0.8 * width / np.ptp(points[:, 0]))
    low = np.array([0.05 * width, 0.14 * height]) - points.min(axis=0)
    high = np.array([0.95 * width, 0.78 * height]) - points.max(axis=0)
    centre = np.clip(np.array(at) * (width, height), low, high)
    inside = np.zeros(shape, np.uint8)
    cv2.fillPoly(inside, [np.round(points + centre).astype(np.int32)], 1)
    return inside.astype(bool)


def _lesions(label: str, index: int, shape: tuple[int, int], rng: np.random.Generator) -> list[Lesion]:
    """The lesions of a case: none in a normal one, mostly one, two in every tenth."""
    if label == "normal":
        return []
    malignant = label == "malignant"
    two = index % 10 == 3
    area = np.exp(rng.uniform(np.log(0.045), np.log(0.14 if malignant else 0.18)))
    sites = [(min(area, 0.07), rng.uniform(0.26, 0.32)), (rng.uniform(0.012, 0.03), rng.uniform(0.72, 0.8))]
    sites = sites if two else [(area, rng.uniform(0.36, 0.64))]
    found = []
    for share, across in sites:
        inside = _place(_contour(label, rng), share, (across, rng.uniform(0.36, 0.54)), shape)
        if malignant:
            looks = (rng.uniform(-19, -13), rng.uniform(8, 22), rng.uniform(1.5, 2.5), rng.uniform(3, 6), 2.5)
        else:
            looks = (rng.uniform(-23, -14), rng.uniform(-11, -4), 0.6, 0.0, 1.0)
        found.append(Lesion(inside, *looks))
    return found


def _apply_lesion(
    strength: np.ndarray, loss: np.ndarray, lesion: Lesion, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Strength (H, W) in dB and loss (H, W) in dB a row, with one lesion put in place of the tissue."""
    inside = lesion.inside.astype(np.float64)
    soft = cv2.GaussianBlur(inside, (0, 0), lesion.blur)
    content = lesion.strength + lesion.texture * smooth_noise(inside.shape, (4.0, 5.0), rng)
    if lesion.halo:  # desmoplastic rim, and calcifications: few, small, bright
        strength = strength + lesion.halo * np.clip(2 * cv2.GaussianBlur(inside, (0, 0), 6.0), 0, 1)
        specks = (rng.random(inside.shape) < 0.004) & lesion.inside
        content = content + rng.uniform(0, 18) * specks
    rows = np.flatnonzero(lesion.inside.any(axis=1))
    loss = loss + cv2.GaussianBlur(inside, (0, 0), 1.5) * lesion.loss / (np.ptp(rows) + 1)
    return strength + soft * (content - strength), loss


def _size(width: int | None, height: int | None, rng: np.random.Generator) -> tuple[int, int]:
    """(H, W) of a picture; what is not given is drawn (both always are: later draws stay the same)."""
    drawn_width, drawn_height = int(rng.integers(220, 331)), int(rng.integers(180, 261))
    shape = (drawn_height if height is None else height, drawn_width if width is None else width)
    if min(shape) < MIN_SIDE:
        raise ValueError(f"a phantom picture of {shape} pixels; each side must be at least {MIN_SIDE}")
    return shape


def _spread(lost: np.ndarray) -> np.ndarray:
    """(H, W) attenuation added up, as seen by a beam that widens with depth: shadows fade sideways."""
    near, far = (cv2.GaussianBlur(lost, (0, 0), sigmaX=width, sigmaY=0.1) for width in (1.5, 6.0))
    depth = np.linspace(0, 1, len(lost))[:, None]
    return np.asarray(near + depth * (far - near))


def render_case(
    label: str, seed: int, index: int, width: int | None = None, height: int | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Picture (H, W) uint8 and masks, each (H, W) uint8 in {0, 255}, of case `index` (from 1) of a class.

    It depends on the arguments only, not on how many other cases are made. A normal case has one empty mask.
    """
    return _render(label, seed, index, width, height)[:2]


def render_label_map(label: str, seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture (H, W) uint8 of `render_case` and its label map (H, W) uint8 of `TISSUE_VALUES`."""
    image, masks, layers = _render(label, seed, index)
    return image, np.where(np.any(masks, axis=0), TISSUE_VALUES["lesion"], layers).astype(np.uint8)


def _render(
    label: str, seed: int, index: int, width: int | None = None, height: int | None = None
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Picture and masks of `render_case`, and its layers of tissue as `_tissue` gives them."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, LABELS.index(label), index]))
    shape = _size(width, height, rng)
    lesions = _lesions(label, index, shape, rng)
    strength, layers = _tissue(shape, rng)
    # What the time-gain compensation leaves over, dB a row: mostly too little gain in depth, and uneven.
    loss = rng.uniform(2, 10) / shape[0] + 0.03 * smooth_noise((shape[0], 1), (shape[0] / 6, 1.0), rng)
    loss = np.broadcast_to(loss, shape)
    for lesion in lesions:
        strength, loss = _apply_lesion(strength, loss, lesion, rng)
    lost = _spread(np.cumsum(loss, axis=0))
    # Uncorrelated echoes and noise add in intensity, so noise can be a floor of the scattering strength.
    amplitude = np.sqrt(10 ** ((strength - lost) / 10) + 10 ** (NOISE_FLOOR_DB / 10))
    image = log_compress(speckle_envelope(amplitude, rng), rng.uniform(50, 60), rng.uniform(-25, -18))
    masks = [np.where(lesion.inside, np.uint8(255), np.uint8(0)) for lesion in lesions]
    return image, masks or [np.zeros(shape, np.uint8)], layers


def record_again(
    image: np.ndarray, masks: list[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    """A second recording of a case: cut by 1-4 pixels a side, other gain, a little noise."""
    top, bottom, left, right = rng.integers(1, 5, 4)
    window = (slice(top, -bottom), slice(left, -right))
    noisy = image[window] * rng.uniform(0.9, 1.1) + rng.uniform(-6, 6) + rng.normal(0, 3, image[window].shape)
    return np.clip(noisy.round(), 0, 255).astype(np.uint8), [np.ascontiguousarray(mask[window]) for mask in masks]


def annotate(image: np.ndarray, masks: list[np.ndarray], index: int) -> np.ndarray:
    """Marks that sonographers leave on some pictures: (H, W, 3) RGB calipers, (H, W) letters, or none."""
    if index % 13 == 6:
        place = (6, image.shape[0] - 8)
        return np.asarray(cv2.putText(image.copy(), f"R {index % 12 + 1}H", place, 0, 0.4, 230, 1))
    if index % 9 != 4:
        return image
    picture, yellow = np.repeat(image[..., None], 3, axis=2), (255, 220, 0)
    rows, columns = np.nonzero(masks[0])
    for end in (columns.argmin(), columns.argmax()) if len(columns) else ():
        place = (int(columns[end]), int(rows[end]))
        cv2.drawMarker(picture, place, yellow, cv2.MARKER_CROSS, 7, 1)
    cv2.putText(picture, "1", (picture.shape[1] - 14, 14), 0, 0.4, yellow, 1)
    return picture


def _write_case(folder: Path, label: str, number: int, image: np.ndarray, masks: list[np.ndarray]) -> None:
    """Write `<label>/<label> (<number>).png` and its masks `..._mask.png`, `..._mask_1.png`."""
    stem = make_folder(folder / label) / f"{label} ({number})"
    write_png(stem.with_name(stem.name + ".png"), annotate(image, masks, number))
    for rank, mask in enumerate(masks):
        write_png(stem.with_name(stem.name + ("_mask.png" if rank == 0 else f"_mask_{rank}.png")), mask)


def _write_label_map(folder: Path, label: str, number: int, image: np.ndarray, label_map: np.ndarray) -> None:
    """Write `images/<label>/<label>_<number>.png` and `masks/...` of the same name."""
    for kind, picture in (("images", image), ("masks", label_map)):
        write_png(make_folder(folder / kind / label) / f"{label}_{number:03d}.png", picture)


def _write_all(folder: Path, config: PhantomConfig) -> None:
    """All cases, then the second recordings under the next free numbers of their classes."""
    counts = dict(zip(LABELS, (config.num_benign, config.num_malignant, config.num_normal), strict=True))
    for label, count in counts.items():
        for index in range(1, count + 1):
            if config.tissue_classes:
                _write_label_map(folder, label, index, *render_label_map(label, config.seed, index))
            else:
                _write_case(folder, label, index, *render_case(label, config.seed, index))
    present = [label for label in LABELS if counts[label]]
    for rank in range(config.duplicates):
        label, turn = present[rank % len(present)], rank // len(present)
        index = turn % counts[label] + 1
        rng = np.random.default_rng(np.random.SeedSequence([config.seed, LABELS.index(label), index, turn + 1]))
        number = counts[label] + turn + 1
        if config.tissue_classes:
            image, label_map = render_label_map(label, config.seed, index)
            again, cut = record_again(image, [label_map], rng)
            _write_label_map(folder, label, number, again, cut[0])
        else:
            _write_case(folder, label, number, *record_again(*render_case(label, config.seed, index), rng))


def _made_by(note: Path) -> Fingerprint:
    """The settings in the note of a phantom; {} in a note of anybody else."""
    text = note.read_text()
    if not text.startswith(NOTE):
        return {}
    try:
        return dict(json.loads(text.removeprefix(NOTE)))
    except (ValueError, TypeError) as error:
        raise UserError(note, "settings that are not JSON", "the note of a phantom", "Delete that folder.") from error


PHANTOM = Kind(NOTE_FILE, "a phantom", "an empty folder or a phantom", staged=True, read=_made_by)


def write_phantom(config: PhantomConfig) -> Path:
    """Write the simulated raw folder and return its path; one made by the same settings is left as it is.

    It is built in `<output_dir>.partial` and takes its name in one rename. Raises `UserError` where the folder holds
    something else.
    """
    # What is not asked for is not said, so that phantoms from before it was there stand
    leave_out = ("output_dir",) if config.tissue_classes else ("output_dir", "tissue_classes")
    fingerprint = {**fingerprint_of(config, "phantom", leave_out), "recipe": RECIPE}
    output = RunFolder(config.output_dir, PHANTOM, fingerprint)
    if not output.is_finished():
        with output.staged() as folder:
            _write_all(folder, config)
            write_bytes(folder / NOTE_FILE, (NOTE + json.dumps(fingerprint, indent=2) + "\n").encode())
    return output.path
