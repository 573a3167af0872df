"""``ttt-train``: train a language model, evaluate it and write its record."""

import sys

from ttt.cli.command import Command
from ttt.cli.cost import print_cost
from ttt.cli.going_on import going_on
from ttt.cli.heads import check_width_and_heads
from ttt.cli.label import label_of
from ttt.cli.match import with_matched_size
from ttt.cli.parent import like_its_parent
from ttt.config.schema import TrainConfig
from ttt.train.start import train

HELP = """\
ttt-train trains a language model, evaluates it and writes a run folder, which
ttt-plot draws.

usage: ttt-train [GROUP=OPTION ...] [KEY=VALUE ...]

  ttt-train                                 TTT-Linear, size w64, context 512
  ttt-train model=ttt_mlp ctx=32k           another layer, another context
  ttt-train size=125m trainer=gpu           the paper's smallest model on a GPU
  ttt-train -m model=ttt_linear,ttt_mlp ctx=512,2k
                                            every combination, in turn
  ttt-train trainer.max_steps=10            stop early
  ttt-train run=runs/NAME                   go on with a run, to its planned end
  ttt-train recipe=finetune from=runs/NAME ctx=8k
                                            another run's model, 20% more tokens
                                            at another context
  ttt-train size=125m plan=true             print what the run costs, and stop
  ttt-train model=ttt_mlp size.match=mamba  as many parameters as Mamba has
  ttt-train --cfg job                       print the configuration, and stop
  ttt-train model=mamba --help              keys and values of another model
"""


def _train(config: TrainConfig, overrides: list[str]) -> None:
    check_width_and_heads(config, overrides)
    config, overrides = going_on(config, overrides)
    config = with_matched_size(config)
    if config.plan:
        print_cost(config, overrides)
        return
    train(config, overrides, label=lambda: label_of(config).to_plain())


COMMAND = Command(
    "train",
    TrainConfig,
    _train,
    HELP,
    more_groups=("+ablation",),
    aliases={"from": "parent.run"},
    dry="plan",
    recompose=like_its_parent,
)


def main() -> None:
    """Run ``ttt-train``."""
    COMMAND.main(sys.argv[1:])


if __name__ == "__main__":
    main()
