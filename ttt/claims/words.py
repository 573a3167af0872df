"""Names of methods and of settings in the text of claims."""

import pandas as pd

NAMES = {"ttt_linear": "TTT-Linear", "ttt_mlp": "TTT-MLP", "transformer": "Transformer", "mamba": "Mamba"}
USUAL = {"transformer": "transformer", "mamba": "own"}
"""Layer -> the backbone that its name does not mention."""

LETTERS = {"mamba": " (M)", "transformer": " (T)"}


def named(model: str, backbone: str) -> str:
    """Return the paper's name of a method: ``TTT-Linear (M)``."""
    letter = "" if USUAL.get(model) == backbone else LETTERS.get(backbone, "")
    return f"{NAMES.get(model, model)}{letter}"


def where(rows: pd.DataFrame) -> str:
    """Describe the data, sizes and contexts of rows: ``pycode s1 at 512, 2048; s2 at 512``."""
    cases = rows[["data", "size", "ctx"]].drop_duplicates().sort_values(["data", "size", "ctx"])
    words = []
    for data, of_data in cases.groupby("data"):
        sizes = of_data.groupby("size")["ctx"].agg(lambda contexts: ", ".join(map(str, contexts)))
        words.append(f"{data} " + "; ".join(f"{size} at {contexts}" for size, contexts in sizes.items()))
    return ", ".join(words)
