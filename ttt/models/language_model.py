"""The language model around the blocks.

Shapes: B batch, T tokens, S = T + 1 tokens of a window, C model width, V vocabulary.
"""

import torch
from torch import Tensor, nn

from ttt.backbones.modules import RMSNorm
from ttt.kernels import matmul
from ttt.layers.by_kernel import ByKernel
from ttt.layers.flops import count_flops
from ttt.layers.state import State, named, part
from ttt.models.cross_entropy import cross_entropy, head_losses
from ttt.models.likeliest import are_likeliest

ALL_LOGITS = ("primal", "dual")
"""Values of ``kernel.name`` for which the loss is computed from all logits at once."""


class LanguageModel(nn.Module, ByKernel):
    """Embedding, blocks, norm, and an output head tied to the embedding. Token ids [B, T] -> logits [B, T, V].

    A sequence can be read in chunks, down to single tokens, by passing on the state::

        logits, state = model(ids_BT, state={})  # from the start of a sequence
        logits, state = model(more_ids_BT, state=state)

    The state is a flat dictionary of tensors. Its size does not depend on the sequence's length, except for attention.
    Save it with ``torch.save(state, path)`` or ``safetensors.torch.save_file(state, path)``, load it with
    ``torch.load(path, weights_only=True)`` or ``safetensors.torch.load_file(path)``, and move it with
    ``{name: value.to(device) for name, value in state.items()}``.

    Attributes:
        embedding: [V, C], also the head's weight.
        blocks: modules with the contract of a ``SequenceLayer`` (``ttt.layers.state``), [B, T, C] -> [B, T, C].
        norm: the last RMSNorm.
    """

    def __init__(self, vocab_size: int, width: int, blocks: list[nn.Module], init_std: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=init_std)
        self.blocks = nn.ModuleList(blocks)
        self.norm = RMSNorm(width)

    def flops(self, tokens: int) -> int:
        """Return the FLOPs of the matrix products of a forward pass over one sequence of ``tokens`` tokens."""
        head = 2 * tokens * self.embedding.weight.numel()
        return head + sum(count_flops(block, tokens) for block in self.blocks)

    def forward(
        self, ids_BT: Tensor, state: State | None = None, targets_BT: Tensor | None = None
    ) -> Tensor | tuple[Tensor, State]:
        """Return the logits of the next token at every position; given a ``state``, also the state at the end.

        Given ``targets_BT``, return their cross entropy in nats [B, T] instead of logits.
        """
        h_BTC, after = self._run_blocks(ids_BT, state)
        result = self._logits(h_BTC) if targets_BT is None else self._losses(h_BTC, targets_BT)
        return result if state is None else (result, after)

    def read_prompt(self, ids_BT: Tensor) -> tuple[Tensor, State]:
        """Return the logits [B, V] and the state after the last token of a prompt."""
        h_BTC, after = self._run_blocks(ids_BT, {})
        return self._logits(h_BTC[:, -1]), after

    def _run_blocks(self, ids_BT: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Embed the ids and run the blocks: [B, T] -> [B, T, C]."""
        h_BTC = self.embedding(ids_BT)
        after: State = {}
        for number, block in enumerate(self.blocks):
            h_BTC, block_state = block(h_BTC, part(state, f"blocks.{number}"))
            # Unless the caller needs the state, do not hold the keys and values of all blocks in memory.
            if state is not None:
                after |= named(f"blocks.{number}", block_state)
        return h_BTC, after

    def _logits(self, h: Tensor) -> Tensor:
        """Compute logits: [..., C] -> [..., V]."""
        return matmul.linear(self.norm(h), self.embedding.weight, self.kernel.matmul)

    def _losses(self, h_BTC: Tensor, targets_BT: Tensor) -> Tensor:
        """Compute the cross entropy of the tokens ``targets_BT``: [B, T, C] -> [B, T]."""
        if self.kernel.name in ALL_LOGITS:
            return _losses_of_logits(self._logits(h_BTC), targets_BT)
        h_NC, targets_N = self.norm(h_BTC).flatten(0, 1), targets_BT.flatten()
        return head_losses(h_NC, self.embedding.weight, targets_N, self.kernel).view_as(targets_BT)


def token_losses(model: nn.Module, ids_BS: Tensor, inputs_BT: Tensor | None = None) -> Tensor:
    """Return the cross entropy in nats [B, T] of predicting tokens 1..T from the tokens before them, S = T + 1.

    The model reads ``inputs_BT`` instead of these tokens, if they are given.
    """
    losses_BT: Tensor = model(ids_BS[:, :-1] if inputs_BT is None else inputs_BT, targets_BT=ids_BS[:, 1:])
    return losses_BT


def mean_loss(model: nn.Module, ids_BS: Tensor) -> Tensor:
    """Return the mean of ``token_losses``."""
    losses_BT = token_losses(model, ids_BS)
    # The gradient of a sum is one number, expanded, by which ``head_losses`` knows that all tokens have equal weights.
    return losses_BT.sum() / losses_BT.numel()


def token_predictions(model: nn.Module, ids_BS: Tensor, inputs_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the result of ``token_losses``, and whether the most likely token was the right one: bool [B, T]."""
    logits_BTV, targets_BT = model(ids_BS[:, :-1] if inputs_BT is None else inputs_BT), ids_BS[:, 1:]
    return _losses_of_logits(logits_BTV, targets_BT), are_likeliest(logits_BTV, targets_BT)


def _losses_of_logits(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    exact = torch.promote_types(logits_BTV.dtype, torch.float32)
    losses = cross_entropy(logits_BTV.flatten(0, 1).to(exact), targets_BT.flatten())
    return losses.unflatten(0, logits_BTV.shape[:2])
