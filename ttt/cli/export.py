"""``ttt-export``: write the model of a trained run as files for other programs."""

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
  --released        use the parameter names of the authors' released code, and add released.json with its settings;
                    for TTT-Linear and TTT-MLP as they released them (the same: released=true)
  overwrite=true    write into a folder that is not empty; files of other names stay

safetensors.torch.load_file reads the weights, ttt.models.released.from_released the released names.
"""

FLAG = "--released"


def main() -> None:
    """Entry point of ``ttt-export``."""
    print_help_if_asked(lambda: HELP)
    sys.argv[1:] = ["released=true" if argument == FLAG else argument for argument in sys.argv[1:]]
    run_with_config("export", ExportConfig, export)


def export(config: ExportConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Write the files and print their names.

    Raises:
        UserError: there is no such run or no undamaged checkpoint, the released code has no such model, or the folder
            holds other files or cannot be written.
    """
    from ttt.evaluate.export import export_run, refuse_other_files
    from ttt.results.record import RunFolder

    out = Path(config.out)
    refuse_other_files(out, config.overwrite)
    for path in export_run(RunFolder(Path(config.run)), out, config.released):
        print(path)


if __name__ == "__main__":
    main()
