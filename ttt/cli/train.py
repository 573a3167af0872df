"""``ttt-train``: train a language model, evaluate it and write its record."""

from ttt.cli.compose import run_with_config
from ttt.cli.help import describe_groups, print_help_if_asked
from ttt.cli.label import label_of
from ttt.cli.parent import like_its_parent
from ttt.config.schema import TrainConfig
from ttt.train.start import train

HELP = """\
ttt-train trains a language model, evaluates it, and writes a run folder for ttt-plot.

usage: ttt-train [GROUP=OPTION ...] [KEY=VALUE ...]

  ttt-train                                    the default: TTT-Linear, smallest size, context 512
  ttt-train model=ttt_mlp ctx=32k              another layer, another context
  ttt-train size=125m trainer=gpu              the paper's smallest model on a GPU
  ttt-train -m model=ttt_linear,ttt_mlp ctx=512,2k    every combination, one after another
  ttt-train trainer.max_steps=10               stop early; ckpt=last resumes later
  ttt-train recipe=finetune from=runs/NAME ctx=8k     another run's model, 20% more tokens at another context
  ttt-train --cfg job                          show the whole configuration and stop

Groups and their options (the defaults: {defaults}):

{groups}

Keys besides those of the groups:

  seed=0              seed of the initial weights and of the order of the data
  run_dir=FOLDER      this run's folder (default: named after the configuration, in runs_dir)
  runs_dir=runs       folder of runs
  ckpt=last           resume from the newest checkpoint, or start if there is none
  overwrite=true      delete an earlier run in the folder and start over
  from=FOLDER         start from the weights of another run; model, size, backbone, data and ctx default to its values,
                      and the model must be the same (model.rope_base may change)
"""

DEFAULTS = "model=ttt_linear size=s1 ctx=512 backbone: the paper's for each model"


def main() -> None:
    """Entry point of ``ttt-train``."""
    print_help_if_asked(lambda: HELP.format(defaults=DEFAULTS, groups=describe_groups()))
    run_with_config("train", TrainConfig, _train, recompose=like_its_parent)


def _train(config: TrainConfig, overrides: list[str]) -> None:
    train(config, overrides, label=label_of(config).to_plain())


if __name__ == "__main__":
    main()
