"""Keys of ``ttt-data``."""

from dataclasses import dataclass

from ttt.config.keys import key
from ttt.config.schema import SPLITS, DataConfig


@dataclass
class PrepareConfig:
    """A run of ``ttt-data prepare``."""

    data: DataConfig = key(DataConfig, "corpus")
    progress: bool = key(True, "show progress")


@dataclass
class InspectConfig(PrepareConfig):
    """A run of ``ttt-data inspect``."""

    verify: bool = key(False, "read every file and compare its SHA-256 with the manifest")
    split: str = key("train", "split of the sample", choices=SPLITS)
    document: int = key(0, "document of the sample, counted from 0", at_least=0)
    sample: int = key(200, "tokens of the sample, from the start of the document", at_least=0)
    picture: str | None = key(None, "file of the histogram of lengths; null: figures/data_NAME.png", free_text=True)


@dataclass
class PackConfig(PrepareConfig):
    """A run of ``ttt-data pack``."""

    file: str | None = key(None, "file to write; null: NAME-DIGEST.zip in this folder", free_text=True)
