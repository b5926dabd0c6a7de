"""Weights and configurations that come with medsegdiff, by name."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
PLACES = {"pretrained": ".safetensors", "configs": ".yaml"}  # folders, and the ending of what they hold


def packaged(folder: str) -> dict[str, Path]:
    """The files of a folder of `PLACES` by their names without ending; {} where the folder was not installed.

    In a wheel the folder lies within the package, in a checkout beside it.
    """
    place = next((p for p in (PACKAGE / folder, PACKAGE.parent / folder) if p.is_dir()), None)
    return {} if place is None else {path.stem: path for path in sorted(place.glob(f"*{PLACES[folder]}"))}
