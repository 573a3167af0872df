"""Starting and stopping the cluster's daemons."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from virtual_cluster.configuration import FOLDERS, PORTS_BEFORE_NODES, node_names, slurm_conf, write_configuration
from virtual_cluster.processes import PATIENCE_S, end, find_process, job_processes

DAEMONS = ("slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged")
"""Daemons in the order in which they are stopped."""

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

JOBS_END_S = 12
"""Seconds for jobs to end when the cluster is stopped, slightly more than KillWait."""


class ClusterError(Exception):
    """The cluster cannot be started or stopped; the message is one line."""


class Cluster:
    """The cluster in ``folder``. ``port`` is the controller's port; other daemons use the following ports."""

    def __init__(self, folder: Path, nodes: int = 0, port: int = 0) -> None:
        self.folder, self.nodes, self.port = folder, nodes, port
        self.conf = slurm_conf(folder)
        self.environment = os.environ | {"SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        """Start all daemons and wait until every node is idle; on failure, stop them.

        Raises:
            ClusterError: not root, a package is missing, a port is taken, or a daemon did not answer.
        """
        self._check()
        write_configuration(self.folder, self.nodes, self.port)
        try:
            self._start_munge()
            self._start_database()
            self._run("slurmdbd")
            self._wait_for("slurmdbd", lambda: self._call("sacctmgr", "--noheader", "list", "cluster").returncode == 0)
            self._register()
            self._run("slurmctld")
            for node in node_names(self.nodes):
                self._run("slurmd", "-N", node)
            idle = ("sinfo", "--noheader", "--Node", "--partition=main", "--states=idle")
            self._wait_for("slurmctld", lambda: len(self._call(*idle).stdout.splitlines()) == self.nodes)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all running jobs and daemons of the folder."""
        self._cancel_jobs()
        for name in DAEMONS:
            for path in sorted((self.folder / "run").glob(f"{name}*.pid")):
                end(find_process(path))
        for process in job_processes(self.conf):
            end(process, signal.SIGKILL)

    def remove(self) -> None:
        """Remove the files of the cluster, and the folder if it is then empty."""
        for name in FOLDERS:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _check(self) -> None:
        if os.geteuid() != 0:
            raise ClusterError("SLURM's daemons must run as root to start jobs of all users: run this with sudo")
        if missing := missing_packages():
            install = f"apt-get install --no-install-recommends {' '.join(missing)}"
            raise ClusterError(f"not installed: {', '.join(missing)}; on Debian and Ubuntu: {install}")
        if any(find_process(path) for path in (self.folder / "run").glob("*.pid")):
            raise ClusterError(f"{self.folder}: a cluster runs there; stop it, or choose another folder")
        if len(str(self.folder)) > 80:
            raise ClusterError(f"{self.folder}: too long for the path of a socket; choose one of at most 80 characters")
        for port in range(self.port, self.port + PORTS_BEFORE_NODES + self.nodes):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    raise ClusterError(f"port {port} is taken; choose others with --port N (N to N + 9)") from error

    def _start_munge(self) -> None:
        run = self.folder / "run"
        files = {
            "key-file": self.folder / "etc/munge.key",
            "socket": run / "munge.sock",
            "pid-file": run / "munged.pid",
            "log-file": self.folder / "log/munged.log",
            "seed-file": run / "munge.seed",
        }
        self._run("munged", *(f"--{option}={path}" for option, path in files.items()))

    def _start_database(self) -> None:
        data, run, log = self.folder / "db", self.folder / "run", self.folder / "log/mariadbd.log"
        command = ["mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", "--innodb-buffer-pool-size=64M"]
        if not (data / "mysql").exists():
            done = subprocess.run([*command, "--bootstrap"], input=system_tables(), text=True, capture_output=True)
            (self.folder / "log/bootstrap.log").write_text(done.stderr)
        network = ["--bind-address=127.0.0.1", f"--port={self.port + 2}", f"--socket={run / 'mysql.sock'}"]
        # slurmdbd requires the long timeout; the database need not survive a crash of the machine.
        options = ["--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0", "--skip-grant-tables"]
        with log.open("w") as output:
            subprocess.Popen(
                [*command, *network, *options, f"--pid-file={run / 'mariadbd.pid'}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._wait_for("mariadbd", lambda: "ready for connections" in log.read_text())

    def _register(self) -> None:
        """Add an account and its users: as on most clusters, ``sbatch`` refuses users without one."""
        users = ",".join(sorted({"root", os.environ.get("SUDO_USER", "root")}))
        for words in (["cluster", "one_machine"], ["account", "one_machine"], ["user", users, "account=one_machine"]):
            # This fails if they exist, as in the folder of a cluster that was killed.
            self._call("sacctmgr", "-i", "add", *words)

    def _cancel_jobs(self) -> None:
        """Cancel all jobs and wait for them to end, if the controller runs."""
        if find_process(self.folder / "run/slurmctld.pid") is None:
            return
        deadline = time.monotonic() + JOBS_END_S
        while (
            jobs := self._call("squeue", "--noheader", "--format=%A").stdout.split()
        ) and time.monotonic() < deadline:
            self._call("scancel", *jobs)
            time.sleep(0.2)

    def _call(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(command, env=self.environment, capture_output=True, text=True)

    def _run(self, program: str, *arguments: str) -> None:
        done = self._call(program, *arguments)
        if done.returncode != 0:
            raise ClusterError(f"{program} does not start: {last_line(done.stderr)}; see {self.folder / 'log'}")

    def _wait_for(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not ready():
            if time.monotonic() > deadline:
                message = last_line((self.folder / f"log/{name}.log").read_text())
                raise ClusterError(f"{name} is not ready after {PATIENCE_S} s: {message}; see {self.folder / 'log'}")
            time.sleep(0.05)


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


def last_line(text: str) -> str:
    """Return the last line that is not blank."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no output")
