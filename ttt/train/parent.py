"""Starting from the weights of another run."""

import hashlib

from ttt.config.errors import bad_value
from ttt.config.schema import TrainConfig
from ttt.data.corpus import Corpus
from ttt.models.language_model import LanguageModel
from ttt.models.weights import load_weights
from ttt.results.parent import find_parent


def load_parent(config: TrainConfig, corpus: Corpus, model: LanguageModel) -> None:
    """Copies the weights of the parent that ``config`` names into ``model``; the text may be another's.

    Raises:
        UserError: the parent was trained on other tokens, or has gone on since ``config`` took note of its weights.
    """
    assert config.parent.run is not None
    record, checkpoint = find_parent(config.parent.run)
    ours, theirs = corpus.manifest["tokenizer_sha256"], record["data"].get("tokenizer_sha256")
    if ours != theirs:
        sizes = f"data.vocab_size={corpus.vocab_size}, not {record['data']['vocab_size']}"
        digests = f"tokenizer {ours[:12]}, not {theirs[:12] if theirs else 'known'}"
        raise bad_value("from", config.parent.run, f"was trained with another tokenizer ({sizes}; {digests})")
    if checkpoint.sha256 != config.parent.weights:
        raise bad_value("from", config.parent.run, "has just got another checkpoint; start again when it has ended")
    load_weights(model, checkpoint.path)


def order_seed(config: TrainConfig) -> int:
    """What decides the order of the data. A run that goes on from another must not begin as that one began."""
    parent = config.parent
    if parent.run_id is None:
        return config.seed
    text = f"{config.seed} {parent.run_id} {parent.steps} {parent.settings}"
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
