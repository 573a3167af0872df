"""How often the runs of a sweep read their training text, where that is more than once."""

from collections.abc import Iterator

from ttt.cli.sweep.tables import quantity
from ttt.config.schema import DataConfig
from ttt.launch.plan import Plan


def repeated_reading(plan: Plan) -> Iterator[str]:
    """Yield one line for each text that some run reads more than once; none for a text of unknown length."""
    from ttt.data.cache import training_tokens

    of_text: dict[str, tuple[DataConfig, dict[int, set[str]]]] = {}
    for run in plan.runs:
        config = plan.configs[run.run_id]
        _, sizes_of = of_text.setdefault(repr(config.data), (config.data, {}))
        sizes_of.setdefault(run.steps * run.tokens_per_step, set()).add(config.size.name)
    for data, sizes_of in of_text.values():
        text = training_tokens(data)
        longer = [tokens for tokens in sorted(sizes_of) if text and tokens > text[0]]
        if not text or not longer:
            continue
        found = [
            f"{', '.join(sorted(sizes_of[tokens]))} {tokens / text[0]:.2g} times ({quantity(tokens)})"
            for tokens in longer
        ]
        size = f"{quantity(text[0])} training tokens"
        size = size if text[1] else f"about {size} (data.tokens_estimate, not counted)"
        yield f"data={data.name} has {size}. Runs read it more than once: {'; '.join(found)}."
