"""``ttt-export``: write the model of a trained run as files for other programs."""

import sys
from pathlib import Path

from ttt.cli.command import Command
from ttt.config.errors import bad_value
from ttt.config.schema import ExportConfig
from ttt.results.record import RunFolder, read_record

HELP = """\
ttt-export writes the model of a run's newest checkpoint: model.safetensors, config.yaml and tokenizer.json.

usage: ttt-export run=FOLDER out=FOLDER [--released] [KEY=VALUE ...]

safetensors.torch.load_file reads the weights; ttt.models.released.from_released reads the released names.
"""


def export(config: ExportConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Write the files and print their names.

    Raises:
        UserError: no such run, no intact checkpoint, a model that the released code does not have, or a folder
            that contains other files or cannot be written.
    """
    out, folder = Path(config.out), RunFolder(Path(config.run))
    refuse_other_files(out, config.overwrite)
    # A folder without a run is reported before torch is imported.
    read_record(folder.record)
    from ttt.evaluate.export import export_run

    for path in export_run(folder, out, config.released, config.kernel):
        print(path)


def refuse_other_files(out: Path, overwrite: bool) -> None:
    """Check that ``out`` may be written.

    Raises:
        UserError: it is a file, or without ``overwrite`` a folder that is not empty.
    """
    try:
        occupied = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise bad_value("out", out, f"cannot be read ({error.strerror}); choose another folder") from error
    if occupied and not (overwrite and out.is_dir()):
        raise bad_value(
            "out", out, "contains other files; choose a new folder, or overwrite=true to write into this one"
        )


COMMAND = Command("export", ExportConfig, export, HELP)


def main() -> None:
    """Run ``ttt-export``."""
    COMMAND.main(sys.argv[1:])


if __name__ == "__main__":
    main()
