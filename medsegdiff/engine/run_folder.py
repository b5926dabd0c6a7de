"""Whose run an output folder is, and how far it has come: one protocol for all phases.

What decides the content of a folder is its fingerprint. A folder is finished once it holds the file that its phase
writes last of all, the sign of its `Kind`. Until then a run grows in one of two ways: beside the folder, as
`<name>.partial`, which takes its place in one rename (`staged`), or in place (`held`), for trainings, whose fingerprint
stands in state/. Whoever finds a folder goes on with it, takes it as finished, or says why it cannot.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsegdiff.engine.files import (
    DATASET_FILE,
    FINGERPRINT_FILE,
    REPORT_FILE,
    SCORES_FILE,
    STATE_FOLDER,
    SUMMARY_FILE,
    clear_leftovers,
    differing_keys,
    make_folder,
    read_record,
    remove,
    sync_folder,
    write_json,
)
from medsegdiff.engine.locks import clear_stale_lock, lock_file, locked
from medsegdiff.errors import UserError

Fingerprint = dict[str, Any]


def fingerprint_in(record: Path) -> Fingerprint:
    """The fingerprint that a JSON file holds beside other things; {} where it holds none."""
    found = read_record(record)
    made_by = found.get("fingerprint") if isinstance(found, dict) else None
    return made_by if isinstance(made_by, dict) else {}


@dataclass(frozen=True)
class Kind:
    """What sort of folder a phase makes."""

    sign: str  # file that is written last of all: by it a folder says what it holds, and that it is finished
    holds: str  # what such a folder is, in messages
    wanted: str  # what the phase wants to write to, in messages
    staged: bool = False  # grows beside the folder, not in place
    read: Callable[[Path], Fingerprint] = fingerprint_in  # the fingerprint in the sign
    today: Callable[[Fingerprint], Fingerprint] = dict  # an older fingerprint, with the settings of today


DATA_SET = Kind(DATASET_FILE, "a data set", "an empty folder or one made by this command", staged=True)
TRAINING = Kind(SUMMARY_FILE, "a generative training", "a folder for checkpoints")
SEGMENTATION = Kind(SCORES_FILE, "a segmentation run", "a folder for weights and scores")
EVALUATION = Kind(REPORT_FILE, "an evaluation", "a folder for a report")
KINDS = (DATA_SET, TRAINING, SEGMENTATION, EVALUATION)


class RunFolder:
    """The output folder of one run; `files` are names or patterns of what the run writes into it in place.

    Every method but `known` raises `UserError` where the folder is not this run's to use.
    """

    def __init__(
        self, path: Path | str, kind: Kind, fingerprint: Fingerprint | None = None, files: Sequence[str] = ()
    ) -> None:
        self.kind, self.fingerprint, self.files = kind, fingerprint or {}, files
        self.path = Path(os.path.realpath(path)) if kind.staged else Path(path)

    @property
    def sign(self) -> Path:
        """The file that is written last of all."""
        return self.path / self.kind.sign

    @property
    def state(self) -> Path:
        """Where a training keeps its fingerprint, and what it can go on from."""
        return self.path / STATE_FOLDER

    def begun(self) -> Fingerprint | None:
        """The fingerprint of the run that was begun here in place; None where there is none."""
        records = (self.state / FINGERPRINT_FILE, *self.state.glob(f"step_*[0-9]/{FINGERPRINT_FILE}"))
        record = next((path for path in records if path.is_file()), None)  # older runs have the second alone
        return None if record is None else self.kind.today(self._mapping(record, read_record(record)))

    def known(self) -> Fingerprint | None:
        """The fingerprint of the run that is here, finished or begun; None where there is none."""
        made_by = self.kind.read(self.sign) if self.sign.is_file() else None
        if made_by or self.kind.staged:
            return made_by and self.kind.today(made_by)
        begun = self.begun()
        return self._mapping(self.sign, None) if begun is None and made_by is not None else begun

    def differences(self, apart: Sequence[str] = ()) -> list[str]:
        """The settings but those in `apart`, each as `key: old -> new`, by which the run that is here is another."""
        known = self.known()
        if known is None:
            return []
        old, new = ({k: v for k, v in values.items() if k not in apart} for values in (known, self.fingerprint))
        return differing_keys(old, new)

    def check(self, apart: Sequence[str] = ()) -> None:
        """Refuse a folder that holds something else, or a run of other settings but for those in `apart`."""
        self.refuse_others()
        known = self.known()
        phase = self.fingerprint.get("phase")
        if known and known.get("phase", phase) != phase:  # nothing that this command should have anybody delete
            found = f"{self.kind.holds} that {known['phase']} made"
            raise UserError(self.path, found, "a folder of this command's own", "Choose another output folder.")
        self._refuse(self.differences(apart))
        if self.kind.staged and known is None and self.path.is_dir():
            _try_to_replace(self.path)

    def is_finished(self, apart: Sequence[str] = ()) -> bool:
        """Whether the folder holds this run, finished; then what a kill left after its last file is cleared."""
        self.check(apart)
        # A sign without a fingerprint is that of an older training, of which the state beside it says the rest
        if not self.sign.is_file() or not (self.kind.staged or self.kind.read(self.sign)):
            return False
        if self.kind.staged:
            (self.path / FINGERPRINT_FILE).unlink(missing_ok=True)
            clear_stale_lock(self.path, beside=True)
        return True

    @contextmanager
    def staged(self, keep_partial: bool = False) -> Iterator[Path]:
        """Yield `<path>.partial` to write into; on success it takes the place of the folder in one rename.

        With `keep_partial`, what an interrupted run left there with the same fingerprint is kept, so that it can go on.
        """
        make_folder(self.path.parent)
        with locked(self.path, beside=True):
            self.check()
            if self.sign.is_file():  # another run was quicker, between `is_finished` and the lock
                hint = "Start the same command again: it takes what is there."
                raise UserError(self.path, f"a finished {self.kind.holds[2:]}", "an empty folder or none", hint)
            staging = self.path.with_name(self.path.name + ".partial")
            _open_staging(staging, self.fingerprint, keep_partial)
            yield staging
            _put_in_place(staging, self.path)

    @contextmanager
    def held(self, wait: bool = False) -> Iterator[Path]:
        """Hold the folder for a run that grows in place; what a killed one left half-written is cleared.

        With `wait`, the end of another run that holds it is waited for.
        """
        self.refuse_others()
        with locked(make_folder(self.path), wait=wait):
            clear_leftovers(self.path, self.kind.sign, *self.files)
            yield self.path

    def begin(self) -> None:
        """Write down whose run is in the folder, and clear what a killed one left half-written in its states."""
        begun = self.begun()
        if begun is not None:
            self._refuse(differing_keys(begun, self.fingerprint))
        clear_leftovers(self.state, "*")
        if not (self.state / FINGERPRINT_FILE).is_file():
            make_folder(self.state)
            write_json(self.state / FINGERPRINT_FILE, self.fingerprint)
            sync_folder(self.state)

    def finish(self, record: dict[str, Any]) -> dict[str, Any]:
        """Write the sign of a finished run in place: `record` and the fingerprint; returns both."""
        whole = {**record, "fingerprint": self.fingerprint}
        write_json(self.sign, whole)
        return whole

    def drop_state(self) -> None:
        """Remove what a finished run could go on from; the folder is held."""
        shutil.rmtree(self.state, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what a run that was killed after its end left beside what it made, if that may be done here."""
        if self.state.exists() or lock_file(self.path, beside=False).exists():
            with suppress(UserError, OSError), locked(self.path):  # held: the process that made it is tidying up
                self.drop_state()

    def _mapping(self, record: Path, found: Any) -> Fingerprint:
        if not isinstance(found, dict):
            raise UserError(record, "no settings", "those of a training run", "Delete that folder, and train anew.")
        return found

    def refuse_others(self) -> None:
        """Refuse a file, what another phase has finished, and for a staged folder whatever nobody knows."""
        if self.path.is_file():
            raise UserError(self.path, "a file", "a folder to write", "Choose another output folder.")
        for kind in KINDS:
            if kind.sign != self.kind.sign and (self.path / kind.sign).exists():
                raise UserError(self.path, kind.holds, self.kind.wanted, "Choose another --output_dir.")
        full = self.kind.staged and self.path.is_dir() and any(self.path.iterdir())
        if full and not self.sign.is_file():
            raise UserError(self.path, "other files", self.kind.wanted, "Choose another output folder.")

    def _refuse(self, changed: list[str]) -> None:
        """Raise `UserError` for settings that differ, if there are any."""
        if not changed:
            return
        others = f"other settings ({'; '.join(changed)})"
        if self.kind.staged:
            hint = "Delete that folder or choose another."
            raise UserError(self.path, f"{self.kind.holds} made with {others}", "the same settings", hint)
        hint = "Use the same command to go on, or another --output_dir to start anew."
        raise UserError(self.path, f"a run with {others}", "the settings of the run to resume", hint)


def _try_to_replace(output: Path) -> None:
    """Put an empty folder in the place of an empty `output`: where that cannot be done, it is said before the work."""
    probe = output.with_name(f".{output.name}.empty")
    probe.mkdir(exist_ok=True)
    try:
        os.replace(probe, output)
    except OSError as error:
        probe.rmdir()
        found = f"a folder that no other can take the place of ({error.strerror}), such as a mount point"
        hint = f"Give a folder in it, such as {output / 'new'}."
        raise UserError(output, found, "a folder that is not there yet", hint) from error


def _open_staging(staging: Path, fingerprint: Fingerprint, keep: bool) -> None:
    """Make `staging` ready. Whatever a kill leaves of it, it says whose it is, or is empty."""
    begun = staging / FINGERPRINT_FILE
    if staging.is_dir() and not begun.is_file() and any(p.suffix != ".tmp" for p in staging.iterdir()):
        raise UserError(staging, "other files", "no such folder: it is where the output grows", "Move it away.")
    if keep and begun.is_file():
        changed = differing_keys(read_record(begun), fingerprint)
        if not changed:
            clear_leftovers(staging, "**/*")
            return
        if any(path.is_file() for path in staging.rglob("*") if path != begun):  # hours of work, perhaps
            hint = "Use the same command to go on with it, or delete that folder to start anew."
            found = f"work begun with other settings ({'; '.join(changed)})"
            raise UserError(staging, found, "the same settings", hint)
    for path in make_folder(staging).iterdir():
        if path != begun:  # that one last, by the rename below: without it nobody knows whose the rest is
            remove(path)
    write_json(begun, fingerprint)


def _put_in_place(staging: Path, output: Path) -> None:
    for folder in (staging, *(path for path in staging.rglob("*") if path.is_dir())):
        sync_folder(folder)
    try:
        os.replace(staging, output)  # takes the place of an empty folder as well, in one step
    except OSError as error:
        found = error.strerror or error
        hint = f"What was to go there is whole, in {staging}. Move the other files away, and start the command again."
        raise UserError(output, found, "an empty folder or none, as at the start", hint) from error
    # Only now: until the rename it says whose half-made work this is
    (output / FINGERPRINT_FILE).unlink(missing_ok=True)
    sync_folder(output.parent)
