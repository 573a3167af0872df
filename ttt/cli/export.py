"""``ttt-export``: the model of a trained run as files for other programs."""

import sys
from pathlib import Path

from ttt.cli.compose import run_with_config
from ttt.cli.help import print_help_if_asked
from ttt.config.schema import ExportConfig

HELP = """\
ttt-export writes the model of a run's newest checkpoint: model.safetensors, config.yaml and tokenizer.json.

usage: ttt-export run=FOLDER out=FOLDER [--released] [overwrite=true]

  run=FOLDER        folder of a run of ttt-train
  out=FOLDER        folder to write, new or empty
  --released        the parameter names of the authors' released code, and released.json with what it must be told;
                    for TTT-Linear and TTT-MLP as they released them (the same: released=true)
  overwrite=true    also into a folder that is not empty; files of other names stay

safetensors.torch.load_file reads the weights, ttt.models.released.from_released the released names.
"""

FLAG = "--released"


def main() -> None:
    """Entry point of ``ttt-export``."""
    print_help_if_asked(lambda: HELP)
    sys.argv[1:] = ["released=true" if argument == FLAG else argument for argument in sys.argv[1:]]
    run_with_config("export", ExportConfig, export)


def export(config: ExportConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Writes the files and prints their names.

    Raises:
        UserError: no such run, no checkpoint that is whole, a model that the released code does not have, or a folder
            that holds other files or cannot be written.
    """
    from ttt.evaluate.export import export_run, refuse_other_files
    from ttt.results.record import RunFolder

    out = Path(config.out)
    refuse_other_files(out, config.overwrite)
    for path in export_run(RunFolder(Path(config.run)), out, config.released):
        print(path)


if __name__ == "__main__":
    main()
