"""Models on the Hugging Face hub: their files, without those that hold pickled objects."""

import logging
from pathlib import Path

from ttt.config.errors import bad_value, first_line

READ = ("config.json", "tokenizer.json", "tokenizer.model", "*.safetensors", "*.bin", "streaming_*", "*.msgpack")
"""Files that are fetched; the authors' ``metadata.pkl`` and other pickles are not."""


def fetch_model(name: str, revision: str | None) -> tuple[Path, str]:
    """Return a folder with the files of a model on the hub, and its commit.

    Args:
        name: OWNER/NAME.
        revision: a commit, branch or tag; None: the newest.

    Raises:
        UserError: the hub cannot be reached, or has no such model.
    """
    from huggingface_hub import snapshot_download

    # The client logs every attempt to standard error, where the user should see one line.
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(READ)))
    except Exception as error:  # the clients of the hub also raise exceptions of the libraries that they use
        why = f"{type(error).__name__}: {first_line(error)}"
        allowed = f"is no file or folder here, and cannot be read from the hub ({why}); give a folder with its files"
        raise bad_value("from", name, allowed) from error
    return folder, folder.name
