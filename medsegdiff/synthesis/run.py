"""Phase 3: sample from a checkpoint in chunks of fixed size; what an interrupted run finished is kept.

What is sampled is the mode: new pairs, images for conditioning masks, or masks for conditioning images. A sample
depends on the settings, the seed, its class and its number (or the picture that it is given), not on how many are
sampled, in what chunks, or on how often the run was stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from medsegdiff.data.pictures import balance_table
from medsegdiff.data.records import SampleSet, class_counts, read_samples
from medsegdiff.engine.device import choose_device, settle_precision
from medsegdiff.engine.files import DATASET_FILE
from medsegdiff.engine.run_folder import DATA_SET, RunFolder
from medsegdiff.engine.settings import fingerprint_of
from medsegdiff.errors import UserError, require
from medsegdiff.generators.joint_diffusion.checkpoint import ModelCard, load_checkpoint
from medsegdiff.generators.joint_diffusion.guidance_defaults import default_mask_guidance, learnt_alone
from medsegdiff.synthesis import masks
from medsegdiff.synthesis import samples as pairs
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.inputs import ConditioningInput, read_inputs
from medsegdiff.synthesis.plan import plan_images, plan_masks, plan_pairs, run_pending
from medsegdiff.synthesis.source import Source

logger = logging.getLogger(__name__)

# What does not decide what is sampled: where things lie (what was given counts by its content), and when to give up.
NOT_IN_FINGERPRINT = (
    "checkpoint_path",
    "guidance_checkpoint",
    "output_dir",
    "masks",
    "images",
    "split",
    "device",
    "max_redraws",
)
# Settings that a mode makes no use of.
UNUSED = {
    "joint": ("num_samples_per_input",),
    "mask_first": ("num_samples_per_input",),
    "mask_to_image": ("num_samples_per_class",),
    "image_to_mask": (
        "num_samples_per_class",
        "classes",
        "mask_guidance",
        "guidance",
        "guidance_low",
        "guidance_high",
        "sigma_scale",
    ),
}


def generate(config: GenerateConfig) -> SampleSet | list[dict[str, Any]]:
    """What `generate_pairs` or, in mode image_to_mask, `generate_masks` returns."""
    config = settle_mode(config)
    return generate_masks(config) if config.mode == "image_to_mask" else generate_pairs(config)


def generate_pairs(config: GenerateConfig) -> SampleSet:
    """Sample pairs into a new sample folder: `num_samples_per_class` of each class, or `samples` for each conditioning
    mask.

    Also writes class_balance.json and contact_sheet.png there. Raises `UserError` for settings that do not fit the
    checkpoint, for masks that cannot be used, and where a lesion class keeps giving degenerate masks.
    """
    config = settle_mode(config)
    require(config.mode != "image_to_mask", "--mode", config.mode, "a mode that samples images", "Call generate_masks.")
    source = _load(config)
    card, classes = source.card, config.classes or source.card.classes
    unknown = [c for c in classes if c not in card.classes]
    known = f"classes of the checkpoint, with blanks between them: {' '.join(card.classes)}"
    require(not unknown, "--classes", " ".join(map(repr, unknown)), known)
    fingerprint = _fingerprint(source)
    if config.mode == "mask_to_image":
        inputs = _masks_to_use(config, card)
        sampled = {g.label for g in inputs}
        classes = classes if None in sampled else [c for c in card.classes if c in sampled]
        tasks = plan_images(inputs, classes, card.classes, config.num_samples_per_input or 1, config.chunk_size)
        fingerprint |= {"classes": classes, "inputs": _digest(inputs)}
    else:
        assert config.mode is not None
        tasks = plan_pairs(config.mode, classes, card.classes, config.num_samples_per_class, config.chunk_size)
        fingerprint |= {"classes": classes}
    output = Path(config.output_dir)
    run = RunFolder(output, DATA_SET, fingerprint)
    if run.is_finished():
        logger.info("%s holds these pairs, finished", output)
        return read_samples(output)
    with run.staged(keep_partial=True) as folder:
        run_pending(tasks, folder, lambda task: pairs.run_chunk(source, task, folder), "pair")
        result = pairs.gather(source, tasks, folder, classes, fingerprint)
    logger.info("%s", balance_table(class_counts(result.records)))
    for label, counts in result.info["masks_redrawn"].items():
        if counts:
            logger.info("%s: masks sampled again: %s", label, ", ".join(f"{n} {fault}" for fault, n in counts.items()))
    logger.info("pictures: %s", output / "contact_sheet.png")
    return dataclasses.replace(result, root=output)


def generate_masks(config: GenerateConfig) -> list[dict[str, Any]]:
    """Sample `samples` masks of each image in `images`; writes their mean, consensus, doubt, and the one-call estimate.

    Returns the rows of masks.csv. Raises `UserError` for settings that do not fit and images that cannot be read.
    """
    config = settle_mode(config)
    source = _load(config)
    inputs = read_inputs(
        Path(str(config.images)), "images", source.card.img_size, config.split, source.card.classes, source.card.arrays
    )
    fingerprint = _fingerprint(source) | {"inputs": _digest(inputs)}
    output = Path(config.output_dir)
    run = RunFolder(output, DATA_SET, fingerprint)
    tasks = plan_masks(inputs, config.num_samples_per_input or 1, config.chunk_size)
    if run.is_finished():
        logger.info("%s holds these masks, finished", output)
        return masks.read_rows(tasks, output)
    with run.staged(keep_partial=True) as folder:
        run_pending(tasks, folder, lambda task: masks.run_chunk(source, task, folder), "mask")
        rows = masks.gather(source, tasks, folder, fingerprint)
    logger.info("images: %d; samples of each: %d", len(rows), rows[0]["samples"])
    if rows[0]["samples"] > 1:
        logger.info("Dice between samples of one image: %.3f", float(np.mean([row["agreement"] for row in rows])))
    logger.info("masks: %s; pictures: %s", output / "masks", output / "contact_sheet.png")
    return rows


def settle_mode(config: GenerateConfig) -> GenerateConfig:
    """`config` with mode, samples and precision settled."""
    mode, samples = config.settled_mode, config.num_samples_per_input
    if samples is None:
        samples = {"image_to_mask": 8, "mask_to_image": 1}.get(mode)
    return settle_precision(dataclasses.replace(config, mode=mode, num_samples_per_input=samples))


def _load(config: GenerateConfig) -> Source:
    denoiser, card, digest = load_checkpoint(Path(config.checkpoint_path))
    device = choose_device(config.device)
    source = Source(settle_mask_guidance(config, card), denoiser.to(device), card, digest)
    if config.guidance_checkpoint is None or config.guidance == 1:
        return source
    guidance_model, other, other_digest = load_checkpoint(Path(config.guidance_checkpoint))
    for what in ("img_size", "classes", "arrays", "codec", "train_hashes"):
        require(
            getattr(other, what) == getattr(card, what),
            "--guidance_checkpoint",
            f"{config.guidance_checkpoint}, whose {what} is not that of {config.checkpoint_path}",
            "an earlier or smaller model of the same data",
            "Train it on the same folder, at the same size.",
        )
    found = f"{config.guidance_checkpoint}, which sees pictures at other sizes where noise is high"
    expected = f"one like that of {config.checkpoint_path}: guidance would steer away from coarse pictures"
    require(
        guidance_model.low_res == denoiser.low_res,
        "--guidance_checkpoint",
        found,
        expected,
        "Give an earlier checkpoint of the same run.",
    )
    return dataclasses.replace(source, guidance_model=guidance_model.to(device), guidance_digest=other_digest)


def settle_mask_guidance(config: GenerateConfig, card: ModelCard) -> GenerateConfig:
    """`config` with the weight of the mask settled: nothing steers away from an image alone that was never learnt."""
    if config.mode == "image_to_mask":
        return config
    knows = learnt_alone(card.diffusion)
    weight = config.mask_guidance
    if weight is None:
        weight = default_mask_guidance(card.diffusion)
    found = f"{weight} with a checkpoint that was trained with --diffusion.share_marginal 0"
    hint = "Leave it out, or train with a share above 0."
    require(knows or weight == 1, "--mask_guidance", found, "1: it knows no image without its mask", hint)
    return dataclasses.replace(config, mask_guidance=weight)


def _fingerprint(source: Source) -> dict[str, Any]:
    unused = UNUSED[str(source.config.mode)]
    digests = {"checkpoint_sha256": source.digest}
    if source.guidance_digest is not None:
        digests |= {"guidance_sha256": source.guidance_digest}
    return fingerprint_of(source.config, "generate", NOT_IN_FINGERPRINT + unused) | digests


def _digest(inputs: list[ConditioningInput]) -> str:
    """What was given, whatever folder it lies in."""
    rows = sorted(f"{g.id} {g.label} {g.group} {g.hash} {g.pixel_aspect}\n" for g in inputs)
    return hashlib.sha256("".join(rows).encode()).hexdigest()[:16]


def _masks_to_use(config: GenerateConfig, card: ModelCard) -> list[ConditioningInput]:
    """The conditioning masks; of a sample folder those of the train split unless set, since images of held-out masks
    leak."""
    folder = Path(str(config.masks))
    split = config.split
    if split is None and (folder / DATASET_FILE).is_file():
        split = "train"
    if split in ("val", "test"):
        logger.warning("images for masks of %s: to look at and to measure; combine will refuse them", split)
    inputs = read_inputs(folder, "masks", card.img_size, split, card.classes, card.arrays)
    if config.classes is not None:
        inputs = [g for g in inputs if g.label is None or g.label in config.classes]
        require(bool(inputs), "--classes", f"no mask of {', '.join(config.classes)} in {folder}", "masks of that class")
    for g in inputs:
        where = folder / g.file
        if g.label is None and not config.classes:
            known = ", ".join(card.classes)
            hint = f"Put masks into folders {known}, or name one with --classes."
            raise UserError(where, "a mask whose class nobody gave", f"one of {known}", hint)
        labels = config.classes or [] if g.label is None else [g.label]
        for label in labels:
            require(label in card.classes, str(where), f"class {label}", f"one of {', '.join(card.classes)}")
            lesion = bool((g.picture > 127).any())
            if label in card.lesion_classes:
                require(lesion, str(where), "a mask that is empty at this size", "a lesion", "Leave it out.")
            else:
                require(not lesion, str(where), f"a lesion in class {label}", "an empty mask", "Choose --classes.")
    return inputs
