"""How the claims name where they were tested."""

import pandas as pd


def where(rows: pd.DataFrame) -> str:
    """Data, sizes and contexts of rows with these columns: ``pycode s1 at 512, 2048; s2 at 512``."""
    cases = rows[["data", "size", "ctx"]].drop_duplicates().sort_values(["data", "size", "ctx"])
    words = []
    for data, of_data in cases.groupby("data"):
        sizes = of_data.groupby("size")["ctx"].agg(lambda contexts: ", ".join(map(str, contexts)))
        words.append(f"{data} " + "; ".join(f"{size} at {contexts}" for size, contexts in sizes.items()))
    return ", ".join(words)
