"""The model card of an exported run, written from its record."""

import json
import shlex
from collections.abc import Sequence
from typing import Any

from ttt.results.checkpoints import averaged
from ttt.results.record import Evaluation, Record

HEAD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- test-time-training
- arxiv:2407.04620
---

# {name}

{what}

## Use

```python
import ttt.hf  # of ttt-suite; or trust_remote_code=True below
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
ids = tokenizer("def main(", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=50)[0]))
```

The code is in the package ttt-suite, a reproduction suite for arXiv 2407.04620, which must be installed. The state of
the layers is the cache of `generate`; sequences of a batch must have one length, without padding.

"""


def model_card(record: Record, step: int, ctx: str, weights: str = "") -> str:
    """Return the README of an exported run, in Markdown with the metadata of the hub.

    Args:
        record: its record.
        step: optimizer steps of the exported weights.
        ctx: name of its context length.
        weights: name of the exported weights if they are not the newest, as results of such weights have it.
    """
    config = record["config"]
    layer, backbone, size = config["model"]["name"], config["backbone"]["name"], config["size"]["name"]
    what = (
        f"A language model with the sequence layer `{layer}` in the backbone `{backbone}`, size {size}, trained at a "
    )
    text = HEAD.format(name=record["name"], what=f"{what}context of {ctx} tokens.")
    training, results = _training(record, step, weights), _results(record, weights)
    sections = {"Training": training, "Results": results, "Reproduce": _reproduce(record)}
    return text + "\n".join(f"## {title}\n\n{body}\n" for title, body in sections.items())


def _training(record: Record, step: int, weights: str) -> str:
    parameters, data = record["parameters"], record["data"]
    rows = [
        ("parameters", f"{parameters['total']:,}, of which {parameters['embedding']:,} in the embedding"),
        ("data", f"{data['name']}, digest `{data['digest'][:16] or 'unknown'}`, {data['vocab_size']:,} token types"),
        (
            "steps",
            f"{step:,} of {record['tokens_per_step']:,} tokens, {step * record['tokens_per_step']:,} tokens in all",
        ),
        ("training FLOPs", f"{_flops(record, step):.3g}"),
        ("device", f"{record['device']['count']} x {record['device']['name']}, {record['device']['precision']}"),
    ]
    if "imported" in record:
        origin = record["imported"]
        where = origin["source"] + (f" at {origin['revision']}" if origin["revision"] else "")
        rows.append(("weights", f"imported from {where} ({origin['layout']}), not trained by the suite"))
    elif (count := averaged(weights)) > 1:
        rows.append(("weights", f"the mean of the last {count} checkpoints up to this step"))
    return _table(("", ""), rows)


def _flops(record: Record, step: int) -> float:
    return record["training_flops"] * step / max(1, record["steps_planned"])


def _results(record: Record, weights: str) -> str:
    """Return the results of these weights; those of others would be taken for theirs."""
    own = {} if weights else record["results"]
    found = [(f"{record['data']['name']}, {split}", result) for split, result in own.items()]
    found += [
        (f"{result.get('data', name)}, {result.get('split', '')}", result)
        for name, result in record.get("evaluations", {}).items()
        if result.get("weights", "") == weights
    ]
    head = ("text", "perplexity", "nats/token", "tokens", "context")
    tables = [_table(head, [_row(*pair) for pair in found])] if found else []
    if scores := _scores(record, weights):
        tables.append(_table(("task", "metric", "score", "standard error", "documents", "examples", "context"), scores))
    return "\n".join(tables) or "It has not been evaluated.\n"


def _scores(record: Record, weights: str) -> list[tuple[str, ...]]:
    """Return a row for each score on a task of lm-evaluation-harness."""
    rows: list[tuple[str, ...]] = []
    for name, scored in record.get("tasks", {}).items():
        if scored.get("weights", "") != weights:
            continue
        for metric, value in scored["scores"].items():
            error = scored["errors"].get(metric)
            shown = "inf" if value is None else f"{value:.4f}", "" if error is None else f"{error:.4f}"
            how = f"{scored['documents']:,}", str(scored["num_fewshot"]), str(scored["ctx"])
            rows.append((name, metric, *shown, *how))
    return rows


def _row(text: str, result: Evaluation) -> tuple[str, ...]:
    perplexity = result["perplexity"]
    ctx = result["judged"]["ctx"] if "judged" in result else ""
    return (
        text,
        "inf" if perplexity is None else f"{perplexity:.2f}",
        f"{result['loss']:.4f}",
        f"{result['tokens']:,}",
        str(ctx),
    )


def _reproduce(record: Record) -> str:
    command = shlex.join(["ttt-train", *record["overrides"]])
    if "imported" in record:
        command = shlex.join(["ttt-import", *record["overrides"]])
    git = record["git"]
    commit = f"commit `{git['commit']}`{' with changes' if git['dirty'] else ''}" if git else "an unknown commit"
    shown: dict[str, Any] = {"run": record["run_id"], "versions": record["versions"]}
    return f"    {command}\n\nwith ttt-suite at {commit}.\n\n```json\n{json.dumps(shown, indent=2)}\n```\n"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
