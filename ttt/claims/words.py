"""How the claims name what was tested, and where."""

import pandas as pd

NAMES = {"ttt_linear": "TTT-Linear", "ttt_mlp": "TTT-MLP", "transformer": "Transformer", "mamba": "Mamba"}
USUAL = {"transformer": "transformer", "mamba": "own"}
"""Layer -> the backbone that needs no naming."""

LETTERS = {"mamba": " (M)", "transformer": " (T)"}


def named(model: str, backbone: str) -> str:
    """The paper's name of a method: ``TTT-Linear (M)``."""
    letter = "" if USUAL.get(model) == backbone else LETTERS.get(backbone, "")
    return f"{NAMES.get(model, model)}{letter}"


def where(rows: pd.DataFrame) -> str:
    """Data, sizes and contexts of rows with these columns: ``pycode s1 at 512, 2048; s2 at 512``."""
    cases = rows[["data", "size", "ctx"]].drop_duplicates().sort_values(["data", "size", "ctx"])
    words = []
    for data, of_data in cases.groupby("data"):
        sizes = of_data.groupby("size")["ctx"].agg(lambda contexts: ", ".join(map(str, contexts)))
        words.append(f"{data} " + "; ".join(f"{size} at {contexts}" for size, contexts in sizes.items()))
    return ", ".join(words)
