"""Checks that a run and the text at hand belong together."""

from ttt.config.errors import UserError, bad_value
from ttt.results.record import Data, Record, RunFolder


def require_data(folder: RunFolder, record: Record, digest: str) -> None:
    """Check that the data has not changed since the run was trained, such as with the version of a package.

    Raises:
        UserError: the data has another digest.
    """
    trained_on = record["data"]["digest"]
    if digest != trained_on:
        raise UserError(
            f"{folder.path}: was trained on data with digest {trained_on[:12]}, here it is {digest[:12]}; "
            f"install the versions in its record, or train again"
        )


def require_tokenizer(run: str, parent: Data, sha256: str, vocab_size: int) -> None:
    """Check that a run to start from (``from=run``) has the tokenizer of a corpus; its text may be another.

    Args:
        run: its folder.
        parent: the data that it was trained on.
        sha256: of the corpus's tokenizer.
        vocab_size: of the corpus.

    Raises:
        UserError: it was trained with another tokenizer.
    """
    trained = parent.get("tokenizer_sha256")
    if sha256 != trained:
        sizes = f"data.vocab_size={vocab_size}, not {parent['vocab_size']}"
        digests = f"tokenizer {sha256[:12]}, not {trained[:12] if trained else 'known'}"
        raise bad_value("from", run, f"was trained with another tokenizer ({sizes}; {digests})")
