"""The same wall-clock for every network on real pairs; then what evaluation and a segmenter say of what it samples.

Everything is kept in the run folder as soon as it is there: a finished arm is not trained, sampled or evaluated again.
No figure is taken on the test split.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from peer_arms import OURS, Arm, Setting, build_arm, train_for
from peer_nets import PEERS
from peer_speed import CALLS
from torch import Tensor
from tqdm import tqdm

from medsegdiff.data.dataset import load_tensors
from medsegdiff.data.pictures import contact_sheet
from medsegdiff.data.records import SampleRecord, SampleSet, content_digest, read_samples, write_sample, write_samples
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.downstream.segmentation.scores import overlaps
from medsegdiff.downstream.segmentation.training import SegmentationTrainer, predict_masks, true_masks
from medsegdiff.engine.device import choose_device, settle_precision
from medsegdiff.engine.files import make_folder, read_json, write_json, write_png
from medsegdiff.engine.loop import LoopConfig, run_loop
from medsegdiff.engine.rng import generator
from medsegdiff.engine.run_folder import DATA_SET, SEGMENTATION, Kind, RunFolder
from medsegdiff.errors import UserError
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.evaluation.run import evaluate
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.quality_filters import mask_fault

logger = logging.getLogger(__name__)

TRAINED_FILE, DICE_FILE, FIGURES_FILE = "trained.json", "dice.json", "figures.json"
WEIGHTS_FILE = "weights.safetensors"
REAL = "real"  # the arm of the segmenter that learns real pairs
SAMPLE_STREAM, ASPECT = 41, 42  # purpose numbers of the random streams
GIVE_UP = 5  # Samples of each class; an arm whose masks of a class hold no lesion then samples no further ones
MOST_SAMPLES = 2  # times the pairs asked for: so many masks are sampled where some are no lesions
SHOWN = 8  # pairs of each class on the picture, the first ones

Sampler = Callable[[Tensor, tuple[int, ...]], tuple[Tensor, Tensor]]
Sampled = tuple[list[tuple[np.ndarray, np.ndarray]], int, int]  # pairs, samples, lesion masks


def trainable(names: list[str]) -> list[str]:
    """The arms that make labelled pairs."""
    return [name for name in names if name == OURS or PEERS[name][0].classes]


def setting_of(name: str, options: argparse.Namespace, seed: int) -> Setting:
    """`options.batch` is for the peers: ours has its batch in its settings file."""
    batch = None if name == OURS else options.batch
    config = settle_precision(SegmentConfig("", precision=options.precision, device=options.device))
    # Kernels take a good part of a few minutes to build, and runs are planned by the time that their steps take
    where = Path(options.config), options.size, config.precision, options.device
    return Setting(*where, batch, options.part, seed, compile=False)


def fingerprint_of(name: str, setting: Setting, options: argparse.Namespace, pairs: SampleSet) -> dict[str, Any]:
    """What decides how an arm turns out, as far as a wall-clock lets anything decide it."""
    known = [r for r in pairs.records if r.split != "test"]
    plain = {"compile": setting.compile} if name == OURS and choose_device(setting.device).type == "cuda" else {}
    return plain | {
        "arm": name,
        "minutes": options.minutes,
        "threads": options.train_threads or options.threads,
        "size": setting.size,
        "precision": setting.precision,
        "batch": setting.batch,
        "seed": setting.seed,
        "settings": hashlib.sha256(setting.config.read_bytes()).hexdigest()[:16] if name == OURS else None,
        "data": content_digest(known)[:16],
    }


def trained_arm(name: str, folder: Path, options: argparse.Namespace, pairs: SampleSet, seed: int) -> Arm | None:
    """The arm with its trained weights; None where its loss was not finite.

    Raises `UserError` where the folder holds a run with other settings.
    """
    setting = setting_of(name, options, seed)
    fingerprint = fingerprint_of(name, setting, options, pairs)
    file = make_folder(folder) / TRAINED_FILE
    if not RunFolder(folder, Kind(TRAINED_FILE, "a trained arm", "a folder for an arm"), fingerprint).is_finished():
        arm = build_arm(name, setting, pairs)
        print(f"training {name}, seed {seed}, for {options.minutes:g} minutes", flush=True)
        done = train_for(arm, options.minutes * 60)
        done["parameters"] = sum(p.numel() for p in arm.modules().parameters())
        arm.save(folder / WEIGHTS_FILE, done["steps"])
        write_json(
            file, {"fingerprint": fingerprint, "batch": arm.batch, **done, "finite": bool(np.isfinite(done["loss"]))}
        )
        del arm  # sampled from what was written, whether it was trained now or earlier
    if not read_json(file)["finite"]:
        return None
    arm = build_arm(name, setting, pairs)
    arm.load(folder / WEIGHTS_FILE)
    return arm


def sample_class(sample: Sampler, number: int, count: int, chunk: int, most: int = MOST_SAMPLES) -> Sampled:
    """`count` pairs of class `number`: first those whose masks are lesion masks, as our own generation lets through.

    Up to `most` times as many are sampled; where that does not do, refused ones fill the rest. Also returns how
    many were sampled and how many passed.
    """
    good: list[tuple[np.ndarray, np.ndarray]] = []
    bad: list[tuple[np.ndarray, np.ndarray]] = []
    bar = tqdm(total=count, desc="drawing", unit="pair", leave=False)
    while len(good) < count:
        sampled = len(good) + len(bad)
        if sampled >= most * count:
            break
        size = min(chunk, most * count - sampled)
        images, masks = sample(torch.full((size,), number), (number, sampled, SAMPLE_STREAM))
        for image, mask in zip(images[:, 0].numpy(), masks[:, 0].numpy(), strict=True):
            (good if mask_fault(mask, True) is None else bad).append((image, mask))
        bar.update(min(len(good), count) - bar.n)
    bar.close()
    return (good + bad)[:count], len(good) + len(bad), len(good)


def sample_classes(sample: Sampler, classes: int, count: int, chunk: int, give_up: int) -> list[Sampled]:
    """`sample_class` of each class; where the first `give_up` masks of any class hold no lesion, those pairs alone.

    A network that has learnt nothing yet would go on sampling noise for hours. 0: never.
    """
    if not give_up:
        return [sample_class(sample, number, count, chunk) for number in range(classes)]
    few = min(give_up, count)
    first = [sample_class(sample, number, few, few, most=1) for number in range(classes)]
    if few == count or any(passed == 0 for _, _, passed in first):
        return first
    return [sample_class(sample, number, count, chunk) for number in range(classes)]


def sampled_pairs(
    arm: Arm, name: str, folder: Path, options: argparse.Namespace, real: SampleSet, seed: int
) -> SampleSet:
    """`options.pairs` of each class as samples, or what `sample_classes` gave up with.

    With what a checkpoint says of the pictures that it learnt.
    """
    train = real.select("train").records
    trained = read_json(folder / TRAINED_FILE)
    fingerprint = {"phase": "generate", "trained": trained["fingerprint"], "pairs": options.pairs, "calls": CALLS}
    fingerprint |= {"drawn_as": dataclasses.asdict(GenerateConfig("", ""))} if name == OURS else {}
    fingerprint |= {"give_up": options.give_up} if options.give_up != GIVE_UP else {}
    target = folder / "pairs"
    run = RunFolder(target, DATA_SET, fingerprint)
    if run.is_finished():
        return read_samples(target)
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()[:12]
    hashes = [{"image_hash": r.image_hash, "perceptual_hash": r.perceptual_hash} for r in train]
    records: list[SampleRecord] = []
    reported: dict[str, Any] = {}
    started = time.perf_counter()
    with run.staged() as staging:
        sample = functools.partial(arm.sample, calls=CALLS)
        everything = sample_classes(sample, len(real.classes), options.pairs, options.chunk, options.give_up)
        for number, label in enumerate(real.classes):
            aspects = [r.width * r.pixel_aspect / r.height for r in train if r.label == label]
            found, sampled, passed = everything[number]
            reported[label] = {"sampled": sampled, "lesion_masks": passed}
            for index, (image, mask) in enumerate(found):
                choice = torch.randint(len(aspects), (1,), generator=generator(seed, number, index, ASPECT))
                id = f"{name}_{label}_{index:05d}"
                records.append(
                    write_sample(
                        staging, image, mask, id=id, label=label, split="train", group=id,
                        source=f"synthetic:{digest}", generator=digest, pixel_aspect=aspects[int(choice)],
                    )
                )  # fmt: skip
        reported["seconds"] = time.perf_counter() - started
        provenance = {"sha256": digest, "step": trained["steps"], "train_hashes": hashes}
        write_samples(
            staging, records, classes=real.classes, fingerprint=fingerprint, checkpoint=provenance, drawing=reported
        )
    return read_samples(target)


def show(pairs: SampleSet, target: Path) -> None:
    """The first pairs of each class, not chosen, with the outline of the mask."""
    rows = [r for label in pairs.classes for r in pairs.select(label=label).records[:SHOWN]]
    pictures = [(pairs.read_image(r), pairs.read_mask(r)) for r in rows]
    sheet = contact_sheet([i for i, _ in pictures], [m for _, m in pictures], [r.label for r in rows], columns=SHOWN)
    write_png(target, sheet)


def evaluated(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What `medsegdiff evaluate --held_out val` says of the pairs; the reason where it refuses them."""
    config = EvaluateConfig(
        options.real_data,
        str(folder / "pairs"),
        str(folder / "report"),
        held_out=["val"],
        reference_models_dir=options.reference_models_dir,
        bootstrap=options.bootstrap,
        real_pictures=False,
        device=options.device,
    )
    try:
        report = evaluate(config)
    except (UserError, ValueError, ArithmeticError, np.linalg.LinAlgError, cv2.error) as error:
        logger.exception("the pairs in %s were refused", folder)
        if isinstance(error, UserError) and error.where.startswith("--"):
            raise  # a setting, not the pairs
        return {"refused": f"{type(error).__name__}: {str(error).splitlines()[0]}".replace(str(folder), "the run")}
    return figures_of(report)


def figures_of(report: dict[str, Any]) -> dict[str, Any]:
    """The figures of an evaluation report that the table says."""
    metrics = report["metrics"]
    frechet = metrics["distances"]["spaces"]["radiomics"].get("all", {}).get("frechet", {})  # not of a few pairs
    masks = metrics["agreement"].get("masks", {}).get("all", {})
    outcomes = {line["metric"]: line["outcome"] for line in report["verdicts"]}
    return {
        "frechet": frechet.get("synthetic"),
        "frechet_floor": frechet.get("floor"),
        "agreement": masks.get("synthetic"),
        "agreement_real": masks.get("held_out"),
        "privacy": outcomes.get("privacy"),
    }


def val_dice(pairs: SampleSet, real: SampleSet, folder: Path, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Dice on each val picture of a segmenter that learns the train split of `pairs`; val picks its weights.

    Every arm has the same number of steps; none stops early.
    """
    file = make_folder(folder) / DICE_FILE
    config = settle_precision(
        SegmentConfig(
            "", img_size=options.size, steps=options.dice_steps, seed=seed, precision=options.precision,
            device=options.device,
        )
    )  # fmt: skip
    learnt = pairs.select("train")
    fingerprint = {"steps": options.dice_steps, "size": options.size, "seed": seed, "precision": config.precision}
    fingerprint["data"] = content_digest([*learnt.records, *real.select("val").records])[:16]
    if RunFolder(folder, Kind(DICE_FILE, "a segmenter", "a folder for a segmenter"), fingerprint).is_finished():
        found: dict[str, Any] = read_json(file)
        return found
    train = load_tensors(learnt, options.size, what="train split")
    val = load_tensors(real.select("val"), options.size, what="val split")
    trainer = SegmentationTrainer(config, real.classes, train, val, options.dice_steps)
    trainer.finished = lambda: False  # type: ignore[method-assign]
    loop = LoopConfig(
        RunFolder(folder, SEGMENTATION, fingerprint), options.dice_steps, config.evals, config.save_every,
        config.batch_size, evals_from=trainer.small_steps,
    )  # fmt: skip
    run_loop(trainer, loop, f"segmenter, {folder.parent.parent.name}")
    trainer.ema.model.load_state_dict(trainer.best_weights)
    masks = predict_masks(trainer.ema.model, val, trainer.mean, trainer.std, config, trainer.device)
    values = [overlaps(p, t)["dice"] for p, t in zip(masks, true_masks(val), strict=True)]
    found = {"fingerprint": fingerprint, "dice": values, "best_step": trainer.best_step, "train_pairs": len(train)}
    write_json(file, found)
    return found


def run_arm(name: str, options: argparse.Namespace, real: SampleSet, seed: int) -> None:
    """Train, sample, evaluate one arm with one seed, as far as that is not done; its figures go to `FIGURES_FILE`."""
    folder = options.run_dir / arm_folder(name, options) / f"seed_{seed}"
    arm = trained_arm(name, folder, options, real, seed)
    trained = read_json(folder / TRAINED_FILE)
    found: dict[str, Any] = {
        "arm": name,
        "seed": seed,
        "documented_batch": name == OURS or options.batch is None,
        "trained": trained,
    }
    if arm is not None:
        pairs = sampled_pairs(arm, name, folder, options, real, seed)
        del arm
        show(pairs, folder / "pairs.png")
        found["drawing"] = pairs.info["drawing"]
        nothing = [label for label in pairs.classes if not found["drawing"][label]["lesion_masks"]]
        if nothing:  # to reference model, nor for a segmenter to learn
            samples = sum(found["drawing"][label]["sampled"] for label in nothing)
            found["evaluated"] = {"refused": f"no lesion mask among {samples} samples ({', '.join(nothing)})"}
        if options.judge and not nothing:
            found["evaluated"] = evaluated(folder, options)
        if options.dice_steps and not nothing:
            found["dice"] = val_dice(pairs, real, folder / "dice", options, seed)
    write_json(folder / FIGURES_FILE, found)


def arm_folder(name: str, options: argparse.Namespace) -> str:
    """Arms with another batch than the documented one stand beside those with it."""
    return name if options.batch is None or name == OURS else f"{name}_batch_{options.batch}"


def run_all(options: argparse.Namespace) -> None:
    """The real-only segmenter, then every arm with every seed."""
    torch.set_num_threads(options.train_threads or options.threads)
    real = read_samples(Path(options.real_data))
    for seed in options.seeds:
        if options.dice_steps:
            val_dice(real, real, options.run_dir / REAL / f"seed_{seed}" / "dice", options, seed)
        for name in trainable(options.arms):
            run_arm(name, options, real, seed)
