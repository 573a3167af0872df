"""Activation checkpointing: blocks are computed again in the backward pass, and only their inputs are kept."""

from functools import partial

from torch.utils.checkpoint import checkpoint

from ttt.models.language_model import LanguageModel


def checkpoint_blocks(model: LanguageModel) -> None:
    """Keep only the input of each block for the backward pass, from now on; results and gradients stay the same.

    Each block's own ``forward`` is replaced, so that names of parameters and checkpoints stay as they are, and FSDP,
    which wraps blocks, gathers the weights of a block once for its recomputation and its gradients.
    """
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
