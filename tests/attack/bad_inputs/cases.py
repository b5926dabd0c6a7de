"""Every bad input that is known, by what it concerns. Each is a real file or setting, and a real command line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from bad_base import EXPLODED, SHAPE, Case, another_job, disc, edit, first, scene, without_permission, write_raw
from direction_cases import DIRECTIONS
from evaluate_cases import EVALUATION, without_val
from safetensors import safe_open
from safetensors.torch import save_file
from segment_cases import SEGMENT, SEGMENTATION

from medsegdiff.cli import main
from medsegdiff.downstream.weights import save_weights
from medsegdiff.engine.files import write_png

PREPARE = "prepare --input_dir raw --output_dir out --folds 2"
DESCRIBE = "describe --real_data real --output_dir out"
TRAIN = "train --config tiny.yaml --data_dir real --output_dir out"
COMBINE = "combine --real_data real --synthetic_data synthetic --output_dir out"
GENERATE = "generate --checkpoint_path model.safetensors --output_dir out --steps 2 --device cpu"
FEW_STEP = "few-step --checkpoint_path model.safetensors --data_dir real --output_dir out --device cpu"
EXPORT = "export --checkpoint_path model.safetensors"
IMAGE, MASK = "raw/benign/benign (1).png", "raw/benign/benign (1)_mask.png"


def put(name: str, data: bytes | str) -> Any:
    """A spoiler that writes a file."""
    return lambda folder: (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def remove(pattern: str) -> Any:
    """A spoiler that removes files."""
    return lambda folder: [path.unlink() for path in list(folder.glob(pattern))]


def rename(name: str, to: str) -> Any:
    """A spoiler that renames a file."""
    return lambda folder: (folder / name).rename(folder / to)


def cut(name: str, share: float) -> Any:
    """A spoiler that cuts off the end of a file."""
    return lambda folder: os.truncate(folder / name, int(share * (folder / name).stat().st_size))


def row(**changes: str) -> Any:
    """A spoiler of the first row of real/metadata.csv."""
    return lambda folder: edit(folder / "real", **changes)


def without_column(name: str) -> Any:
    """A spoiler that renames a column of real/metadata.csv."""

    def spoil(folder: Path) -> None:
        path = folder / "real" / "metadata.csv"
        path.write_text(path.read_text().replace(name, "other", 1))

    return spoil


def info(**changes: object) -> Any:
    """A spoiler of real/dataset.json."""

    def spoil(folder: Path) -> None:
        path = folder / "real" / "dataset.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def other_picture(split: str = "train", column: str = "image_file_name", shape: tuple[int, int] = SHAPE) -> Any:
    """A spoiler that puts another picture in the place of the first one of a split of real/."""

    def spoil(folder: Path) -> None:
        name = first(folder / "real", split)[column]
        write_png(folder / "real" / name, scene(999, shape) if "image" in column else 255 - disc(shape))

    return spoil


def encoded(name: str, ending: str, picture: np.ndarray) -> Any:
    """A spoiler that writes a picture in another format, or depth, than the name says."""
    done, data = cv2.imencode(ending, picture)
    assert done
    return put(name, data.tobytes())


def huge_png(side: int = 30_000) -> bytes:
    """A valid PNG of `side` x `side` pixels, all black, of 1 bit each: some kB for what would decode to 900 MB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(1 + (side + 7) // 8) * 100) for _ in range(side // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def same_in_both(folder: Path) -> None:
    """Every picture of one class also stands in the other."""
    for path in (folder / "raw" / "benign").glob("*"):
        shutil.copyfile(path, folder / "raw" / "malignant" / path.name.replace("benign", "malignant"))


def link(name: str, target: str) -> Any:
    """A spoiler that makes a symbolic link."""

    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(target)

    return spoil


def both(*spoilers: Any) -> Any:
    """One spoiler after the other."""
    return lambda folder: [spoil(folder) for spoil in spoilers]


class Bomb:
    """Makes a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(EXPLODED),)  # relative: in the folder that the command runs in


def bomb(name: str) -> Any:
    """A spoiler that writes such a pickle."""
    return put(name, pickle.dumps(Bomb()))


def metadata(**changes: str) -> Any:
    """A spoiler of the metadata of model.safetensors."""

    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        with safe_open(path, framework="pt") as file:
            weights, known = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        save_file(weights, path, known | changes)

    return spoil


def segmentation_model(folder: Path) -> None:
    """What phase 5 saves, in the place of what phase 2 saves."""
    save_weights(folder / "model.safetensors", {"w": torch.ones(2)}, {"config": {}, "mean": 0.5, "std": 0.2})


def trained(folder: Path) -> None:
    """A finished run of the settings in tiny.yaml in out/."""
    here = [f"{folder}/{word}" if word in ("tiny.yaml", "real", "out") else word for word in TRAIN.split()]
    assert main(here) == 0


RAW = [
    Case("missing input folder", "prepare --input_dir nowhere --output_dir out", ("nowhere: found nothing",)),
    Case("a file as input folder", "prepare --input_dir raw.zip --output_dir out", ("found a file",),
         put("raw.zip", "")),
    Case(
        "a folder that is not BUSI", "prepare --input_dir photos --output_dir out",
        ("photos: found holiday/; expected one of these layouts: BUSI: ",),
        lambda folder: (folder / "photos" / "holiday").mkdir(parents=True),
    ),
    Case("class folder missing", f"{PREPARE} --classes benign cyst", ("found benign/, malignant/", "benign, cyst")),
    Case(
        "image without mask", PREPARE, (f"{IMAGE}: found no mask beside it; expected 'benign (1)_mask.png'",),
        remove(MASK),
    ),
    Case("mask without image", PREPARE, (f"{MASK}: found a mask without its picture",), remove(IMAGE)),
    Case(
        "image and mask sizes differ", PREPARE, (f"{MASK}: found 50 x 40 pixels; expected 48 x 40 pixels",),
        lambda folder: write_png(folder / MASK, disc((40, 50))),
    ),
    Case("empty file as picture", PREPARE, (f"{IMAGE}: found an empty file",), put(IMAGE, "")),
    Case("unreadable PNG (garbage)", PREPARE, (f"{IMAGE}: found a file that is no picture",),
         put(IMAGE, "garbage" * 99)),
    Case("PNG signature, then garbage", PREPARE, ("a damaged",), put(IMAGE, b"\x89PNG\r\n\x1a\n" + b"garbage" * 99)),
    Case("truncated PNG", PREPARE, (f"{IMAGE}: found a damaged or cut-off file",), cut(IMAGE, 0.5)),
    Case("PNG that lacks its last bytes", PREPARE, ("found a damaged or cut-off file",), cut(IMAGE, 0.995)),
    Case("truncated mask", PREPARE, (f"{MASK}: found a damaged or cut-off file",), cut(MASK, 0.5)),
    Case(
        "16-bit PNG", PREPARE, (f"{IMAGE}: found 16-bit pixels; expected 8-bit pixels",),
        encoded(IMAGE, ".png", scene(1).astype(np.uint16) * 257),
    ),
    Case(
        "JPEG named .png", PREPARE, ("found a JPEG picture; expected a whole PNG picture, as its name says",),
        encoded(IMAGE, ".jpg", scene(1)),
    ),
    Case(
        "picture of 30,000 x 30,000 pixels", PREPARE, ("found 30000 x 30000 pixels; expected at most 10000",),
        lambda folder: put(IMAGE, huge_png())(folder),
    ),
    Case(
        "folder named x.png", PREPARE, ("x.png: found Is a directory; expected a file",),
        both(lambda folder: (folder / "raw/benign/x.png").mkdir(), put("raw/benign/x_mask.png", b"")),
    ),
    Case(
        "broken link as picture", PREPARE, ("benign (1).png: found No such file or directory",),
        both(remove(IMAGE), link(IMAGE, "gone.png")),
    ),
    Case(
        "all-zero mask in a lesion class", PREPARE, (f"{MASK}: found an empty mask; expected a lesion outlined",),
        lambda folder: write_png(folder / MASK, np.zeros(SHAPE, np.uint8)),
    ),
    Case("class with no image", PREPARE, ("raw/malignant: found no picture",), remove("raw/malignant/*")),
    Case("every picture in both classes", PREPARE, ("found no picture of class benign that does not stand",),
         same_in_both),
    Case(
        "folders of several splits", "prepare --input_dir own --output_dir out",
        ("own: found folders of several splits (test, train)", "--keep_splits"),
        both(lambda folder: (folder / "own/train/a").mkdir(parents=True), lambda folder: (folder / "own/test/a").mkdir(
            parents=True), put("own/train/a/1.png", ""), put("own/test/a/1.png", "")),
    ),
    Case(
        "a second copy beside the data set", "prepare --input_dir both --output_dir out",
        ("several data sets: a (busi), b (busi); expected one",),
        lambda folder: [write_raw(folder / "both" / name) for name in "ab"],
    ),
    Case("unknown layout", f"{PREPARE} --layout coco", ("--layout: found coco; expected one of auto, busi",)),
    Case(
        "inverted masks", PREPARE, (f"{MASK}: found a lesion on", "Is it inverted?"),
        lambda folder: write_png(folder / MASK, 255 - disc()),
    ),
    Case(
        "label maps without names", PREPARE, (f"{MASK}: found a label map (pixel values 0, 90, 255)", "--mask_classes"),
        lambda folder: write_png(folder / MASK, np.where(disc() > 0, 255, 0).astype(np.uint8) + np.uint8(90) * (
            np.arange(SHAPE[1])[None] < 9)),
    ),
    Case("pattern that is none", f"{PREPARE} --subject_pattern (", ("--subject_pattern: found ( (",)),
    Case("pattern that finds no patient", f"{PREPARE} --subject_pattern P(\\d+)", ("found no patient in benign/",)),
    Case("mask classes without background", f"{PREPARE} --mask_classes a=1", ("--mask_classes: found a=1; expected",)),
    Case("mask classes for BUSI", f"{PREPARE} --mask_classes background=0 a=1", ("a data set in the layout busi",)),
    Case("colours of BUSI", f"{PREPARE} --colour rgb", ("--colour: found rgb, and the layout busi",)),
    Case("a prepared data set as raw one", "prepare --input_dir real --output_dir out", ("prepared already",)),
    Case(
        "two files that would get one id", PREPARE, ("found the same id 'benign_0002' as",),
        both(rename(IMAGE, "raw/benign/benign 02.png"), rename(MASK, "raw/benign/benign 02_mask.png")),
    ),
    Case(
        "fewer groups than splits", "prepare --input_dir few --output_dir out --folds 2",
        ("class benign: found 2 groups of near-duplicates; expected at least 3, one for each split",),
    ),
    Case("fewer groups than folds", "prepare --input_dir raw --output_dir out", ("expected at least 5", "--folds")),
]  # fmt: skip

PAIRS = [
    Case("raw pictures where samples are due", "describe --real_data raw --output_dir out",
         ("no dataset.json", "prepare")),
    Case("dataset.json is broken", DESCRIBE, ("real/dataset.json: found text that is not JSON",),
         cut("real/dataset.json", 0.5)),
    Case("dataset.json is a list", DESCRIBE, ("real/dataset.json",), put("real/dataset.json", "[]")),
    Case("dataset.json of another version", DESCRIBE, ("schema version 99; expected version 2 or older",),
         info(schema_version=99)),
    Case("dataset.json without classes", DESCRIBE, ("found no list of classes",), info(classes=None)),
    Case("dataset.json without settings", DESCRIBE, ("no mapping under 'fingerprint'",), info(fingerprint=3)),
    Case("metadata.csv is missing", DESCRIBE, ("real/metadata.csv: found No such file",), remove("real/metadata.csv")),
    Case("metadata.csv is empty", DESCRIBE, ("real/metadata.csv: found an empty file",), put("real/metadata.csv", "")),
    Case("metadata.csv is not UTF-8", DESCRIBE, ("found text that is not UTF-8",),
         put("real/metadata.csv", b"id\xff\xfe")),
    Case("metadata.csv is not CSV", DESCRIBE, ("text that is not CSV",), put("real/metadata.csv", '"id')),
    Case(
        "column missing", DESCRIBE, ("real/metadata.csv: found no column mask_hash",),
        without_column("mask_hash"),
    ),
    Case("row that ends too soon", DESCRIBE, ("found fewer values than columns",), cut("real/metadata.csv", 0.97)),
    Case("text for a number", DESCRIBE, ("line 2, column fold: found 'two'",), row(fold="two")),
    Case("NaN for a number", DESCRIBE, ("column pixel_aspect: found 'nan'",), row(pixel_aspect="nan")),
    Case("negative width", DESCRIBE, ("column width: found '-48'; expected a number above 0",), row(width="-48")),
    Case("hash that is none", DESCRIBE, ("column perceptual_hash: found 'abc'",), row(perceptual_hash="abc")),
    Case("unknown split", DESCRIBE, ("split 'dev'; expected one of train, val, test",), row(split="dev")),
    Case("unknown class in a row", DESCRIBE, ("label 'cyst'; expected one of benign",), row(label="cyst")),
    Case(
        "duplicated id", DESCRIBE, ("metadata.csv, line 3: found id 'benign_0002' a second time",),
        row(id="benign_0002"),
    ),
    Case(
        "group in two splits", DESCRIBE, ("expected each group in one split",),
        lambda folder: edit(folder / "real", group=first(folder / "real", "test")["group"], split="val"),
    ),
    Case("row without a mask", DESCRIBE, ("found no mask; expected one for every row",),
         row(mask_file_name="", mask_hash="")),
    Case("arrays of another kind", DESCRIBE, ("found another description of the arrays",), info(arrays={"image": 1})),
    Case("missing file", DESCRIBE, ("found no file images/benign_0001.png",), remove("real/images/benign_0001.png")),
    Case(
        "path that leaves the folder", DESCRIBE, ("found path '../raw.png'; expected a path inside the folder",),
        row(image_file_name="../raw.png"),
    ),
    Case(
        "absolute path", DESCRIBE, ("found path '/etc/hostname'; expected a path inside",),
        row(mask_file_name="/etc/hostname"),
    ),
    Case(
        "link that leaves the folder", DESCRIBE, ("found path 'images/benign_0001.png'; expected a path inside",),
        both(remove("real/images/benign_0001.png"), link("real/images/benign_0001.png", "/etc/hostname")),
    ),
    Case("id that would leave the output", DESCRIBE, ("column id: found '../../x'",), row(id="../../x")),
    Case(
        "picture of another size", DESCRIBE, ("found 44 x 40 pixels; expected 48 x 40, as metadata.csv says",),
        other_picture(column="mask_file_name", shape=(40, 44)),
    ),
    Case("changed mask, in describe", DESCRIBE, ("found another picture",), other_picture(column="mask_file_name")),
    Case(
        "changed picture, in train", TRAIN,
        ("found another picture; expected the picture that metadata.csv describes",),
        other_picture(),
    ),
    Case("changed picture, in segment", SEGMENT, ("real/images/", "found another picture"), other_picture("val")),
    Case("changed picture, in combine", COMBINE, ("real/images/", "found another picture"), other_picture()),
    Case(
        "changed mask, in combine", COMBINE, ("real/masks/", "found another picture"),
        other_picture("test", "mask_file_name"),
    ),
    Case("truncated picture, in train", TRAIN, ("found a damaged or cut-off file",),
         lambda folder: cut(f"real/{first(folder / 'real')['image_file_name']}", 0.5)(folder)),
    Case(
        "real and synthetic data swapped", "combine --real_data synthetic --synthetic_data real --output_dir out",
        ("found 4 synthetic pairs", "swapped"),
    ),
    Case("one folder in two roles", "combine --real_data real --synthetic_data real --output_dir out",
         ("the same folder as --real_data",)),
    Case("synthetic pairs alone in segment", "segment --data_dir synthetic --output_dir out",
         ("synthetic: found synthetic pairs only", "combine")),
    Case("synthetic pairs in training", "train --config tiny.yaml --data_dir synthetic", ("found 4 synthetic pairs",)),
    Case("baseline that is no run", f"{SEGMENT} --baseline tiny.yaml", ("tiny.yaml: found a file",)),
]  # fmt: skip

CAPTIONS = [
    Case("captions of a picture that is not there", f"{PREPARE} --layout captions",
         ("captions.csv, line 2: found 'a.png'",), put("raw/captions.csv", "path,Text,modality\na.png,lung,CT\n")),
    Case("two rows of captions that differ", f"{PREPARE} --layout captions", ("line 3: found a second row of",),
         put("raw/captions.csv", "path,Text\nbenign/benign (1).png,a\nbenign/benign (1).png,b\n")),
]  # fmt: skip

CHECKPOINTS = [
    Case("few-step training of another data set", FEW_STEP.replace("_dir real", "_dir synthetic"),
         ("--data_dir synthetic: found", "the train split that the checkpoint learnt")),
    Case("weights of discriminators that are not there", f"{FEW_STEP} --feature_weights weights.pth",
         ("--feature_weights weights.pth: found no such file",)),
    Case("noise levels that rise", f"{FEW_STEP} --sigmas 2 6", ("--sigmas: found [2.0, 6.0]",)),
    Case("missing checkpoint", "generate --checkpoint_path nowhere.pth --output_dir out", ("found no such file",)),
    Case("a name that no weights have", "generate --checkpoint_path busi-12 --output_dir out",
         ("or a name of what comes with medsegdiff: busi-128",)),
    Case("training from weights that are not there", f"{TRAIN} --init_from nowhere.safetensors",
         ("nowhere.safetensors: found no such file",)),
    Case("training from weights of another network", f"{TRAIN} --init_from model.safetensors --model.model_channels 32",
         ("--init_from: found a checkpoint with other settings of the network",)),
    Case("predicting with a generator", "predict --model_path model.safetensors --images real --output_dir out",
         ("model.safetensors: found weights of another kind", "best_model.safetensors of a run of phase 5")),
    Case("predicting with a folder without weights", "predict --model_path real --images real --output_dir out",
         ("real: found no best_model.safetensors",)),
    Case("truncated checkpoint", GENERATE, ("found a damaged file",), cut("model.safetensors", 0.5)),
    Case("empty file as checkpoint", GENERATE, ("found a damaged file",), put("model.safetensors", "")),
    Case("checkpoint of another version", GENERATE, ("version '99'; expected kind",), metadata(version="99")),
    Case("checkpoint whose card is broken", GENERATE, ("do not fit",), metadata(card="{}")),
    Case("PNG named .safetensors", GENERATE, ("found a damaged file",), put("model.safetensors", huge_png(100))),
    Case("segmentation model as checkpoint", GENERATE, ("found a segmentation model",), segmentation_model),
    Case(
        "folder as checkpoint", "generate --checkpoint_path run --output_dir out",
        ("run: found a folder; expected a checkpoint file", "Give run/best_model.safetensors."),
        both(lambda folder: (folder / "run").mkdir(), put("run/best_model.safetensors", "")),
    ),
    Case("text file as checkpoint", "generate --checkpoint_path tiny.yaml --output_dir out", ("of another kind",)),
    Case("pickle (.pth) that would run code", "generate --checkpoint_path model.pth --output_dir out",
         ("model.pth: found a pickle, which is never opened since it can run code",), bomb("model.pth")),
    Case("pickle (.pt) that would run code", "generate --checkpoint_path model.pt --output_dir out",
         ("model.pt: found a pickle",), bomb("model.pt")),
    Case("pickle renamed .safetensors", GENERATE, ("found a damaged file",), bomb("model.safetensors")),
    Case("class that the checkpoint does not know", f"{GENERATE} --classes cyst", ("cyst", "benign malignant")),
]  # fmt: skip

SETTINGS = [
    Case("unknown command", "trian --data_dir real", ("Did you mean train?",)),
    Case("too few settings", "train --batch_size 8", ("expected --data_dir",)),
    Case("unknown flag", "train --data_dir real --num_epoch 3", ("unknown setting --num_epoch", "--num_epochs?")),
    Case("flag without value", "train --data_dir real --lr", ("--lr: found nothing behind it; expected float",)),
    Case("flag given twice", "train --data_dir real --lr 1e-4 --lr 1e-3", ("--lr a second time",)),
    Case("list given twice", f"{PREPARE} --classes benign --classes malignant",
         ("Write the values behind one --classes",)),
    Case("class named twice", f"{PREPARE} --classes benign benign", ("--classes", "each once")),
    Case("wrong type", "train --data_dir real --num_epochs many", ("--num_epochs: found many; expected int",)),
    Case("fraction for a whole number", "train --data_dir real --batch_size 2.5", ("--batch_size: found 2.5",)),
    Case("word that is no choice", f"{GENERATE} --sampler euler", ("--sampler: found euler", "dpmpp_2m")),
    Case("word that is no choice, of a setting that may be left out", f"{GENERATE} --masks real --split dev",
         ("--split: found dev; expected one of train, val, test",)),
    Case("negative learning rate", "train --data_dir real --lr -1", ("--lr: found -1.0; expected a number above 0",)),
    Case("unknown backbone", "train --data_dir real --backbone unet",
         ("--backbone: found unet; expected one of medsegdiff_v2, patch_unet",)),
    Case("part of another backbone", "train --data_dir real --model.use_anchor false",
         ("unknown setting --model.use_anchor", "a setting of medsegdiff train --backbone patch_unet")),
    Case("average longer than training", "train --data_dir real --ema_lengths 0.5",
         ("--ema_lengths: found [0.5]; expected numbers above 0 and up to 0.28",)),
    Case("fp16 on the CPU", "train --data_dir real --precision fp16 --device cpu", ("--precision: found fp16",)),
    Case("guide without guidance", GENERATE + " --guidance_checkpoint model.safetensors",
         ("--guidance_checkpoint: found --guidance 1, which is none",)),
    Case("sigma scale 0", GENERATE + " --sigma_scale 0", ("--sigma_scale: found 0.0; expected above 0, at most 1",)),
    Case("learning rate NaN", "train --data_dir real --lr nan", ("--lr: found nan; expected a finite number",)),
    Case("weight decay NaN", f"{SEGMENT} --weight_decay nan", ("--weight_decay: found nan",)),
    Case("infinite learning rate", "segment --data_dir real --lr inf", ("--lr: found inf",)),
    Case("fraction above 1", f"{PREPARE} --val_fraction 1.5",
         ("--val_fraction: found 1.5; expected a number from 0 to 1",)),
    Case("fractions that leave nothing", f"{PREPARE} --val_fraction 0.5 --test_fraction 0.5",
         ("so that train has some",)),
    Case("--img_size that the patch size does not divide", "train --data_dir real --img_size 100",
         ("--img_size: found 100; expected a multiple of 16", "Try 96.")),
    Case("--img_size that the encoder does not divide", "segment --data_dir real --img_size 100",
         ("such as 96 or 128",)),
    Case("negative count", f"{GENERATE} --num_samples_per_class -5", ("--num_samples_per_class: found -5",)),
    Case("count of zero", "train --data_dir real --batch_size 0", ("--batch_size: found 0",)),
    Case("NaN in YAML", "train --config tiny.yaml --data_dir real", ("expected a finite number",),
         put("tiny.yaml", "weight_decay: .nan\n")),
    Case("negative seed", f"{PREPARE} --seed -1", ("--seed: found -1",)),
    Case("seed beyond 64 bits", f"{PREPARE} --seed 99999999999999999999", ("--seed", "below 2^63")),
    Case("empty --output_dir", "prepare --input_dir raw --output_dir ''", ("--output_dir: found ''",)),
    Case("unknown segmentation network", f"{SEGMENT} --model unett", ("--model: found 'unett'", "unet")),
    Case("split without pairs", f"{DESCRIBE} --split val",
         ("real: found lesions of no class; expected lesions of two classes",), without_val),
    Case("synthetic pairs described as real", "describe --real_data synthetic --output_dir out",
         ("synthetic: found 4 synthetic pairs; expected real pairs alone",)),
    Case("unknown --split", f"{DESCRIBE} --split dev", ("--split: found 'dev'; expected one of train, val, test",)),
    Case("missing YAML file", "train --config nowhere.yaml --data_dir real", ("nowhere.yaml: found No such file",)),
    Case("unknown key in YAML", "train --config tiny.yaml --data_dir real",
         ("tiny.yaml: found unknown setting model.num_head", "Did you mean model.num_heads?"),
         put("tiny.yaml", "model:\n  num_head: 4\n")),
    Case("wrong type in YAML", "train --config tiny.yaml --data_dir real",
         ("tiny.yaml, lr: found fast; expected float",), put("tiny.yaml", "lr: fast\n")),
    Case("value out of range in YAML", "train --config tiny.yaml --data_dir real",
         ("tiny.yaml, condition_dropout: found 2.0; expected a number from 0 to 1",),
         put("tiny.yaml", "condition_dropout: 2\n")),
    Case("backbone in YAML that there is not", "train --config tiny.yaml --data_dir real",
         ("tiny.yaml, backbone: found unet; expected one of medsegdiff_v2, patch_unet",),
         put("tiny.yaml", "backbone: unet\n")),
    Case("home folder of nobody", "prepare --input_dir ~nobody-at-all/busi --output_dir out",
         ("--input_dir: found ~nobody-at-all/busi, and no home folder",)),
    Case("YAML that is a list", "train --config tiny.yaml --data_dir real", ("found a list",),
         put("tiny.yaml", "- lr\n")),
    Case("empty YAML", "train --config tiny.yaml --data_dir real", ("tiny.yaml: found nothing",), put("tiny.yaml", "")),
    Case("YAML that is broken", "train --config tiny.yaml --data_dir real",
         ("tiny.yaml, line 1: found expected ',' or ']'", "expected YAML"),
         put("tiny.yaml", "a: [1")),
    Case("YAML that is not UTF-8", "train --config tiny.yaml --data_dir real", ("tiny.yaml",),
         put("tiny.yaml", b"lr: \xff\xfe")),
    Case("key twice in YAML", "train --config tiny.yaml --data_dir real", ("tiny.yaml: found lr a second time",),
         put("tiny.yaml", "lr: 1\nlr: 2\n")),
    Case("YAML that would run code", "train --config tiny.yaml --data_dir real", ("tiny.yaml",),
         put("tiny.yaml", f"lr: !!python/object/apply:os.system ['touch {EXPLODED}']\n")),
]  # fmt: skip

OUTPUTS = [
    Case("no file behind --log_file", f"{DESCRIBE} --log_file", ("--log_file: found nothing behind it",)),
    Case("no threads", f"{DESCRIBE} --threads 0", ("--threads: found 0; expected a number above 0",)),
    Case("output folder that holds something else", PREPARE, ("out: found other files",),
         both(lambda folder: (folder / "out").mkdir(), put("out/thesis.txt", "years of work"))),
    Case("half-made output that is somebody else's", PREPARE, ("out.partial: found other files",),
         both(lambda folder: (folder / "out.partial").mkdir(), put("out.partial/thesis.txt", "years of work"))),
    Case("file as output folder", PREPARE, ("out: found a file",), put("out", "")),
    Case("output below a file", "describe --real_data real --output_dir tiny.yaml/out",
         ("tiny.yaml", "Not a directory")),
    Case("broken link as output folder", TRAIN, ("out: found a broken link",), link("out", "gone")),
    Case("output folder made with other settings",
         "prepare --input_dir raw --output_dir real --folds 2 --val_fraction 0.25 --test_fraction 0.25 --seed 1",
         ("real: found a data set made with other settings (seed: 0 -> 1)",)),
    Case("training folder made with other settings", f"{TRAIN} --lr 3e-4",
         ("out: found a run with other settings (lr: 0.0001 -> 0.0003)",), trained),
    Case("checkpoint exported over itself", f"{EXPORT} --output_path model.safetensors",
         ("--output_path: found model.safetensors; expected another file",)),
    Case("checkpoint exported as a pickle", f"{EXPORT} --output_path small.pth",
         ("--output_path: found small.pth; expected a name that ends in .safetensors",)),
    Case("checkpoint exported to a folder", f"{EXPORT} --output_path out.safetensors",
         ("--output_path: found out.safetensors, a folder",), lambda folder: (folder / "out.safetensors").mkdir()),
    Case("data set exported", "export --checkpoint_path real --output_path small.safetensors",
         ("real: found a folder",)),
    Case("phantom folder that holds something else", "phantom --output_dir raw", ("raw: found other files",)),
    Case("training into a data set", "train --config tiny.yaml --data_dir real --output_dir real",
         ("real: found a data set; expected a folder for checkpoints",)),
    Case("two jobs in one folder, prepare", PREPARE, ("out: found another run that is writing here",),
         around=lambda folder: another_job(folder / "out", beside=True)),
    Case("two jobs in one folder, train", TRAIN, ("out: found another run that is writing here",),
         lambda folder: (folder / "out").mkdir(), lambda folder: another_job(folder / "out", beside=False)),
    Case("no write permission", "describe --real_data real --output_dir locked/out",
         ("locked/out: found Permission denied; expected permission to use it",),
         lambda folder: (folder / "locked").mkdir(), lambda folder: without_permission(folder / "locked")),
    Case("no write permission, prepare", "prepare --input_dir raw --output_dir locked/out --folds 2",
         ("found Permission denied",),
         lambda folder: (folder / "locked").mkdir(), lambda folder: without_permission(folder / "locked")),
    Case("full disk, describe", DESCRIBE,
         ("out/description.json: found No space left on device; expected room to write. Free some space",),
         link("out/description.json.tmp", "/dev/full")),
]  # fmt: skip

CASES: dict[str, list[Case]] = {
    "Raw pictures": RAW,
    "sample folders": PAIRS,
    "Captions": CAPTIONS,
    "Checkpoints": CHECKPOINTS,
    "Conditioning masks and images": DIRECTIONS,
    "Segmentation and classification": SEGMENTATION,
    "Evaluation": EVALUATION,
    "Settings": SETTINGS,
    "Outputs and disks": OUTPUTS,
}
