"""Texts of random words."""

import random
from pathlib import Path


def write_texts(folder: Path, seed: int, documents: int = 30, words: int = 60) -> None:
    """Write documents of random words of three letters."""
    letters = random.Random(seed)
    folder.mkdir(parents=True)
    for number in range(documents):
        text = " ".join("".join(letters.choices("abcdefgh", k=3)) for _ in range(words))
        (folder / f"{number}.txt").write_text(text)
