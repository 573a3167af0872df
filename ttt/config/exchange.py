"""Keys of ``ttt-export`` and ``ttt-import``."""

from dataclasses import dataclass

from ttt.config.keys import REQUIRED, key
from ttt.config.schema import ContextConfig, DataConfig, KernelConfig


@dataclass
class ExportConfig:
    """A run of ``ttt-export``."""

    run: str = key(REQUIRED, "folder of a trained run", free_text=True)
    out: str | None = key(None, "folder to write, new or empty", free_text=True)
    hf: str | None = key(
        None,
        "instead of out: folder to write, new or empty, as a model of transformers with a model card",
        free_text=True,
    )
    push: str | None = key(
        None,
        "with hf: OWNER/NAME on the Hugging Face hub to upload the folder to; a new one is private",
        free_text=True,
    )
    released: bool = key(
        False,
        "parameter names of the authors' released code, and released.json with its settings (TTT-Linear, TTT-MLP)",
    )
    step: int | None = key(
        None,
        "weights after this many steps, of a checkpoint that trainer.keep_every kept; null: the newest",
        at_least=0,
    )
    average: int = key(1, "mean of the weights of this many checkpoints, up to step", at_least=1)
    kernel: KernelConfig | None = key(
        None, "kernel in the exported config.yaml; null: the run's, with auto in place of cpu and triton"
    )
    overwrite: bool = key(False, "write into a folder that is not empty; other files in it stay")


@dataclass
class ImportConfig:
    """A run of ``ttt-import``. On the command line ``source`` is called ``from``, which cannot name a field."""

    source: str = key(
        REQUIRED, "folder or file of the weights, or OWNER/NAME of a model on the Hugging Face hub", free_text=True
    )
    out: str = key(REQUIRED, "folder of the new run", free_text=True)
    tokenizer: str | None = key(
        None, "its tokenizer.json or tokenizer.model; null: the one beside the weights", free_text=True
    )
    revision: str | None = key(None, "a commit of the model on the hub; null: its newest", free_text=True)
    ctx: ContextConfig | None = key(
        None, "context that it was trained at and is judged at; null: that of its config.json, or 2048"
    )
    data: DataConfig | None = key(
        None, "text to judge it on, as its own; null: none, so that ttt-eval needs data= and draws no figure"
    )
    eta_base: float | None = key(
        None,
        "base of eta; null: ttt_base_lr of its config.json, or that of the authors' scripts (1.0; TTT-MLP 0.1)",
        above=0,
    )
    rope_base: float | None = key(None, "base of RoPE; null: rope_theta of its config.json, or 10000", above=0)
    steps: int | None = key(
        None,
        "optimizer steps that it was trained for; null: as the checkpoint says, or the recipe of a size of the paper, "
        "or 0: unknown",
        at_least=0,
    )
