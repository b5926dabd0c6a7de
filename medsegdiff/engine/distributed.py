"""The processes that train one network together, by `accelerate launch`; a single one is the special case of one."""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from medsegdiff.engine.device import choose_device

T = TypeVar("T")
PATIENCE = datetime.timedelta(hours=12)  # others wait so long for the main process, which alone evaluates


class SingleProcess:
    """A process that asks nobody, for trainers that one process runs; `Distributed` has the same methods for many."""

    count = 1
    is_main = True

    def mean(self, values: Tensor) -> Tensor:
        """`values` averaged over the processes."""
        return values

    def smallest(self, value: int) -> int:
        """The smallest `value` of all processes."""
        return value

    def run_on_main(self, find: Callable[[], T]) -> T:
        """What the main process finds; only there `find` is called."""
        return find()

    def wait(self) -> None:
        """Go on when all have come here."""


class Distributed(SingleProcess):
    """All processes of this training, however many: device, shares of a batch, gradients.

    A process learns of the others from the environment that `accelerate launch` (or torchrun) sets; without one it is
    alone. Imports accelerate, which other phases need not wait for.
    """

    def __init__(self, device: str) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

        # A program may train on the CPU and then on a GPU, which accelerate would take for a mistake
        AcceleratorState._reset_state(reset_partial_state=True)
        self.accelerator = Accelerator(
            cpu=choose_device(device).type == "cpu",
            mixed_precision="no",  # `--precision` says it, by `engine.device.autocast`
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=PATIENCE),
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            ],
        )
        device_here: torch.device = self.accelerator.device
        self.device = device_here if device_here.type != "cpu" else torch.device("cpu")  # "cpu:0" is another name of it
        self.count = self.accelerator.num_processes
        self.rank = self.accelerator.process_index
        self.is_main = self.accelerator.is_main_process
        if not self.is_main:
            logging.getLogger("medsegdiff").setLevel(logging.ERROR)  # one of them says it for all

    def share(self, pairs: int) -> slice:
        """The rows of this process in a batch of `pairs` that all of them sampled; `count` divides `pairs`."""
        own = pairs // self.count
        return slice(self.rank * own, (self.rank + 1) * own)

    def prepare(self, network: nn.Module) -> nn.Module:
        """`network`, with gradients that are averaged over the processes in backward."""
        prepared: nn.Module = self.accelerator.prepare_model(network)
        return prepared

    def averaging(self, network: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of one part of a step: gradients travel with the `last` one alone."""
        return contextlib.nullcontext() if last else self.accelerator.no_sync(network)

    def mean(self, values: Tensor) -> Tensor:
        averaged: Tensor = self.accelerator.reduce(values, reduction="mean")
        return averaged

    def smallest(self, value: int) -> int:
        values: Tensor = self.accelerator.gather(torch.tensor([value], device=self.device))
        return int(values.min())

    def run_on_main(self, find: Callable[[], T]) -> T:
        from accelerate.utils import broadcast_object_list

        found: list[Any] = [find() if self.is_main else None]
        broadcast_object_list(found)
        result: T = found[0]
        return result

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()
