"""The language model around the blocks.

Shapes: B batch, T tokens, C model width, V vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ttt.backbones.modules import rms_norm
from ttt.layers.flops import count_flops
from ttt.layers.state import State, named, part
from ttt.models.cross_entropy import cross_entropy


class LanguageModel(nn.Module):
    """Embedding, blocks, norm, and an output head tied to the embedding. Token ids [B, T] -> logits [B, T, V].

    A sequence can be read in pieces, down to single tokens; what has been read is the state::

        logits, state = model(input_ids, state={})  # from the start of a sequence
        logits, state = model(more_ids, state=state)

    It is a flat dictionary of tensors, and for all layers but attention of one size however long the sequence: save it
    with ``torch.save(state, path)`` or ``safetensors.torch.save_file(state, path)``, load it with
    ``torch.load(path, weights_only=True)`` or ``safetensors.torch.load_file(path)``, and move it with
    ``{name: value.to(device) for name, value in state.items()}``.

    Attributes:
        embedding: [V, C], also the head's weight.
        blocks: sequence modules as ``ttt.layers.state`` has them, [B, T, C] -> [B, T, C].
        norm: the last RMSNorm.
    """

    def __init__(self, vocab_size: int, width: int, blocks: list[nn.Module], init_std: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=init_std)
        self.blocks = nn.ModuleList(blocks)
        self.norm = rms_norm(width)

    def flops(self, tokens: int) -> int:
        """FLOPs of the matrix products of a forward pass over one sequence of ``tokens`` tokens."""
        head = 2 * tokens * self.embedding.weight.numel()
        return head + sum(count_flops(block, tokens) for block in self.blocks)

    def forward(self, input_ids: Tensor, state: State | None = None) -> Tensor | tuple[Tensor, State]:
        """Logits of the next token at every position; with a ``state`` also the state after the last of them."""
        h_BTC, after = self._blocks_read(input_ids, state)
        logits_BTV = self._logits(h_BTC)
        return logits_BTV if state is None else (logits_BTV, after)

    def read_prompt(self, input_ids: Tensor) -> tuple[Tensor, State]:
        """Logits [B, V] of the token after the last alone, which is all that a prompt needs, and the state there."""
        h_BTC, after = self._blocks_read(input_ids, {})
        return self._logits(h_BTC[:, -1]), after

    def _blocks_read(self, input_ids: Tensor, state: State | None) -> tuple[Tensor, State]:
        """[B, T] -> [B, T, C]."""
        h_BTC = self.embedding(input_ids)
        after: State = {}
        for number, block in enumerate(self.blocks):
            h_BTC, block_state = block(h_BTC, part(state, f"blocks.{number}"))
            # Without anybody to go on from them, attention's keys and values of all blocks must not pile up.
            if state is not None:
                after |= named(f"blocks.{number}", block_state)
        return h_BTC, after

    def _logits(self, h: Tensor) -> Tensor:
        """[..., C] -> [..., V]."""
        return F.linear(self.norm(h), self.embedding.weight)


def token_losses(model: nn.Module, windows: Tensor) -> Tensor:
    """Cross entropy in nats [B, T] of predicting tokens 1..T of ``windows`` [B, T + 1] from those before them."""
    logits_BTV = model(windows[:, :-1])
    losses = cross_entropy(logits_BTV.flatten(0, 1).float(), windows[:, 1:].flatten())
    return losses.unflatten(0, logits_BTV.shape[:2])
