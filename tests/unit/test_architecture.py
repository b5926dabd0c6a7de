"""The cuts between the parts, read from the source: imports run one way, five scripts, YAML that loads."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from medsegdiff.cli import COMMANDS, load, parse, settings
from medsegdiff.generators.joint_diffusion.config import TrainConfig

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "medsegdiff"

BASE = {"errors", "config", "locks", "legacy", "files"}
MATHS = {"diffusion", "models"}

# Every part (a module or folder of the package; the longest name counts) and the parts below it that it may import.
# Data and diffusion stand side by side. What is not listed is refused: a new part has to find its place here first.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "config": {"errors"},
    "locks": {"errors"},
    "legacy": set(),
    "files": {"errors", "locks", "legacy"},
    "diffusion": {"errors"},
    "models": {"errors", "config", "diffusion"},
    "data": BASE,
    "checkpoint": BASE | MATHS,
    "export": {"errors", "config", "files", "checkpoint"},
    "generation.draw": {"errors", "diffusion"},  # noise -> pairs, in memory; training looks at its progress with it
    "generation.leading": {"errors", "config", "diffusion"},  # ... guided as it will be
    "training": BASE | MATHS | {"data", "checkpoint", "generation.draw", "generation.leading"},
    "generation": BASE | MATHS | {"data", "checkpoint", "generation.draw", "generation.leading", "training"},
    "scoring": {"errors", "files"},
    "segmentation": BASE | {"data", "training", "scoring"},
    "classification": BASE | {"data", "training", "scoring"},
    "protocol": BASE | {"data", "training", "scoring", "segmentation", "classification"},
    "evaluation": BASE
    | MATHS
    | {"data", "checkpoint", "training", "scoring", "segmentation", "classification", "protocol"},
    "cli": {"errors"},
    "__main__": {"cli"},
    "quickstart": BASE | {"data", "cli"},
}
SCRIPTS = {
    "prepare_busi_dataset.py": "prepare",
    "train_medsegdiff.py": "train",
    "generate_synthetic.py": "generate",
    "create_combined_dataset.py": "combine",
    "train_segmentation.py": "segment",
}


def part_of(module: str) -> str:
    """The listed part that a module belongs to, the most exact one; its first name where none is listed."""
    parts = [part for part in MAY_IMPORT if module == part or module.startswith(part + ".")]
    return max(parts, key=len, default=module.split(".")[0])


def modules() -> dict[str, str]:
    """Source text of every module of the package, by its name below it: {"data.records": ...}."""
    files = {path.relative_to(PACKAGE).with_suffix(""): path.read_text() for path in PACKAGE.rglob("*.py")}
    return {".".join(p for p in path.parts if p != "__init__"): text for path, text in files.items()}


def imported_parts(source: str) -> set[str]:
    """Parts of medsegdiff that a source text imports anywhere, also within functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    within = {name.removeprefix("medsegdiff.") for name in names if name.startswith("medsegdiff.")}
    return {part_of(name) for name in within - {"__version__"}}


def test_imported_parts_sees_every_way_to_import() -> None:
    """Fails if `imported_parts` looks at the top of a file only, or at `from` imports only."""
    source = "import medsegdiff.generators.joint_diffusion.backbones.x\ndef f():\n    from medsegdiff import data, __version__\n    import torch\n"
    assert imported_parts(source) == {"models", "data"}
    assert imported_parts("from medsegdiff.generation import draw, run") == {"generation.draw", "generation"}
    assert imported_parts("from medsegdiff.generators.joint_diffusion.sampling import sample_pairs") == {
        "generation.draw"
    }


def test_imports_run_one_way() -> None:
    """Fails if a file in data/ imports medsegdiff.generators.joint_diffusion.backbones, or diffusion/ imports medsegdiff.config."""
    wrong = []
    for module, source in sorted(modules().items()):
        allowed = MAY_IMPORT.get(part_of(module), set()) | {part_of(module)}
        wrong += [f"{module} imports {part}" for part in sorted(imported_parts(source) - allowed)]
    assert wrong == []


def test_every_part_has_its_place_and_there_is_no_circle() -> None:
    """Fails if a new folder appears in the package unlisted, or a part is allowed to import one listed after it."""
    assert {part_of(module) for module in modules() if module} - set(MAY_IMPORT) == set()
    seen: set[str] = set()
    for part, allowed in MAY_IMPORT.items():
        assert allowed <= seen, f"{part} may import {allowed - seen}, which stands above it"
        seen.add(part)


def test_five_thin_scripts() -> None:
    """Fails if a sixth script appears at the top, or if one calls another command or holds logic of its own."""
    assert {path.name for path in ROOT.glob("*.py")} == set(SCRIPTS)
    for name, command in SCRIPTS.items():
        source = (ROOT / name).read_text()
        assert f'main(["{command}", *sys.argv[1:]])' in source
        assert len(source.splitlines()) < 15


def test_only_the_command_line_prints_and_reads_argv() -> None:
    """Fails if a library module prints instead of logging, or looks at sys.argv or the working directory."""
    for module, source in modules().items():
        if module == "cli":
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{module}, line {node.lineno}, prints"
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("argv", "getcwd", "cwd"), f"{module}, line {node.lineno}: {node.attr}"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_yaml_loads(path: Path) -> None:
    """Fails if a key of a YAML file is misspelt or has a value of the wrong type."""
    assert isinstance(parse("train", TrainConfig, ["--config", str(path), "--data_dir", "d"]), TrainConfig)


def test_there_are_yaml_files() -> None:
    """Fails if configs/ is moved, so that the test above finds nothing to load."""
    assert {"quickstart", "busi_128", "busi_256"} <= {path.stem for path in (ROOT / "configs").glob("*.yaml")}


@pytest.mark.parametrize("command", list(SCRIPTS.values()))
def test_readme_names_every_flag(command: str) -> None:
    """Fails if a field is added to a configuration, or renamed there, without its line in the README."""
    section = (ROOT / "README.md").read_text().split("\n## Phase ")[list(SCRIPTS.values()).index(command) + 1]
    keys = [s.key for s in settings(load(COMMANDS[command].config)) if "." not in s.key]
    assert [key for key in keys if f"| `--{key}`" not in section] == []


@pytest.mark.parametrize(("command", "heading"), [("evaluate", "## Flags"), ("describe", "## Describe")])
def test_the_page_on_evaluation_names_every_flag(command: str, heading: str) -> None:
    """Fails if a field is added to the configuration of a command, or renamed there, without its line in the docs."""
    section = (ROOT / "docs" / "evaluate.md").read_text().split(f"\n{heading}")[1].split("\n## ")[0]
    keys = [s.key for s in settings(load(COMMANDS[command].config))]
    assert [key for key in keys if f"| `--{key}`" not in section] == []
