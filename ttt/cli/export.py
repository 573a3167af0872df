"""``ttt-export``: write the model of a trained run as files for other programs."""

import sys
from importlib.util import find_spec
from pathlib import Path

from ttt.cli.command import Command
from ttt.config.errors import UserError, bad_value
from ttt.config.exchange import ExportConfig
from ttt.config.keys import check_keys
from ttt.results.checkpoints import Choice
from ttt.results.record import RunFolder, read_record

HELP = """\
ttt-export writes the model of a run's newest checkpoint: model.safetensors,
config.yaml and tokenizer.json.

usage: ttt-export run=FOLDER out=FOLDER [--released] [KEY=VALUE ...]
       ttt-export run=FOLDER hf=FOLDER [push=OWNER/NAME] [KEY=VALUE ...]

  ttt-export run=runs/NAME out=FOLDER  for safetensors and ttt.load
  ttt-export run=runs/NAME out=FOLDER --released
                                       the authors' names and config.json
  ttt-export run=runs/NAME hf=FOLDER   for transformers, after import ttt.hf
"""


def export(config: ExportConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Write the files and print their names.

    Raises:
        UserError: no such run, no intact checkpoint, a model that the released code does not have, or a folder
            that contains other files or cannot be written.
    """
    check_keys(config)
    _check(config)
    out, folder = Path(config.hf or str(config.out)), RunFolder(Path(config.run))
    refuse_other_files(out, config.overwrite, "hf" if config.hf else "out")
    # A folder without a run is reported before torch is imported.
    read_record(folder.record)
    choice = Choice(config.step, config.average)
    if config.hf:
        from ttt.hf.export import export_hf

        paths = export_hf(folder, out, choice)
    else:
        from ttt.evaluate.export import export_run

        paths = export_run(folder, out, config.released, config.kernel, choice)
    for path in paths:
        print(path)
    if config.push:
        from ttt.data.hub_models import push_model

        print(push_model(out, config.push))


def _check(config: ExportConfig) -> None:
    if (config.out is None) == (config.hf is None):
        given = "out= and hf= are both given" if config.out else "no folder to write is given"
        raise UserError(f"{given}; give out=FOLDER, or hf=FOLDER for transformers")
    if config.hf and find_spec("transformers") is None:
        raise bad_value("hf", config.hf, "needs transformers; pip install 'ttt-suite[transformers]'")
    if config.hf and (config.released or config.kernel):
        raise bad_value("hf", config.hf, "has the suite's names and kernel=auto; leave out released and kernel")
    if config.push and not config.hf:
        raise bad_value("push", config.push, "uploads a folder for transformers; write hf=FOLDER instead of out=FOLDER")


def refuse_other_files(out: Path, overwrite: bool | None, key: str = "out") -> None:
    """Check that ``out``, which ``key`` named, may be written; ``overwrite`` is None if the command has no such key.

    Raises:
        UserError: it is a file, or without ``overwrite`` a folder that is not empty.
    """
    try:
        occupied = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise bad_value(key, out, f"cannot be read ({error.strerror}); choose another folder") from error
    if occupied and not (overwrite and out.is_dir()):
        or_into = "" if overwrite is None else ", or overwrite=true to write into this one"
        raise bad_value(key, out, f"contains other files; choose a new folder{or_into}")


COMMAND = Command("export", ExportConfig, export, HELP)


def main() -> None:
    """Run ``ttt-export``."""
    COMMAND.main(sys.argv[1:])


if __name__ == "__main__":
    main()
