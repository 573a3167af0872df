#!/usr/bin/env python3
"""Start a SLURM cluster of virtual nodes with accounting on this machine, to try and to test sweeps.

    one_machine.py start FOLDER [--nodes 2] [--port 16900]
    one_machine.py stop FOLDER
    one_machine.py packages

``start`` runs SLURM's daemons as root without systemd, with all of their files in FOLDER, and prints the line to
export. ``stop`` ends jobs and daemons and removes their files. Clusters with different ports can run at the same time.
``packages`` prints the Debian packages that are missing.

The script needs only Python's standard library, so that it runs under sudo. A virtual node has nominally 4
processors and 8 GB. The partition ``urgent`` preempts jobs of ``main``: they get a signal and 20 seconds,
and are requeued.
"""

import argparse
import sys
from pathlib import Path

# Python's isolated mode does not look for modules beside the script.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from virtual_cluster.cluster import Cluster, ClusterError, missing_packages


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start", help="start a cluster, and print the line to export")
    start.add_argument("folder", type=Path, help="folder for its files; any user must be able to reach it")
    start.add_argument("--nodes", type=int, default=2, choices=range(1, 7), metavar="1..6", help="virtual nodes (2)")
    start.add_argument("--port", type=int, default=16900, metavar="N", help="takes the ports N to N + 9 (16900)")
    stop = commands.add_parser("stop", help="end its jobs and daemons, and remove its files")
    stop.add_argument("folder", type=Path)

    commands.add_parser("packages", help="print the Debian packages that are missing")
    return parser.parse_args()


def main() -> None:
    """Run the command."""
    options = arguments()
    try:
        if options.command == "start":
            cluster = Cluster(options.folder.resolve(), options.nodes, options.port)
            cluster.start()
            print(f"export SLURM_CONF={cluster.conf}")
        elif options.command == "stop":
            stop(options.folder.resolve())
        else:
            print(*missing_packages())
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def stop(folder: Path) -> None:
    """Stop the cluster in ``folder`` and remove its files.

    Raises:
        ClusterError: no cluster has been started there.
    """
    cluster = Cluster(folder)
    if not cluster.conf.exists():
        raise ClusterError(f"{folder}: no cluster has been started there")
    cluster.stop()
    cluster.remove()


if __name__ == "__main__":
    main()
