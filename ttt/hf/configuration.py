"""The configuration of an exported run for transformers."""

from typing import Any

from transformers import PretrainedConfig

from ttt.config.schema import Resolved

MODEL_TYPE = "ttt_suite"
"""Name of the suite's models in ``config.json``."""


class TTTSuiteConfig(PretrainedConfig):
    """``config.json`` of a folder that ``ttt-export run=RUN hf=FOLDER`` has written.

    Attributes:
        suite: the groups model, size, backbone and kernel of the run's configuration.
        vocab_size: rows of the embedding.
    """

    model_type = MODEL_TYPE

    def __init__(self, suite: Resolved | None = None, vocab_size: int = 0, **others: Any) -> None:
        self.suite, self.vocab_size = suite or {}, vocab_size
        super().__init__(**others)
