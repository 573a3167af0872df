"""``ttt-export``: write the model of a trained run as files for other programs."""

import sys
from pathlib import Path

from ttt.cli.command import Command
from ttt.config.schema import ExportConfig

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
    from ttt.evaluate.export import export_run, refuse_other_files
    from ttt.results.record import RunFolder

    out = Path(config.out)
    refuse_other_files(out, config.overwrite)
    for path in export_run(RunFolder(Path(config.run)), out, config.released, config.kernel):
        print(path)


COMMAND = Command("export", ExportConfig, export, HELP)


def main() -> None:
    """Run ``ttt-export``."""
    COMMAND.main(sys.argv[1:])


if __name__ == "__main__":
    main()
