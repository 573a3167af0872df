"""Models on the Hugging Face hub: fetched, without files that hold pickled objects, and published."""

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


def push_model(folder: Path, name: str) -> str:
    """Upload the files of a folder to the model OWNER/NAME of the hub; return its address.

    A model that does not exist yet is created as a private one, which its owner can publish there.

    Raises:
        UserError: the hub cannot be reached, or the user may not write there.
    """
    from huggingface_hub import HfApi

    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    api = HfApi()
    try:
        address = str(api.create_repo(name, private=True, exist_ok=True))
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload by ttt-export")
    except Exception as error:  # as above
        why = f"{type(error).__name__}: {first_line(error)}"
        raise bad_value("push", name, f"cannot be written ({why}); the files are in {folder}") from error
    return address
