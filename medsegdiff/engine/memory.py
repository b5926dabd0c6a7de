"""Batches and memory: what running out of it looks like, and the largest batch that fits."""

from __future__ import annotations

import dataclasses
import gc
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from medsegdiff.engine.distributed import Distributed
from medsegdiff.errors import UserError, require

Result = TypeVar("Result")
Config = TypeVar("Config", bound=Any)  # with batch_size, accumulate and checkpoint_gradients
logger = logging.getLogger(__name__)

# How torch says it, beside the classes it has for it: its CPU allocator (Linux, Windows), CUDA and its libraries
SIGNS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory, of the GPU or of the machine, ran out."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def within_memory(step: Callable[[], Result], too_large: Callable[[], UserError]) -> Result:
    """What `step()` returns. Raises `too_large()` where memory ran out."""
    try:
        return step()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    # Not within `except`: the traceback holds what the step had computed
    raise too_large()


def fits(try_step: Callable[[int], object], size: int) -> bool:
    """Whether `try_step(size)` has the memory it needs.

    A function of its own: what the failed step held hangs on its traceback, and is free when this one has returned.
    """
    try:
        try_step(size)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return False
    return True


def largest_batch(try_step: Callable[[int], object], start: int) -> int:
    """The largest size up to `start` for which `try_step(size)` does not run out of memory; 0 where there is none.

    By halving until one fits, then by bisection: about 2 log2(start) trials.
    """
    good, bad = start, start + 1
    while good > 0 and not fits(try_step, good):
        good, bad = good // 2, good
    while bad - good > 1:
        middle = (good + bad) // 2
        if fits(try_step, middle):
            good = middle
        else:
            bad = middle
    return good


def micro_batches(pairs: int, largest: int, processes: int) -> tuple[int, int] | None:
    """(batch_size, accumulate) with batch_size * accumulate = `pairs` and batch_size at most `largest`, or None.

    The largest of pairs, pairs / 2, pairs / 4, ... that `processes` can share equally.
    """
    size, parts = pairs, 1
    while size > largest or size % processes:
        if size % 2 or size == 0:
            return None
        size, parts = size // 2, parts * 2
    return size, parts


class BatchSizeFinder:
    """What memory holds of the batches of a training.

    `loss(pairs, config)` computes the loss of so many full-size pairs with `network`; `smaller` says what to do where
    not even one of them fits.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[int, Any], Tensor],
        optimiser: torch.optim.Optimizer,
        processes: Distributed,
        smaller: str,
    ) -> None:
        self.network, self.loss, self.optimiser, self.processes = network, loss, optimiser, processes
        self.smaller = smaller

    def hint(self, config: Any) -> str:
        """What to do where memory does not hold the network with one pair."""
        return self.smaller + ("." if config.checkpoint_gradients else ", or set --checkpoint_gradients true.")

    def try_batch(self, pairs: int, config: Any) -> None:
        """Gradients for `pairs` pairs here, with room for what else a step holds; nothing is changed by them.

        Beside the new gradients that is what the optimiser keeps, and the gradients of a step's parts before.
        """
        self.optimiser.zero_grad(set_to_none=True)
        gc.collect()
        if self.processes.device.type == "cuda":
            torch.cuda.empty_cache()
        self.network.train()
        weights = list(self.network.parameters())
        parts = pairs * self.processes.count < config.batch_size * config.accumulate
        copies = parts + (0 if self.optimiser.state else 2)
        room = [torch.zeros_like(p) for p in weights for _ in range(copies)]
        # Not `backward`, with which other processes would have to go along
        torch.autograd.grad(self.loss(pairs, config), weights, allow_unused=True)
        del room

    def check(self, config: Any) -> None:
        """Raise `UserError` where memory does not hold a batch of full-size pictures, which may come hours later."""
        if not fits(lambda pairs: self.try_batch(pairs, config), config.batch_size // self.processes.count):
            raise self.too_large(config)

    def largest(self, start: int, config: Any) -> int:
        """The largest batch of all processes up to `start` of which the memory of this one holds its share."""
        count = self.processes.count
        return largest_batch(lambda pairs: self.try_batch(pairs, config), start // count) * count

    def fitted(self, config: Config) -> Config:
        """`config` with the pairs of a step cut into the largest parts that memory holds.

        Raises `UserError` where halving does not come down to such parts.
        """
        pairs, count = config.batch_size * config.accumulate, self.processes.count
        require(pairs >= count, "--batch_size", config.batch_size, f"a pair for each of the {count} processes")
        largest = self.processes.smallest(self.largest(pairs, config))
        found = micro_batches(pairs, largest, count)
        if found is None:
            short = f"{pairs} pairs a step, and memory for {largest} at once"
            raise UserError("--find_batch_size", short, "a number that halving brings down to that", self.hint(config))
        size, parts = found
        text = "%d of %d pairs a step fit into memory at once: going on as with --batch_size %d --accumulate %d"
        logger.info(text, largest, pairs, size, parts)
        return dataclasses.replace(config, batch_size=size, accumulate=parts)

    def too_large(self, config: Any) -> UserError:
        """What to say when a step found no memory: the whole batch did not fit, whatever a trial of it might say."""
        for layer in self.network.modules():
            layer._compiled_call_impl = None  # each trial would be a graph of its own, and nothing comes after them
        largest = self.largest(config.batch_size - self.processes.count, config)
        better = micro_batches(config.batch_size * config.accumulate, largest, self.processes.count)
        hint = self.hint(config)
        if better is not None:
            same = f"--batch_size {better[0]} --accumulate {better[1]}"
            hint = f"Use {same} (as many pairs a step) and a new --output_dir"
            hint += "." if config.checkpoint_gradients else ", or --checkpoint_gradients true and the same one."
        found = f"{config.batch_size}, too many for the memory of {self.processes.device}"
        return UserError("--batch_size", found, f"at most {largest}" if largest else "a smaller network", hint)
