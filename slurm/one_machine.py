#!/usr/bin/env python3
"""Starts a SLURM cluster of virtual nodes with accounting on this one machine, to try and to test sweeps.

    one_machine.py start FOLDER [--nodes 2] [--port 16900]
    one_machine.py stop FOLDER [--keep]
    one_machine.py packages

``start`` runs SLURM's daemons as root without systemd, keeps all of their files in FOLDER and prints the line to
export. ``stop`` ends jobs and daemons and removes their files. Clusters with different ports can run side by side.
``packages`` prints the Debian packages that are missing.

The script needs only Python's standard library, so that it runs under sudo. A virtual node claims 4 processors and
8 GB, whatever the machine has. The partition ``urgent`` preempts jobs of ``main``: they get a signal and ``GRACE``
seconds, and are requeued.
"""

import argparse
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

DAEMONS = ("slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged")
PACKAGES = {
    "munged": "munge",
    "mariadbd": "mariadb-server-core",
    "slurmdbd": "slurmdbd",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
}
"""Program -> its Debian package."""
SQL = Path("/usr/share/mysql")
SYSTEM_TABLES = ("mysql_system_tables", "mysql_system_tables_data", "mysql_performance_tables")
PARTS = ("etc", "log", "run", "state", "db", "spool")
GRACE = 20
"""Seconds between the signal to a preempted job and its end."""
PATIENCE = 30
"""Seconds that a daemon has to answer or to end."""
JOBS_END = 12
"""Seconds that jobs have to end when the cluster is stopped: a little more than KillWait."""

# Short times for short tests: with cred_expire a job can restart 7 s after it was requeued instead of 120 s, KillWait
# is the time between SIGTERM and SIGKILL, and the scheduler runs every 2 s.
SLURM_CONF = """\
ClusterName=one_machine
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
ReturnToService=1
JobRequeue=1
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageEnforce=associations
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting_port}
AccountingStoragePass={folder}/run/munge.sock
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
NodeName=node[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first_node_port}-{last_node_port}] CPUs=4 \
RealMemory=8000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={accounting_port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=root
StorageLoc=slurm_acct_db
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
"""


class ClusterError(Exception):
    """The cluster cannot be started or stopped; the message is one line."""


class Cluster:
    """The cluster in ``folder``. ``port`` is the controller's; the other daemons take the ports after it."""

    def __init__(self, folder: Path, nodes: int, port: int) -> None:
        self.folder, self.port = folder, port
        self.nodes = [f"node{number}" for number in range(1, nodes + 1)]
        self.conf = folder / "etc/slurm.conf"
        self.environment = os.environ | {"SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        """Start all daemons and wait until every node is idle; on failure, end whatever was started.

        Raises:
            ClusterError: not root, a package is missing, a port is taken, or a daemon did not answer.
        """
        self._refuse()
        self._write_configuration()
        try:
            self._start_munge()
            self._start_database()
            self._run("slurmdbd")
            self._wait_for("slurmdbd", lambda: self._answers("sacctmgr", "--noheader", "list", "cluster"))
            self._register()
            self._run("slurmctld")
            for node in self.nodes:
                self._run("slurmd", "-N", node)
            self._wait_for("slurmctld", lambda: self._idle_nodes() == len(self.nodes))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all jobs and daemons of the folder that run."""
        self._cancel_jobs()
        for name in DAEMONS:
            for path in sorted((self.folder / "run").glob(f"{name}*.pid")):
                end(process_of(path))
        for process in self._tasks():
            end(process, signal.SIGKILL)

    def remove(self) -> None:
        """Remove the files of ``start`` and the daemons, and the folder if nothing else is in it."""
        for part in PARTS:
            shutil.rmtree(self.folder / part, ignore_errors=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _refuse(self) -> None:
        if os.geteuid() != 0:
            raise ClusterError("SLURM's daemons must run as root to start jobs of all users: run this with sudo")
        if missing := missing_packages():
            install = f"apt-get install --no-install-recommends {' '.join(missing)}"
            raise ClusterError(f"not installed: {', '.join(missing)}; on Debian and Ubuntu: {install}")
        if any(process_of(path) for path in (self.folder / "run").glob("*.pid")):
            raise ClusterError(f"{self.folder}: a cluster runs there; stop it, or choose another folder")
        if len(str(self.folder)) > 80:
            raise ClusterError(f"{self.folder}: too long for the path of a socket; choose one of at most 80 characters")
        for port in range(self.port, self.port + 4 + len(self.nodes)):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    raise ClusterError(f"port {port} is taken; choose others with --port N (N to N + 9)") from error

    def _write_configuration(self) -> None:
        for part in PARTS:
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            (self.folder / "spool" / node).mkdir(exist_ok=True)
        # Jobs of any user need munge's socket and the configuration.
        for path in (self.folder, self.folder / "etc", self.folder / "run"):
            path.chmod(0o755)
        key = self.folder / "etc/munge.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(secrets.token_bytes(128))
        values = {
            "folder": self.folder,
            "host": socket.gethostname().partition(".")[0],
            "nodes": len(self.nodes),
            "port": self.port,
            "accounting_port": self.port + 1,
            "database_port": self.port + 2,
            "first_node_port": self.port + 3,
            "last_node_port": self.port + 2 + len(self.nodes),
            "grace": GRACE,
        }
        self.conf.write_text(SLURM_CONF.format(**values))
        dbd_conf = self.folder / "etc/slurmdbd.conf"
        dbd_conf.touch(mode=0o600)
        dbd_conf.write_text(SLURMDBD_CONF.format(**values))

    def _start_munge(self) -> None:
        run, log = self.folder / "run", self.folder / "log"
        files = {
            "key-file": self.folder / "etc/munge.key",
            "socket": run / "munge.sock",
            "pid-file": run / "munged.pid",
            "log-file": log / "munged.log",
            "seed-file": run / "munge.seed",
        }
        self._run("munged", *(f"--{option}={path}" for option, path in files.items()))

    def _start_database(self) -> None:
        data, log = self.folder / "db", self.folder / "log/mariadbd.log"
        own = ["mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", "--innodb-buffer-pool-size=64M"]
        if not (data / "mysql").exists():
            bootstrap = subprocess.run([*own, "--bootstrap"], input=system_tables(), text=True, capture_output=True)
            (self.folder / "log/bootstrap.log").write_text(bootstrap.stderr)
        run = self.folder / "run"
        ports = ["--bind-address=127.0.0.1", f"--port={self.port + 2}", f"--socket={run / 'mysql.sock'}"]
        # slurmdbd requires the long timeout; the database need not survive a crash of the machine.
        sized = ["--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0", "--skip-grant-tables"]
        with log.open("w") as told:
            subprocess.Popen(
                [*own, *ports, *sized, f"--pid-file={run / 'mariadbd.pid'}"],
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
                start_new_session=True,
            )
        self._wait_for("mariadbd", lambda: "ready for connections" in log.read_text())

    def _register(self) -> None:
        """Add an account and its users: as on most clusters, ``sbatch`` refuses users without one."""
        users = ",".join(sorted({"root", os.environ.get("SUDO_USER", "root")}))
        for words in (["cluster", "one_machine"], ["account", "one_machine"], ["user", users, "account=one_machine"]):
            # This fails in a folder that was stopped with --keep, which has them already.
            subprocess.run(["sacctmgr", "-i", "add", *words], env=self.environment, capture_output=True)

    def _cancel_jobs(self) -> None:
        """Cancel all jobs and give them time to end, if the controller runs."""
        if process_of(self.folder / "run/slurmctld.pid") is None:
            return
        deadline = time.monotonic() + JOBS_END
        while (jobs := self._printed("squeue", "--noheader", "--format=%A").split()) and time.monotonic() < deadline:
            subprocess.run(["scancel", *jobs], env=self.environment, capture_output=True)
            time.sleep(0.2)

    def _idle_nodes(self) -> int:
        return len(self._printed("sinfo", "--noheader", "--Node", "--partition=main", "--states=idle").splitlines())

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run([program, *arguments], env=self.environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise ClusterError(f"{program} does not start: {last_line(done.stderr)}; see {self.folder / 'log'}")

    def _printed(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True).stdout

    def _answers(self, *command: str) -> bool:
        return subprocess.run(command, env=self.environment, capture_output=True).returncode == 0

    def _wait_for(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not ready():
            if time.monotonic() > deadline:
                told = last_line((self.folder / f"log/{name}.log").read_text())
                raise ClusterError(f"{name} is not ready after {PATIENCE} s: {told}; see {self.folder / 'log'}")
            time.sleep(0.05)

    def _tasks(self) -> Iterator[int]:
        """Yield the processes of jobs that are left because their daemon had been killed."""
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = environ.read_bytes().split(b"\0")
            except OSError:
                continue
            own = f"SLURM_CONF={self.conf}".encode() in variables
            if own and any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables):
                yield int(environ.parent.name)


def missing_packages() -> list[str]:
    """Return the Debian packages that are not installed."""
    return sorted(package for program, package in PACKAGES.items() if shutil.which(program) is None)


def system_tables() -> str:
    """Return SQL that creates MariaDB's system tables in an empty database.

    Raises:
        ClusterError: the SQL files are not where Debian installs them.
    """
    try:
        tables = [(SQL / f"{name}.sql").read_text() for name in SYSTEM_TABLES]
    except OSError as error:
        raise ClusterError(f"{error.filename}: {error.strerror}; Debian's mariadb-server-core has it") from error
    return "\n".join(["create database mysql;", "use mysql;", *tables])


def process_of(pid_file: Path) -> int | None:
    """Return the process that the file names, or None if it does not run."""
    try:
        process = int(pid_file.read_text())
    except (OSError, ValueError):
        return None
    return process if is_alive(process) else None


def is_alive(process: int) -> bool:
    """Return whether the process runs; a zombie does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def end(process: int | None, number: signal.Signals = signal.SIGTERM) -> None:
    """Send the signal, wait, and kill the process if it does not end in time."""
    if process is None:
        return
    deadline = time.monotonic() + PATIENCE
    try:
        os.kill(process, number)
        while is_alive(process) and time.monotonic() < deadline:
            time.sleep(0.02)
        if is_alive(process):
            os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        pass


def last_line(text: str) -> str:
    """Return the last line that is not blank."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no output")


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
    stop.add_argument("--keep", action="store_true", help="keep the files: logs and accounting")
    commands.add_parser("packages", help="print the Debian packages that are missing")
    return parser.parse_args()


def main() -> None:
    """Run the command."""
    asked = arguments()
    try:
        if asked.command == "start":
            cluster = Cluster(asked.folder.resolve(), asked.nodes, asked.port)
            cluster.start()
            print(f"export SLURM_CONF={cluster.conf}")
        elif asked.command == "stop":
            stop(asked.folder.resolve(), asked.keep)
        else:
            print(*missing_packages())
    except ClusterError as error:
        fail(str(error))


def stop(folder: Path, keep: bool) -> None:
    """Stop the cluster in ``folder``.

    Raises:
        ClusterError: no cluster has been started there.
    """
    cluster = Cluster(folder, nodes=0, port=0)
    if not cluster.conf.exists():
        raise ClusterError(f"{folder}: no cluster has been started there")
    cluster.stop()
    if not keep:
        cluster.remove()


def fail(message: str) -> NoReturn:
    """Print one line and exit with code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
