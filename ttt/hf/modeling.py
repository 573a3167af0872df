"""A run's model as a causal language model of transformers, with the layers' state as the cache of ``generate``.

Shapes: B batch, T tokens, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel
from transformers.utils import ModelOutput

from ttt.config.plain import build_group
from ttt.config.schema import BackboneConfig, KernelConfig, SizeConfig
from ttt.hf.configuration import TTTSuiteConfig
from ttt.layers.registry import layer_schema
from ttt.layers.state import State, rows_of
from ttt.models.build import build_model

IGNORED = -100
"""Label of a token that does not count, as in transformers."""


class StreamingState:
    """The state of all layers after some tokens; its size does not depend on their number, except for attention."""

    def __init__(self, tensors: State) -> None:
        self.tensors = tensors

    def reorder_cache(self, rows_B: Tensor) -> None:
        """Choose sequences of the batch, as beam search does."""
        self.tensors = rows_of(self.tensors, rows_B)


@dataclass
class TTTSuiteOutput(ModelOutput):
    """Logits [B, T, V], the mean loss in nats per token given labels, and the state after the last token."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache_params: StreamingState | None = None


class TTTSuiteForCausalLM(PreTrainedModel, GenerationMixin):
    """The model of an exported run; ``model`` is the suite's own ``LanguageModel``."""

    config_class = TTTSuiteConfig
    base_model_prefix = "model"
    _is_stateful = True

    def __init__(self, config: TTTSuiteConfig) -> None:
        super().__init__(config)
        suite = config.suite
        self.model = build_model(
            build_group(layer_schema(suite["model"]["name"]), suite["model"]),
            build_group(SizeConfig, suite["size"]),
            build_group(BackboneConfig, suite["backbone"]),
            build_group(KernelConfig, suite["kernel"]),
            config.vocab_size,
        )
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        cache_params: StreamingState | None = None,
        use_cache: bool = False,
        return_dict: bool | None = None,  # noqa: ARG002 - as every model of transformers
        num_items_in_batch: Tensor | int | None = None,
        **_: Any,
    ) -> TTTSuiteOutput:
        """Return the logits of the next tokens; with ``use_cache`` also the state after the last one.

        Args:
            input_ids: [B, T]; after ``cache_params``, only the tokens since then.
            attention_mask: [B, T], zeros only behind the tokens of a sequence, and with ``use_cache`` none.
            labels: [B, T], the same ids; -100 for tokens whose prediction does not count.
            cache_params: the state before these tokens; None: the start of a sequence.
            use_cache: return the state.
            return_dict: without effect, the output is always an object.
            num_items_in_batch: the number of labels over which the loss is a mean; None: those here.

        Raises:
            ValueError: padding before the tokens of a sequence, or with ``use_cache`` anywhere: a recurrent state would
                count it as text.
        """
        self._check_padding(attention_mask, use_cache or cache_params is not None)
        before = {} if cache_params is None else cache_params.tensors
        logits_BTV, after = self.model(input_ids, before)
        loss = None
        if labels is not None:
            targets = labels[:, 1:].flatten().to(logits_BTV.device)
            losses = F.cross_entropy(
                logits_BTV[:, :-1].flatten(0, 1).float(), targets, ignore_index=IGNORED, reduction="sum"
            )
            loss = losses / (num_items_in_batch or (targets != IGNORED).sum().clamp(min=1))
        return TTTSuiteOutput(loss, logits_BTV, StreamingState(after) if use_cache else None)

    def get_input_embeddings(self) -> torch.nn.Module:
        """Return the embedding [V, C], which is the output head's weight too."""
        return self.model.embedding

    def _check_padding(self, mask_BT: Tensor | None, streaming: bool) -> None:
        if mask_BT is None:
            return
        ahead = bool((mask_BT.diff(dim=1) > 0).any())
        if ahead or (streaming and not bool(mask_BT.all())):
            where = "before its tokens" if ahead else "in a batch whose state is kept"
            raise ValueError(
                f"attention_mask: a sequence has padding {where}, which a recurrent state would count as text; "
                "generate for sequences of one length, or one by one"
            )

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Leave the initial weights of the layers as they are."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # The state that ``forward`` returns takes the place of keys and values.
        return False
