"""The language model around the blocks.

Shapes: B batch, T tokens, C model width, V vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ttt.backbones.modules import rms_norm
from ttt.layers.flops import count_flops


class LanguageModel(nn.Module):
    """Embedding, blocks, norm, and an output head tied to the embedding. Token ids [B, T] -> logits [B, T, V].

    Attributes:
        embedding: [V, C], also the head's weight.
        blocks: modules from [B, T, C] to [B, T, C].
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

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits of the next token at every position."""
        h_BTC = self.embedding(input_ids)
        for block in self.blocks:
            h_BTC = block(h_BTC)
        return F.linear(self.norm(h_BTC), self.embedding.weight)


def token_losses(model: nn.Module, windows: Tensor) -> Tensor:
    """Cross entropy in nats [B, T] of predicting tokens 1..T of ``windows`` [B, T + 1] from those before them."""
    logits_BTV = model(windows[:, :-1])
    return F.cross_entropy(logits_BTV.flatten(0, 1).float(), windows[:, 1:].flatten(), reduction="none").view(
        windows.shape[0], -1
    )
