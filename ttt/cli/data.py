"""``ttt-data``: prepares the data of a run, and shows what it holds."""

import sys
import time
from pathlib import Path

from ttt.cli.compose import run_with_config
from ttt.cli.errors import stop
from ttt.cli.help import describe_group, print_help_if_asked
from ttt.config.errors import bad_value
from ttt.config.schema import InspectConfig, PrepareConfig

HELP = """\
ttt-data prepares data, which ttt-train does too when it finds none, and shows what there is.

usage: ttt-data prepare data=NAME [KEY=VALUE ...]    tokenise a source once, into shards in a cache
       ttt-data inspect data=NAME [KEY=VALUE ...]    sizes, lengths, a sample, a picture

  ttt-data prepare data=pycode
  ttt-data prepare data=local data.path=texts data.workers=4
  ttt-data prepare data=local data.path='logs/*.jsonl.gz' data.column=message
  ttt-data prepare data=pile data.tokenizer=tokenizer.model    Llama-2's, which is not shipped
  ttt-data prepare data=books data.path=/mirror/pg19           a copy of the data set, no network
  ttt-data inspect data=pycode split=validation document=3

A preparation that was killed goes on with the same command. Where a key is left out the option's own is taken:

{group}

Keys of the data:

  data.path=PATH            folder, file or pattern: texts of your own, or a copy of the data set
  data.column=text          where jsonl, json and parquet have the text
  data.tokenizer=FILE       tokenizer.json or tokenizer.model; null: a BPE of data.vocab_size tokens is trained
  data.vocab_size=4096      its size
  data.min_chars=1          shorter documents are left out, and longer ones than data.max_chars
  data.validation_fraction=0.05   share of documents, by a hash of their text; data.test_fraction likewise
  data.workers=1            processes; 0: one for each core. The result is the same
  data.cache_dir=FOLDER     where prepared data goes (null: the user's cache)

Keys of both commands: progress=true. Keys of inspect:

  verify=false              true: read every file and compare its SHA-256 with the manifest
  split=train document=0 sample=200    what to show as text: so many tokens from a document's start
  picture=FILE              the histogram of lengths (null: figures/data_NAME.png)
"""


def main() -> None:
    """Entry point of ``ttt-data``."""
    kind = sys.argv.pop(1) if len(sys.argv) > 1 else "--help"
    if kind in ("-h", "--help"):
        print(HELP.format(group=describe_group("data")))
        return
    print_help_if_asked(lambda: HELP.format(group=describe_group("data")))
    if kind == "prepare":
        run_with_config("prepare", PrepareConfig, prepare)
    elif kind == "inspect":
        run_with_config("inspect", InspectConfig, inspect)
    else:
        stop(f"{kind}: no such command; choose one of prepare, inspect", 2)


def prepare(config: PrepareConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Prepares data, or finds it prepared, and compares all its files with its manifest.

    Raises:
        UserError: the source, the tokenizer or the cache cannot be, or the prepared data is damaged.
        RunError: the preparation was interrupted from outside.
    """
    from ttt.data.corpus import load_corpus, verify
    from ttt.data.inspect import describe_corpus

    start = time.perf_counter()
    corpus = load_corpus(config.data, config.progress)
    verify(corpus)
    seconds = time.perf_counter() - start
    print(describe_corpus(corpus))
    size = sum(split["bytes"] for split in corpus.manifest["splits"].values())
    print(f"{size / 1e6:,.1f} MB of text in {seconds:.1f} s: {size / 1e6 / seconds:.1f} MB/s", file=sys.stderr)


def inspect(config: InspectConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Prints what prepared data holds, and draws the lengths of its documents.

    Raises:
        UserError: as ``prepare``; there is no such document, or the picture cannot be written.
        RunError: as ``prepare``.
    """
    if config.sample < 0:
        raise bad_value("sample", config.sample, "must be at least 0")
    from ttt.data.corpus import load_corpus, verify
    from ttt.data.inspect import describe_corpus, sample_text
    from ttt.plots.document_lengths import save_lengths

    corpus = load_corpus(config.data, config.progress)
    if config.verify:
        verify(corpus)
    text = sample_text(corpus, config.split, config.document, config.sample)
    path = Path(config.picture or f"figures/data_{config.data.name}.png")
    save_lengths(config.data.name, {split: documents.lengths for split, documents in corpus.splits.items()}, path)
    print(describe_corpus(corpus))
    print(f"\n{config.split} document {config.document}, its first {config.sample} tokens:\n\n{text}\n\n{path}")


if __name__ == "__main__":
    main()
