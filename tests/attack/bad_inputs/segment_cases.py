"""Bad input of phase 5: networks, weights, sizes, external sets and settings that contradict each other."""

from __future__ import annotations

from pathlib import Path

import torch
from bad_base import Case, disc, scene

from medsegdiff.engine.files import write_png

SEGMENT = "segment --data_dir real --output_dir out --img_size 32 --steps 1 --batch_size 2 --evals 1 --device cpu"
AT_64, AT_96, AT_100 = (SEGMENT.replace("--img_size 32", f"--img_size {size}") for size in (64, 96, 100))
CLASSIFY = f"{SEGMENT} --task classify"


def without_class(split: str) -> object:
    """A spoiler that moves the malignant pairs of a split of real/ to train, or those of train to val."""

    def spoil(folder: Path) -> None:
        path = folder / "real" / "metadata.csv"
        lines = path.read_text().splitlines()
        other = "val" if split == "train" else "train"
        moved = [line.replace(f",{split},", f",{other},") if ",malignant," in line else line for line in lines]
        path.write_text("\n".join(moved) + "\n")

    return spoil


def foreign_weights(folder: Path) -> None:
    """Weights of something else."""
    torch.save({"state_dict": {"layer.weight": torch.ones(3, 3)}}, folder / "encoder.pth")


def empty_scores(folder: Path) -> None:
    """A folder with a scores.json that says nothing."""
    (folder / "run").mkdir()
    (folder / "run" / "scores.json").write_text("{}\n")


def stu(folder: Path) -> None:
    """A picture in the layout of STU-Hospital, and its mask."""
    (folder / "stu").mkdir()
    write_png(folder / "stu" / "Test_Image_1.png", scene(900))
    write_png(folder / "stu" / "mask_1.png", disc())


def stu_without_mask(folder: Path) -> None:
    """The mask is gone."""
    stu(folder)
    (folder / "stu" / "mask_1.png").unlink()


def stu_of_train(folder: Path) -> None:
    """The one picture is one of train."""
    stu(folder)
    first = next(p for p in (folder / "real" / "metadata.csv").read_text().splitlines() if ",train," in p)
    source = folder / "real" / first.split(",")[1]
    (folder / "stu" / "Test_Image_1.png").write_bytes(source.read_bytes())


def photos(folder: Path) -> None:
    """Pictures in no known layout."""
    (folder / "photos").mkdir()
    write_png(folder / "photos" / "a.png", scene(1))


SEGMENTATION = [
    Case("unknown encoder", f"{SEGMENT} --encoder resnet81", ("--encoder: found 'resnet81'", "resnet18")),
    Case("unknown encoder of timm", f"{SEGMENT} --encoder tu-convnext_tiy", ("convnext_tiny",)),
    Case("unknown encoder of MADGNet", f"{AT_64} --model madgnet --encoder resnest51d",
         ("--encoder: found 'resnest51d'", "resnest50d")),
    Case("encoder that MADGNet cannot use", f"{AT_64} --model madgnet --encoder convnext_tiny",
         ("with features at 1/4",)),
    Case("encoder and architecture that do not go together", f"{SEGMENT} --model unetplusplus --encoder mit_b0",
         ("a pair that smp refuses",)),
    Case("size that no encoder takes", AT_100, ("--img_size: found 100", "96 or 128")),
    Case("size that the architecture does not take", f"{AT_96} --model pan",
         ("--img_size, for pan with resnet18: found 96; expected a multiple of 32, 128 or more",)),
    Case("size that MADGNet does not take", f"{SEGMENT} --model madgnet --encoder resnet18",
         ("--img_size, for madgnet with resnet18: found 32; expected a multiple of 32, 64 or more",)),
    Case("weights that are missing", f"{SEGMENT} --encoder_weights nowhere.pth", ("nowhere.pth: found no such file",)),
    Case("weights of another network", f"{SEGMENT} --encoder_weights encoder.pth", ("0 of ", "layer.weight"),
         foreign_weights),
    Case("unknown weights", f"{SEGMENT} --encoder_weights imagnet", ("found 'imagnet'; expected one of", "imagenet")),
    Case("unknown weights of an encoder of timm", f"{SEGMENT} --encoder tu-resnet18 --encoder_weights imagnet",
         ("--encoder_weights: found 'imagnet'; expected imagenet or a file",)),
    Case("unknown tag of an encoder of timm", f"{SEGMENT} --encoder tu-resnet18.a1_in1kk",
         ("found 'tu-resnet18.a1_in1kk'; expected one of tu-resnet18.a1_in1k",)),
    Case("weights that timm does not have", f"{SEGMENT} --encoder tu-resnetblur18 --encoder_weights imagenet",
         ("--encoder_weights imagenet: found no weights for resnetblur18",)),
    Case("baseline without what a comparison needs", f"{SEGMENT} --baseline run",
         ("run/scores.json: found no config, img_size, test_ids, test_digest",), empty_scores),
    Case("train without a class", SEGMENT, ("found no train image of class 'malignant'",), without_class("train")),
    Case("val without a class", SEGMENT, ("found no val image of class 'malignant'",), without_class("val")),
    Case("test without a class", SEGMENT, ("found no test image of class 'malignant'",), without_class("test")),
    Case("external set that is missing", f"{SEGMENT} --test_data nowhere", ("nowhere: found nothing",)),
    Case("external set in an unknown layout", f"{SEGMENT} --test_data photos",
         ("--test_data photos: found grey images without masks; expected grey images, masks of",), photos),
    Case("external picture without its mask", f"{SEGMENT} --test_data stu", ("found no mask",), stu_without_mask),
    Case("external set of training pictures", f"{SEGMENT} --test_data stu", ("pictures of train and val only",),
         stu_of_train),
    Case("external set given twice", f"{SEGMENT} --test_data stu stu", ("a second set named stu_hospital",), stu),
    Case("external set without classes, to classify", f"{CLASSIFY} --model resnet10t --test_data stu",
         ("found pictures without a known class",), stu),
    Case("gradual mixing of one kind", f"{SEGMENT} --mixing gradual", ("--mixing gradual: found real pairs only",)),
    Case("epochs and steps", f"{SEGMENT} --epochs 3", ("--epochs and --steps: found both",)),
    Case("a seed twice", f"{SEGMENT} --seeds 1 1", ("--seeds: found [1, 1]",)),
    Case("dropout of everything", f"{SEGMENT} --dropout 1", ("--dropout: found 1.0",)),
    Case("label smoothing above 1", f"{SEGMENT} --label_smoothing 2", ("--label_smoothing: found 2.0",)),
    Case("encoder to classify with", f"{CLASSIFY} --encoder resnet18", ("--encoder: found resnet18",)),
    Case("unknown classifier", f"{CLASSIFY} --model resnet19x", ("--model: found 'resnet19x'", "resnet18")),
]  # fmt: skip
