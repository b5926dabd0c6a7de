"""The one registry of raw layouts, for `prepare --layout` and for `--test_data`: a new data set is a file and a row."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from medsegdiff.data.readers import bus_bra, bus_uclm, busi, captions, folders, stu_hospital, udiat
from medsegdiff.data.readers.matching import SPLIT_FOLDERS, contents, count_passed_over, plain, subfolders
from medsegdiff.data.readers.raw import RawSample, RawSet, Reader, ReadOptions
from medsegdiff.engine.files import DATASET_FILE, require_folder
from medsegdiff.errors import UserError

log = logging.getLogger(__name__)

AUTO, FOLDERS = "auto", "folders"
READERS = {
    "busi": Reader(busi.find, busi.read, busi.LAYOUT, "ultrasound"),
    "bus_bra": Reader(bus_bra.find, bus_bra.read, bus_bra.LAYOUT, "ultrasound", bus_bra.TABLE),
    "bus_uclm": Reader(bus_uclm.find, bus_uclm.read, bus_uclm.LAYOUT, "ultrasound"),
    "udiat": Reader(udiat.find, udiat.read, udiat.LAYOUT, "ultrasound"),
    "stu_hospital": Reader(stu_hospital.find, stu_hospital.read, stu_hospital.LAYOUT, "ultrasound"),
    "captions": Reader(captions.find, captions.read, captions.LAYOUT),
    FOLDERS: Reader(folders.find, folders.read, folders.LAYOUT, table=folders.TABLE),  # what none of the others is
}
__all__ = ["AUTO", "READERS", "RawSample", "RawSet", "ReadOptions", "Reader", "find_layout", "read_raw"]


def read_raw(folder: Path, layout: str = AUTO, options: ReadOptions | None = None) -> RawSet:
    """Read a raw data set in one of the layouts; `auto` finds which, and says so in the log.

    Raises `UserError` where there is none or more than one, and for whatever its reader refuses.
    """
    options = options or ReadOptions()
    name, root = find_layout(folder, layout, options)
    if name != FOLDERS and (options.mask_classes is not None or options.keep_splits):
        flag = "--keep_splits" if options.keep_splits else "--mask_classes"
        raise UserError(flag, f"a data set in the layout {name}", f"--layout {FOLDERS}", "Leave it out.")
    log.info("reading %s (layout %s)", root, name)
    reader = READERS[name]
    found = reader.read(root, options)
    data = found if isinstance(found, RawSet) else RawSet(found)
    if not data.samples:
        raise UserError(root, "no pair with a lesion", reader.layout, "Unpack the data set completely.")
    samples = [s if s.modality else dataclasses.replace(s, modality=reader.modality) for s in data.samples]
    if options.classes is not None:  # which not every reader looks at
        wanted = {plain(label): label for label in options.classes}
        kept = (s for s in samples if plain(s.label) in wanted)
        samples = [dataclasses.replace(s, label=wanted[plain(s.label)]) for s in kept]
    passed_over = count_passed_over(root, sum(sample.files for sample in samples), reader.table)
    if passed_over:
        log.info("passed over: %s", ", ".join(f"{count} {kind}" for kind, count in passed_over.items()))
    return RawSet(samples, data.arrays, name, passed_over)


def find_layout(folder: Path, layout: str, options: ReadOptions) -> tuple[str, Path]:
    """The layout of a raw data set, and its own folder at the given one or below."""
    require_folder(folder, "a data set")
    if (folder / DATASET_FILE).is_file():
        hint = "Give it to the next phase, or give the raw pictures."
        raise UserError(folder, "a data set that is prepared already", "a raw data set", hint)
    names = [name for name in READERS if name != FOLDERS] if layout == AUTO else [layout]
    found = [(name, root) for name in names for root in READERS[name].find(folder, options)]
    parents = {root.parent for _, root in found if plain(root.name) in SPLIT_FOLDERS}
    split = any(sum(plain(p.name) in SPLIT_FOLDERS for p in subfolders(parent)) > 1 for parent in parents)
    if layout == AUTO and (split or not found):
        found = [(FOLDERS, root) for root in folders.find(folder, options)]
    if len(found) > 1:
        several = ", ".join(f"{root.relative_to(folder)} ({name})" for name, root in found)
        hint = "Give the folder of one of them."
        raise UserError(folder, f"several data sets: {several}", "one", hint)
    if not found:
        known = "; ".join(READERS[name].layout for name in (READERS if layout == AUTO else names))
        raise UserError(folder, contents(folder), f"one of these layouts: {known}", "Give the unpacked data set.")
    return found[0]
