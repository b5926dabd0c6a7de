"""Command lines: how flags and YAML become a configuration, and how wrong ones are refused."""

from __future__ import annotations

import dataclasses
import errno
import logging
import shlex
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
from tqdm import tqdm

from medsegdiff import cli, quickstart
from medsegdiff.cli import COMMANDS, Command, main, parse, settings
from medsegdiff.data.config import CombineConfig, PrepareConfig
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion.backbones import medsegdiff_v2
from medsegdiff.generators.joint_diffusion.backbones.patch_unet import Settings
from medsegdiff.generators.joint_diffusion.config import ModelConfig, TrainConfig
from medsegdiff.synthesis.config import GenerateConfig


def test_a_line_stands_above_the_progress_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: a plain handler, which writes behind the bar: the bar is neither taken off nor drawn again."""
    main(["--help"])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with tqdm(total=2, mininterval=0) as bar:
        bar.update(1)
        before = capsys.readouterr()
        logging.getLogger("medsegdiff").info("a line")
        after = capsys.readouterr()
    assert "1/2" in before.err
    assert after.out == "a line\n"
    assert after.err.startswith("\r")
    assert "1/2" in after.err


def test_a_line_is_in_the_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: no flush, so that a log file stays empty for minutes and a killed run leaves none."""
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stdout", log)
        main(["--help"])
        logging.getLogger("medsegdiff").info("a line")
        assert (tmp_path / "log").read_text().endswith("a line\n")


def write_yaml(folder: Path, text: str) -> str:
    path = folder / "settings.yaml"
    path.write_text(text)
    return str(path)


def test_defaults_are_those_of_the_dataclass() -> None:
    """Damage: flags get defaults of their own, e.g. `default=None` for all of them."""
    assert parse("train", TrainConfig, ["--data_dir", "d"]) == TrainConfig(data_dir="d")


def test_the_users_own_command_lines_are_understood() -> None:
    """Damage: a flag of phases 1-5 is renamed, e.g. --num_samples_per_class to --per_class."""
    parse("prepare", PrepareConfig, "--input_dir /path/to/busi --output_dir ./data/busi_processed".split())
    train = "--data_dir ./data/busi_processed --batch_size 8 --num_epochs 100 --lr 1e-4 --img_size 256"
    assert parse("train", TrainConfig, train.split()).output_dir == "./checkpoints"
    generate = (
        "--checkpoint_path ./checkpoints/best_model.pth --num_samples_per_class 1000 --output_dir ./synthetic_busi"
    )
    assert parse("generate", GenerateConfig, generate.split()).num_samples_per_class == 1000
    combine = "--real_data ./data/busi_processed --synthetic_data ./synthetic_busi --output_dir ./data/busi_combined"
    parse("combine", CombineConfig, combine.split())
    segment = parse("segment", SegmentConfig, "--data_dir ./data/busi_combined --model madgnet --epochs 50".split())
    assert (segment.model, segment.epochs) == ("madgnet", 50)


def test_nested_flags_and_lists_as_written() -> None:
    """Damage: only the first of space-separated values is read."""
    config = parse("train", TrainConfig, "--data_dir d --model.channel_mult 1 2 3 --model.num_heads 8".split())
    assert config.model == Settings(channel_mult=[1, 2, 3], num_heads=8)
    config = parse("prepare", PrepareConfig, "--classes benign malignant normal --input_dir a --output_dir b".split())
    assert config.classes == ["benign", "malignant", "normal"]


def test_optional_lists_and_numbers() -> None:
    """Damage: `settings` no longer looks into `list[str] | None`."""
    generate = ["--checkpoint_path", "c", "--output_dir", "o"]
    assert parse("generate", GenerateConfig, generate).classes is None
    assert parse("generate", GenerateConfig, [*generate, "--classes", "malignant"]).classes == ["malignant"]
    combine = "--real_data a --synthetic_data b --output_dir c".split()
    assert parse("combine", CombineConfig, [*combine, "--ratio", "2", "--balance", "false"]) == CombineConfig(
        real_data="a", synthetic_data="b", output_dir="c", ratio=2.0, balance=False
    )


def test_negative_and_equals_signs() -> None:
    """Damage: the check for unknown flags takes `-1` or `--lr=1` for a flag of that name."""
    config = parse("train", TrainConfig, ["--data_dir=d", "--diffusion.image_p_mean", "-1", "--lr=1"])
    assert (config.diffusion.image_p_mean, config.lr) == (-1.0, 1.0)


def test_yaml_scientific_notation_is_a_number(tmp_path: Path) -> None:
    """Damage: YAML is filled in by PyYAML alone, which reads 1e-4 as text."""
    file = write_yaml(tmp_path, "data_dir: d\nlr: 1e-4\ndiffusion:\n  beta_start: 2e-4\n")
    config = parse("train", TrainConfig, ["--config", file])
    assert (config.lr, config.diffusion.beta_start) == (1e-4, 2e-4)


@pytest.mark.parametrize("order", ["first", "last", "equals"])
def test_flags_win_over_yaml_wherever_they_stand(tmp_path: Path, order: str) -> None:
    """Damage: a file that stands behind flags overrides them."""
    file = write_yaml(tmp_path, "lr: 0.5\nbatch_size: 3\nmodel:\n  num_heads: 2\n  channel_mult: [1, 1]\n")
    flags = "--data_dir d --lr 0.25 --model.num_heads 6".split()
    given = {"first": ["--config", file, *flags], "last": [*flags, "--config", file]}
    config = parse("train", TrainConfig, given.get(order, [*flags, f"--config={file}"]))
    assert (config.lr, config.batch_size) == (0.25, 3)
    assert (config.model.num_heads, config.model.channel_mult) == (6, [1, 1])
    assert config.model.transformer_depth == ModelConfig().transformer_depth


def test_unknown_flag_names_the_nearest() -> None:
    """Damage: the nearest key is no longer looked up (hint "" or the first key of all)."""
    with pytest.raises(UserError, match=r"unknown setting --num_epoch; .* Did you mean --num_epochs\?"):
        parse("train", TrainConfig, "--data_dir d --num_epoch 3".split())
    with pytest.raises(UserError, match=r"Did you mean --model.num_heads\?"):
        parse("train", TrainConfig, "--data_dir d --num_heads 3".split())
    with pytest.raises(UserError, match=r"See medsegdiff train --help"):
        parse("train", TrainConfig, "--data_dir d --zzzz 3".split())


def test_unknown_yaml_key_names_file_and_nearest(tmp_path: Path) -> None:
    """Damage: unknown YAML keys are only warned of, or dropped."""
    file = write_yaml(tmp_path, "data_dir: d\nmodel:\n  num_head: 4\n")
    with pytest.raises(UserError, match=r"settings.yaml: .*model.num_head; .* Did you mean model.num_heads\?"):
        parse("train", TrainConfig, ["--config", file])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n- 2\n", "found a list; expected lines of the form"),
        ("a: [1\n", "expected YAML"),
        ("classes: benign\n", r"classes: found benign; expected a list of str. Write classes: \[benign\]"),
    ],
)
def test_yaml_of_the_wrong_shape(tmp_path: Path, text: str, message: str) -> None:
    """Damage: YAML goes to the parser unchecked, which answers with errors about its own insides."""
    with pytest.raises(UserError, match=message):
        parse("prepare", PrepareConfig, ["--config", write_yaml(tmp_path, text)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: fast\n", r"settings\.yaml, lr: found fast; expected float"),
        ("batch_size: 2.5\n", r"settings\.yaml, batch_size: found 2\.5; expected int"),
        ("augment: 3\n", r"settings\.yaml, augment: found 3; expected bool"),
        ("model:\n  num_heads: 5\n", r"settings\.yaml, model\.num_heads: found 5; expected a divisor of 288"),
        ("backbone: unet\n", r"settings\.yaml, backbone: found unet; expected one of"),
        ("lr:\n", r"settings\.yaml, lr: found nothing; expected float"),
        ("output_dir: 3\n", r"settings\.yaml, output_dir: found 3; expected str"),
    ],
)
def test_a_wrong_value_in_yaml_names_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    """Damage: it is reported as a flag, which the user has not given; or if True is taken for 1."""
    with pytest.raises(UserError, match=message):
        parse("train", TrainConfig, ["--data_dir", "d", "--config", write_yaml(tmp_path, text)])


def test_a_flag_over_yaml_is_reported_as_a_flag(tmp_path: Path) -> None:
    """Damage: whatever stands in the file as well is put down to the file."""
    with pytest.raises(UserError, match=r"^--lr: found -1\.0"):
        parse("train", TrainConfig, ["--data_dir", "d", "--lr", "-1", "--config", write_yaml(tmp_path, "lr: 1\n")])


def test_the_backbone_decides_which_settings_there_are(tmp_path: Path) -> None:
    """Damage: settings of every backbone are taken, or if a file cannot choose it."""
    flags = ["--data_dir", "d", "--config", write_yaml(tmp_path, "backbone: medsegdiff_v2\nmodel: {mask_share: 1}\n")]
    assert parse("train", TrainConfig, flags).model == medsegdiff_v2.Settings(mask_share=1.0)
    with pytest.raises(UserError, match=r"settings\.yaml: .*model\.mask_share; .* train --backbone patch_unet"):
        parse("train", TrainConfig, [*flags, "--backbone", "patch_unet"])


def test_the_home_folder_is_meant_by_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: a folder named ~ is made, by a value in YAML or behind an equals sign."""
    monkeypatch.setenv("HOME", str(tmp_path))
    file = write_yaml(tmp_path, "input_dir: ~/busi\n")
    config = parse("prepare", PrepareConfig, ["--config", file, "--output_dir=~/pairs"])
    assert (config.input_dir, config.output_dir) == (f"{tmp_path}/busi", f"{tmp_path}/pairs")
    assert SegmentConfig("d", test_data=["~/a", "b"]).test_data == [f"{tmp_path}/a", "b"]
    with pytest.raises(UserError, match=r"--data_dir: found ~nobody-at-all/x, and no home folder"):
        SegmentConfig("~nobody-at-all/x")


def test_choices_and_null() -> None:
    """Damage: `true` of --compile is taken for a word, or null for a file of that name."""
    assert parse("train", TrainConfig, "--data_dir d --compile true".split()).compile is True
    segment = parse("segment", SegmentConfig, "--data_dir d --encoder_weights null --tta_flip False".split())
    assert (segment.encoder_weights, segment.tta_flip) == (None, False)


def test_missing_yaml_file() -> None:
    """Damage: OSError is not turned into a UserError."""
    with pytest.raises(UserError, match=r"^nowhere.yaml: found No such file"):
        parse("train", TrainConfig, ["--data_dir", "d", "--config", "nowhere.yaml"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train"], "medsegdiff train: found too few settings; expected --data_dir."),
        (["train", "--data_dir", "d", "--lr", "fast"], "--lr: found fast; expected float."),
        (["train", "--data_dir", "d", "--model.num_heads", "1.5"], "--model.num_heads: found 1.5; expected int."),
        (["train", "--data_dir", "d", "--device", "tpu"], "--device: found tpu; expected one of auto, cpu, cuda."),
        (["train", "--data_dir"], "--data_dir: found nothing behind it; expected str"),
        (["train", "--data_dir", "d", "--backbone"], "--backbone: found nothing behind it; expected str"),
        (["train", "--data_dir", "d", "stray"], "unrecognized arguments: stray"),
        (["train", "--data_dir", "d", "--lrr", "3"], "Did you mean --lr?"),
        (["train", "--config"], "--config: found nothing behind it"),
        (["trian"], "unknown command 'trian'"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(argv: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Damage: argparse's own error handling is let through: usage of 60 lines, SystemExit instead of a status."""
    assert main(argv) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@dataclass(frozen=True)
class ToyConfig:
    """A configuration for the tests of `main`."""

    how: str  # what the function does: 100 % sure
    count: int = 3


def toy(config: ToyConfig) -> None:
    if config.how == "refuse":
        raise UserError("file, line 3", "x", "y", "Mend it.")
    if config.how == "interrupt":
        raise KeyboardInterrupt
    if config.how == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "disk/file")
    if config.how == "bug":
        raise RuntimeError("a bug")


@pytest.fixture
def toy_command(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("toy_module")
    vars(module).update(ToyConfig=ToyConfig, toy=toy)
    monkeypatch.setitem(sys.modules, "toy_module", module)
    monkeypatch.setitem(COMMANDS, "toy", Command("toy_module:ToyConfig", "toy_module:toy", "a toy"))


@pytest.mark.usefixtures("toy_command")
@pytest.mark.parametrize(
    ("how", "status", "text"),
    [
        ("work", 0, ""),
        ("refuse", 2, "error: file, line 3: found x; expected y. Mend it.\n"),
        (
            "full",
            2,
            "error: disk/file: found No space left on device; expected room to write. Free some space; the same "
            "command goes on from the last saved state.\n",
        ),
        ("interrupt", 130, "stopped; the same command goes on with what was saved\n"),
    ],
)
def test_exit_status(how: str, status: int, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Damage: `main` swallows one of the exceptions or returns 1 for it."""
    assert main(["toy", "--how", how]) == status
    assert capfd.readouterr().err == text


@pytest.mark.usefixtures("toy_command")
def test_a_bug_keeps_its_traceback() -> None:
    """Damage: every RuntimeError is taken for what the system refuses."""
    with pytest.raises(RuntimeError, match="a bug"):
        main(["toy", "--how", "bug"])


@pytest.mark.usefixtures("toy_command")
def test_help_say_what_the_comments_say(capsys: pytest.CaptureFixture[str]) -> None:
    """Damage: `field_comments` finds nothing, or if % in a comment is taken for a format."""
    assert main(["toy", "--help"]) == 0
    assert "what the function does: 100 % sure" in " ".join(capsys.readouterr().out.split())


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Damage: `medsegdiff --help` imports the commands (slow) or leaves some out."""
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_exists(name: str) -> None:
    """Damage: a library function or configuration class is renamed without its row in COMMANDS."""
    config_class = cli.load(COMMANDS[name].config)
    assert dataclasses.is_dataclass(config_class)
    assert callable(cli.load(COMMANDS[name].function))
    assert len({s.key for s in settings(config_class)}) > 1
    # A comment that the formatter moves off the line of its field is not found
    assert [s.key for s in settings(config_class) if not s.help] == []


def test_the_quickstart_prints_lines_that_can_be_typed() -> None:
    """Damage: a flag in quickstart.py is renamed in the configuration only, or a path with a blank is not quoted."""
    for phase in quickstart.phases(quickstart.QuickstartConfig(output_dir="a b/c", train_config="configs/q.yaml")):
        config_class = cli.load(COMMANDS[phase.command].config)
        argv = shlex.split(phase.line)[len(quickstart.SCRIPTS[phase.command].split()) :]
        argv = [word for word in argv if word not in ("--config", "configs/q.yaml")]
        config = parse(phase.command, config_class, argv)
        assert config.output_dir.startswith("a b/c/")


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.01, 0.2, "raised"), (-0.2, -0.01, "lowered"), (-0.1, 0.1, "Nothing is shown")]
)
def test_the_quickstart_says_what_its_table_shows(low: float, high: float, said: str) -> None:
    """Damage: a newcomer sees a lower Dice and no word about it, or chance is called a gain."""
    assert quickstart.in_words({"value": (low + high) / 2, "low": low, "high": high}).startswith(
        said if said[0].isupper() else f"Synthetic pairs {said}"
    )


def phantom(folder: Path, *more: str) -> list[str]:
    """The command line of a few phantoms."""
    counts = "--num_benign 1 --num_malignant 1 --duplicates 0"
    return ["phantom", "--output_dir", str(folder), *counts.split(), *more]


def test_a_command_ends_with_time_and_the_next_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Damage: nothing is said of what comes next, or a path with a blank could not be typed."""
    assert main(phantom(tmp_path / "a b")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("phantom took ")
    assert lines[-1] == f"next: medsegdiff prepare --input_dir '{tmp_path / 'a b'}' --output_dir samples"


def test_next_commands_can_be_typed() -> None:
    """Damage: the next command has a flag that was renamed, or names a field that its configuration lacks."""
    for name, command in cli.COMMANDS.items():
        config = {field.name: "x" for field in dataclasses.fields(cli.load(command.config))}
        words = command.then.format(**config).split()
        if words:
            program, following, *flags = words
            assert program == "medsegdiff", name
            cli.parse(following, cli.load(cli.COMMANDS[following].config), flags)


def test_quiet_and_a_log_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Damage: --quiet hides errors too, or the log file lacks what was said, or the error."""
    log = tmp_path / "log.txt"
    assert main(phantom(tmp_path / "raw", "--quiet", "--log_file", str(log))) == 0
    assert capsys.readouterr() == ("", "")
    assert (
        main(["prepare", "--input_dir", str(tmp_path / "no"), "--output_dir", "x", f"--log_file={log}", "--quiet"]) == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.removeprefix("error: ").strip() in log.read_text()
    assert main(phantom(tmp_path / "raw", "--log_file", str(log))) == 0
    assert "next: medsegdiff prepare" in log.read_text()
    assert "next: medsegdiff prepare" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["--threads"], ["--threads", "0"], ["--threads=two"], ["--log_file"], ["--log_file", "--quiet"]]
)
def test_flags_of_every_command_need_their_values(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Damage: the next flag is taken for a file name, or a wrong number is int's own error."""
    assert main(["phantom", "--output_dir", "nowhere", *words]) == 2
    assert words[0].split("=")[0] in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Damage: --version is an unknown command."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("medsegdiff ")
