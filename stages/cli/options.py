"""Settings from flags, --set and recipes."""

import argparse
import dataclasses
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from rlhf.errors import InputError, first_line
from rlhf.settings import complaint, value_type
from rlhf.store import Store
from stages import settings as stage_settings
from stages.judging_settings import AlignEvalSettings, BestOfNSettings, EvalSettings
from stages.talking_settings import ChatSettings, ServeSettings

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


STAGES: dict[str, type] = {
    "pretrain": stage_settings.PretrainSettings,
    "sft": stage_settings.SFTSettings,
    "sample": stage_settings.SampleSettings,
    "reward": stage_settings.RewardSettings,
    "ppo": stage_settings.PPOSettings,
    "best-of-n": BestOfNSettings,
    "eval": EvalSettings,
    "chat": ChatSettings,
    "serve": ServeSettings,
}


# The tables of a recipe; those that are no stage's are steps of `rlhf align`.
TABLES: dict[str, type] = STAGES | {
    "data": stage_settings.AlignDataSettings,
    "gold": stage_settings.RewardSettings,
    "judge": AlignEvalSettings,
}


TRAINING = ("pretrain", "sft", "reward", "ppo")


def say(line: str) -> None:
    """Progress goes to stderr; results alone go to stdout."""
    print(line, file=sys.stderr, flush=True)


def everywhere_options() -> "Command":
    """The options that every command takes."""
    shared = Command(add_help=False)
    group = shared.add_argument_group("everywhere")
    unset = argparse.SUPPRESS  # so that an option given before the command survives the command's defaults
    group.add_argument("--store", default=unset, help="checkpoint store ($RLHF_STORE, ./store)")
    group.add_argument(
        "--labels",
        dest="labels_url",
        default=unset,
        help="label store: file or postgresql:// URL ($RLHF_LABELS, STORE/labels.db)",
    )
    group.add_argument("--debug", action="store_true", default=unset, help="show the traceback of an error")
    return shared


def add_recipe(command: argparse.ArgumentParser) -> None:
    """The option of the commands that read a recipe."""
    command.add_argument("--recipe", help="settings file (TOML) or the name of one in recipes/")


def add_proxy(command: argparse._ActionsContainer) -> None:
    """How an app of pages stands behind a proxy."""
    command.add_argument(
        "--behind-proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="address or network of the proxy in front, such as 127.0.0.1; may be repeated",
    )
    command.add_argument(
        "--proxy-header",
        default="",
        metavar="NAME",
        help="header in which the proxy names who is signed in, such as X-Forwarded-User (none)",
    )
    command.add_argument(
        "--root-path",
        default="",
        metavar="PATH",
        help="path below which the proxy shows the app, such as /labels",
    )


def proxy_of(options: argparse.Namespace) -> dict[str, Any]:
    """What `add_proxy`'s options say, in AppSettings' names; empty where they say nothing."""
    given = {
        "behind_proxy": tuple(options.behind_proxy),
        "proxy_header": options.proxy_header,
        "root_path": options.root_path.rstrip("/"),
    }
    return {name: value for name, value in given.items() if value}


class Help(argparse.HelpFormatter):
    """Help in lines of a hundred columns, an option and its text beside each other."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)


class Command(argparse.ArgumentParser):
    """A parser whose help, and that of the commands below it, is laid out by `Help`."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**{"formatter_class": Help} | more)


class HelpAll(argparse.Action):
    """`--help-all`: the help with the options that `--help` leaves out. `hidden` holds them with their texts."""

    def __init__(self, hidden: list[tuple[argparse.Action, str]], **more: Any) -> None:
        super().__init__(nargs=0, help="show every setting, then exit", default=argparse.SUPPRESS, **more)
        self.hidden = hidden

    def show_hidden(self) -> None:
        """Give the hidden options their texts back."""
        for action, help in self.hidden:
            action.help = help

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:  # type: ignore[override]
        self.show_hidden()
        parser.print_help()
        parser.exit()


def add_settings(command: argparse.ArgumentParser, kind: type) -> None:
    """One option for each setting that has a flag, --set for all of them; `--help` shows the common ones."""
    command.usage = "%(prog)s [--SETTING VALUE …] [--set NAME=VALUE …]"
    hidden: list[tuple[argparse.Action, str]] = []
    command.add_argument("--help-all", action=HelpAll, hidden=hidden)
    rare = []
    # A class's own settings first: fields of the class it extends stand in front otherwise.
    for field in sorted(dataclasses.fields(kind), key=lambda field: field.name not in kind.__annotations__):
        if not field.metadata["flag"]:
            rare.append(f"{field.name} ({_shown(field)}): {field.metadata['help']}")
            continue
        option = _add_setting(command, kind, field)
        if not field.metadata["common"]:
            hidden.append((option, option.help or ""))
            option.help = argparse.SUPPRESS
    named = command.add_argument(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any setting by its name, also those that --help-all tells",
    )
    if rare:
        hidden.append((named, f"any setting; also {'; '.join(rare)}".replace("%", "%%")))


def _shown(field: Any) -> Any:
    return "none" if field.default is None else field.default


def _add_setting(command: argparse.ArgumentParser, kind: type, field: Any) -> argparse.Action:
    """The option of one setting."""
    flag, help = "--" + field.name.replace("_", "-"), f"{field.metadata['help']} ({_shown(field)})"
    if field.name == "labels":  # the option of that name is the label store
        flag = "--snapshot"
    if value_type(kind, field.name) is bool:
        return command.add_argument(
            flag, dest=field.name, action=argparse.BooleanOptionalAction, default=None, help=help
        )
    choices = field.metadata["choices"] or None
    return command.add_argument(
        flag, dest=field.name, default=None, choices=choices, help=help, metavar=_metavar(kind, field)
    )


def _metavar(kind: type, field: Any) -> str | None:
    if field.metadata["choices"]:
        return None
    return {int: "N", float: "X"}.get(value_type(kind, field.name), "NAME")


def parse_setting(kind: type, name: str, value: Any, where: str) -> Any:
    """A setting's value from text or TOML in the field's type. Raises InputError naming where it stood."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if name not in fields:
        raise InputError(f"{where}: no setting named {name}; known are {', '.join(sorted(fields))}")
    field, expected = fields[name], value_type(kind, name)
    if field.default is None and value in (None, "", "none"):
        return None
    value = _from_text(expected, value)
    if wrong := complaint(field, expected, value):
        raise InputError(f"{where}: {wrong}")
    return value


def _from_text(expected: type, value: Any) -> Any:
    """A text in the type that is expected; what is no text, or cannot be read as that type, stays."""
    if expected is bool and str(value).lower() in ("true", "false", "1", "0"):
        return str(value).lower() in ("true", "1")
    if expected not in (int, float) or isinstance(value, bool):
        return value
    try:
        return expected(str(value).replace("_", ""))
    except ValueError:
        return value


def read_recipe(name: str | None, above: tuple[Path, ...] = ()) -> dict[str, dict[str, Any]]:
    """A recipe's tables by stage, values in the settings' types; with `extends` on top of those of another recipe.

    above: the files on the way to one that is extended, the last of which names it. Raises InputError for anything that a
    recipe may not hold.
    """
    if name is None:
        return {}
    path = _recipe_file(name, above)
    tables = _tables(path)
    extended = tables.pop("extends", None)
    if extended is not None and (not isinstance(extended, str) or not extended):
        raise InputError(f"{path}: extends names another recipe")
    recipe = read_recipe(extended, (*above, path))
    for stage, table in tables.items():
        if stage not in TABLES:
            raise InputError(f"{path}: no stage named {stage}; known are {', '.join(TABLES)}")
        if not isinstance(table, dict):
            raise InputError(f"{path}: {stage} is no table; write [{stage}], and its settings below")
        kind = TABLES[stage]
        recipe[stage] = recipe.get(stage, {}) | {
            key: parse_setting(kind, key, value, f"{path}, [{stage}]") for key, value in table.items()
        }
    return recipe


def _recipe_file(name: str, above: tuple[Path, ...]) -> Path:
    """The file that a name means: a path, from the folder of the recipe that extends it, else one in recipes/."""
    own = [above[-1].parent / f"{name}.toml", above[-1].parent / name] if above else [Path(name)]
    path = next((path for path in (*own, RECIPES / f"{name}.toml") if _is_file(path)), None)
    if path is None:
        known = ", ".join(sorted(found.stem for found in RECIPES.glob("*.toml")))
        where = f"{above[-1]}, extends: recipe {name}" if above else f"recipe {name}"
        raise InputError(f"{where}: no such file, nor one of {known}")
    if any(path.samefile(other) for other in above):
        circle = " → ".join(f"{each}" for each in (*above, path))
        raise InputError(f"{above[-1]}: recipes extend each other in a circle: {circle}")
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def _tables(path: Path) -> dict[str, Any]:
    """What a TOML file holds. Raises InputError for one that cannot be read or is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start + 1}); save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: not TOML that a recipe may hold: its values are nested too deep") from None


def settings_from(options: argparse.Namespace) -> Any:
    """A stage's settings: defaults, overlaid by the recipe, by --set and by options."""
    kind = STAGES[options.stage]
    values = read_recipe(options.recipe).get(options.stage, {})
    for assignment in options.assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment}: write it as NAME=VALUE")
        values[name] = parse_setting(kind, name, value, "--set")
    for field in dataclasses.fields(kind):
        value = getattr(options, field.name, None)
        if value is not None:
            values[field.name] = parse_setting(kind, field.name, value, f"--{field.name.replace('_', '-')}")
    return kind(**values)


def store_of(options: argparse.Namespace) -> Store:
    name = options.store or os.environ.get("RLHF_STORE") or "store"
    try:
        root = Path(name).expanduser()
    except RuntimeError as problem:  # ~NOBODY
        raise InputError(f"--store {name}: {first_line(problem)}; write the folder out") from None
    return Store(root, resume_only=getattr(options, "resume", False))


def labels_url_of(options: argparse.Namespace) -> str:
    return options.labels_url or os.environ.get("RLHF_LABELS") or str(store_of(options).root / "labels.db")


def print_entry(entry: Any) -> None:
    """A new entry's reference on stdout, its metrics on stderr; of several processes the first shows it."""
    from rlhf.machine import processes

    if not processes.is_main_process():
        return
    say("  ".join(f"{name} {value}" for name, value in entry.manifest["metrics"].items()))
    print(entry.ref)
