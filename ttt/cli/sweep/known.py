"""``known=FOLDER``: the finished runs of a sweep that lie in another folder count as made."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ttt.cli.sweep.request import Request
from ttt.config.errors import bad_value, counted
from ttt.config.system import user_path
from ttt.launch.known import check_same_data, read_known_runs, remembered, shown, trained_again, with_known
from ttt.launch.plan import Plan, SweepFolder
from ttt.launch.status import RunStatus, sweep_status

FORGET = "null"
"""The value of ``known=`` for no folder."""


def known_folder(request: Request, folder: SweepFolder) -> Path | None:
    """Return the folder of ``known=`` as an absolute path; without the key, the one that ``submit`` has remembered.

    Raises:
        UserError: the sweep's file with the remembered folder is broken.
    """
    value = request.options.get("known")
    if value is None:
        return remembered(folder)
    return None if value == FORGET else user_path(value).absolute()


def known_status(request: Request, folder: SweepFolder) -> list[RunStatus]:
    """Return the status of every run of the sweep; known runs count as finished.

    Raises:
        UserError: as ``sweep_status`` and ``count_known`` raise it.
    """
    return count_known(known_folder(request, folder), sweep_status(folder))


def count_known(known: Path | None, statuses: list[RunStatus]) -> list[RunStatus]:
    """Return the statuses; runs that lie finished in the folder ``known`` count as finished.

    Raises:
        UserError: the folder has no runs, or its runs were made on other data than those of the sweep.
    """
    if known is None:
        return statuses
    runs = [status.run for status in statuses]
    records = read_known_runs(known, runs)
    check_same_data(known, records, runs)
    return with_known(statuses, known, records)


def compare_data(known: Path | None, plan: Plan) -> Iterator[str]:
    """Compare the data of known runs with the prepared corpora; yield a line for each that is not prepared.

    Raises:
        UserError: a run was made on other data, or the folder has no runs.
    """
    records = read_known_runs(known, plan.runs) if known else {}
    if known is None or not records:
        return
    # Importing torch takes seconds, and sweeps without known runs do not need it.
    from ttt.data.cache import prepared_digest

    digests = dict[str, str | None]()
    for run_id, record in records.items():
        data, made_on = plan.configs[run_id].data, record["data"].get("digest", "")
        if (text := repr(data)) not in digests:
            digests[text] = prepared_digest(data)
            if digests[text] is None:
                yield f"data={data.name} is not prepared here; known runs were made on digest {made_on[:12]} of it"
        here = digests[text]
        if here is not None and here != made_on:
            reason = f"{run_id} was made on other data (digest {made_on[:12]}, here it is {here[:12]})"
            raise bad_value("known", shown(known), f"{reason}; install the versions in its record, or known=null")


def finished(statuses: Sequence[RunStatus]) -> str:
    """Return the number of finished runs, and of the known ones among them."""
    made = [status for status in statuses if status.state == "finished"]
    known = [status.known.parent for status in made if status.known]
    return f"{len(made)} finished" + (f" ({len(known)} of them in {shown(known[0])})" if known else "")


def trained_for_weights(statuses: Sequence[RunStatus]) -> Iterator[str]:
    """Yield one line if known runs must be trained, because others start from their weights."""
    if again := trained_again(statuses):
        count = counted(len(again), "known run")
        yield f"{count} to train here, because others start from weights that the folder lacks: {', '.join(again)}"
