"""``ttt-data``: prepare the data of a run, show its content, and pack it into one file."""

import sys
import time
from pathlib import Path
from typing import Any

from ttt.cli.command import Command, subcommand
from ttt.config.keys import check_keys
from ttt.config.plan import check_data
from ttt.config.preparing import InspectConfig, PackConfig, PrepareConfig
from ttt.config.system import user_path
from ttt.data.local import check_paths

HELP = """\
ttt-data prepares data ahead of ttt-train, which otherwise does it itself, shows
its content, and packs it into one file.

usage: ttt-data prepare data=NAME [KEY=VALUE ...]
       ttt-data inspect data=NAME [KEY=VALUE ...]
       ttt-data pack data=NAME [KEY=VALUE ...]

  prepare   tokenise a source once, into shards in a cache
  inspect   sizes, lengths, a sample, a picture
  pack      write prepared data into one file, to carry to another machine

  ttt-data prepare data=pycode
  ttt-data prepare data=local data.path=texts data.workers=4
  ttt-data prepare data=local data.path='logs/*.jsonl.gz' data.column=message
  ttt-data prepare data=pile data.tokenizer=tokenizer.model
                                       Llama-2's tokenizer, which is not shipped
  ttt-data prepare data=books data.path=/mirror/pg19
                                       a copy of the data set, no network
  ttt-data prepare data=tokens data.path=FOLDER data.tokenizer=tokenizer.model
                                       the authors' train.npy or train.bin
  ttt-data prepare data=pile data.max_tokens=1000000000
                                       a part of a large source
  ttt-data prepare data=pile data.hub=OWNER/NAME data.subset=en data.split=train
                                       another data set of the hub
  ttt-data inspect data=pycode split=validation document=3
  ttt-data pack data=pyrepo_4k file=pyrepo.zip
  ttt-data prepare data=pyrepo_4k data.packed=pyrepo.zip
                                       there: the file in place of the source

A preparation that was stopped resumes with the same command. docs/data.md
explains the keys.
`ttt-data inspect --help` lists groups and keys.
"""


def prepare(config: PrepareConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Prepare data if necessary, and compare all its files with its manifest.

    Raises:
        UserError: a source, tokenizer or cache that cannot be used, or damaged data.
        RunError: the preparation was interrupted.
    """
    check_keys(config)
    check_data(config.data)
    check_paths(config.data)
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
    """Print the content of prepared data and draw the lengths of its documents.

    Raises:
        UserError: as ``prepare``; no such document, or a picture that cannot be written.
        RunError: as ``prepare``.
    """
    check_keys(config)
    check_data(config.data)
    check_paths(config.data)
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


def pack(config: PackConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Prepare data if necessary, compare it with its manifest, and write it into one file.

    Raises:
        UserError: as ``prepare``, or the file cannot be written.
        RunError: as ``prepare``.
    """
    check_keys(config)
    check_data(config.data)
    check_paths(config.data)
    from ttt.data.corpus import load_corpus, verify
    from ttt.data.packed import pack as write

    corpus = load_corpus(config.data, config.progress)
    verify(corpus)
    file = user_path(config.file or f"{config.data.name}-{corpus.digest[:12]}.zip")
    write(corpus.folder, file, config.progress)
    print(f"digest {corpus.digest}, {file.stat().st_size / 1e6:,.1f} MB")
    print(f"there: data.packed={file.name} beside the other words of data")
    print(file)


COMMANDS: dict[str, Command[Any]] = {
    "prepare": Command("prepare", PrepareConfig, prepare, "usage: ttt-data prepare data=NAME [KEY=VALUE ...]"),
    "inspect": Command("inspect", InspectConfig, inspect, "usage: ttt-data inspect data=NAME [KEY=VALUE ...]"),
    "pack": Command("pack", PackConfig, pack, "usage: ttt-data pack data=NAME [KEY=VALUE ...]"),
}


def main() -> None:
    """Run ``ttt-data``."""
    subcommand(COMMANDS, HELP, "command", sys.argv[1:])


if __name__ == "__main__":
    main()
