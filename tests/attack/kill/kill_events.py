"""What a run does to its folder, reported as it happens, and death at a chosen one of these events.

An audit hook sees every open for writing, rename, link, removal and new folder before it is done; `os.fsync`, which has
no audit event, is wrapped. Death is SIGKILL. At a flush the file is cut to its half first: that is what a kill (or a
power cut) in the midst of writing leaves.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit event -> what it is called here, where in its arguments the path stands, and where the folder of that path
AUDITED: dict[str, tuple[str, int, int | None]] = {
    "open": ("open", 0, None),
    "os.rename": ("rename", 1, 3),
    "os.link": ("link", 1, 3),
    "os.symlink": ("link", 1, 2),
    "os.mkdir": ("mkdir", 0, 2),
    "os.remove": ("remove", 0, 1),
    "os.rmdir": ("rmdir", 0, 1),
    "os.truncate": ("truncate", 0, None),
    "shutil.rmtree": ("rmtree", 0, None),
}
DONE = 10**9  # the stage of a finished run


@dataclass(frozen=True)
class Event:
    """One write: `path` from the folder that holds the output on, `stage` how far the run had come on disk."""

    kind: str
    path: str
    stage: int

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same event in another process."""
        return self.kind, self.path

    @property
    def site(self) -> tuple[str, str]:
        """The place in the program, so to say: events that differ in numbers and names of pictures are one."""
        path = re.sub(r"\b(images|masks|chunks|samples)/[^/.]+", r"\1/*", self.path)
        return self.kind, re.sub(r"\d+", "#", path)


@dataclass(frozen=True)
class Target:
    """Where to die: the `number`-th event with this key and stage in a process."""

    event: Event
    number: int
    position: int  # in the list of events of an undisturbed run


class Recorder:
    """Writes every event to `log` (a file descriptor) and dies at `target`, or at the `stray`-th unknown event.

    Unknown: not in `known`, the keys of an undisturbed run. Such events come from clearing up after a kill.
    """

    def __init__(
        self,
        output: Path,
        stage: Callable[[], int],
        log: int,
        target: Target | None = None,
        stray: int = 0,
        known: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self.base = str(output.parent) + "/"
        self.names = (output.name, f"{output.name}.partial")
        self.stage, self.log = stage, log
        self.target, self.stray, self.known = target, stray, known
        self.seen = self.strays = 0

    def install(self) -> None:
        """From now on, for the rest of the process: audit hooks cannot be taken out."""
        sys.addaudithook(self._audit)
        flush = os.fsync

        def fsync(fd: Any) -> None:
            number = fd if isinstance(fd, int) else fd.fileno()
            folder = stat.S_ISDIR(os.fstat(number).st_mode)
            self._happens("flush folder" if folder else "flush", os.readlink(f"/proc/self/fd/{number}"), number)
            flush(fd)

        os.fsync = fsync

    def _audit(self, name: str, args: tuple[Any, ...]) -> None:
        if name not in AUDITED:
            return
        kind, place, folder_place = AUDITED[name]
        path = args[place]
        if isinstance(path, int) or (name == "open" and not (args[2] or 0) & WRITING):
            return
        folder = -1 if folder_place is None else args[folder_place]
        if isinstance(folder, int) and folder >= 0:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fsdecode(path))
        self._happens(kind, os.path.abspath(os.fsdecode(path)))

    def _happens(self, kind: str, path: str, fd: int | None = None) -> None:
        if not path.startswith(self.base):
            return
        path = re.sub(r"events\.out\.tfevents\.[^/]*", "events", path[len(self.base) :])
        first = path.split("/")[0]
        if first not in self.names and not first.startswith(f".{self.names[0]}"):
            return
        event = Event(kind, path, self.stage())
        os.write(self.log, (json.dumps([kind, path, event.stage]) + "\n").encode())
        if self._dies(event):
            if kind == "flush" and fd is not None:
                os.ftruncate(fd, os.fstat(fd).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def _dies(self, event: Event) -> bool:
        if self.stray and event.key not in self.known:
            self.strays += 1
            if self.strays == self.stray:
                return True
        if self.target is None or event != self.target.event:
            return False
        self.seen += 1
        return self.seen == self.target.number


def read_events(log: Path) -> list[Event]:
    """The events that a process has reported."""
    return [Event(*json.loads(line)) for line in log.read_text().splitlines()]
