"""A trained run at another context, or on another text, than it was trained."""

from dataclasses import replace
from functools import partial

from ttt.config.plan import check_data
from ttt.config.schema import ContextConfig, DataConfig
from ttt.data.corpus import load_corpus
from ttt.evaluate.run import TrainedRun


def at_other_context(run: TrainedRun, ctx: ContextConfig) -> TrainedRun:
    """Return the run, to be evaluated in windows of another number of tokens."""
    if ctx.length == run.reading.ctx:
        return run
    return replace(run, reading=replace(run.reading, ctx=ctx.length), elsewhere=True)


def on_other_text(run: TrainedRun, data: DataConfig, whole: bool, eval_tokens: int | None) -> TrainedRun:
    """Return the run, to be evaluated on the text of ``data``, which is prepared with the run's tokenizer.

    Args:
        run: the run.
        data: the text.
        whole: do not split the text, and read all of it as split ``all``.
        eval_tokens: maximum number of tokens to read for each measure; None: ``data.eval_tokens``.

    Raises:
        UserError: the run's tokenizer is missing or damaged, or values of ``data`` contradict each other.
    """
    config = replace(data, tokenizer=str(run.tokenizer()))
    if whole:
        config = replace(config, validation_fraction=0.0, test_fraction=0.0)
    check_data(config)
    config.check_context(run.reading.ctx)
    reading = replace(run.reading, eval_tokens=eval_tokens or data.eval_tokens)
    find = partial(load_corpus, config, reading.show_progress)
    return replace(run, find_corpus=find, reading=reading, elsewhere=True)
