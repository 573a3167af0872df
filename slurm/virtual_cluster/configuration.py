"""The configuration files of the cluster: slurm.conf, slurmdbd.conf and munge's key."""

import secrets
import socket
from pathlib import Path

FOLDERS = ("etc", "log", "run", "state", "db", "spool")
"""Folders of the cluster's files."""

GRACE_S = 20
"""Seconds between the signal to a preempted job and its end."""

PORTS_BEFORE_NODES = 3
"""Number of ports of controller, accounting and database; the nodes use the following ports."""

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


def write_configuration(folder: Path, nodes: int, port: int) -> None:
    """Create the cluster's folders and write its configuration; ``port`` is the controller's."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for node in node_names(nodes):
        (folder / "spool" / node).mkdir(exist_ok=True)
    # Jobs of any user need munge's socket and the configuration.
    for path in (folder, folder / "etc", folder / "run"):
        path.chmod(0o755)
    key = folder / "etc/munge.key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
    values = {
        "folder": folder,
        "host": socket.gethostname().partition(".")[0],
        "nodes": nodes,
        "port": port,
        "accounting_port": port + 1,
        "database_port": port + 2,
        "first_node_port": port + PORTS_BEFORE_NODES,
        "last_node_port": port + PORTS_BEFORE_NODES + nodes - 1,
        "grace": GRACE_S,
    }
    slurm_conf(folder).write_text(SLURM_CONF.format(**values))
    accounting = folder / "etc/slurmdbd.conf"
    accounting.touch(mode=0o600)
    accounting.write_text(SLURMDBD_CONF.format(**values))


def slurm_conf(folder: Path) -> Path:
    """Return the path of slurm.conf, for the variable SLURM_CONF."""
    return folder / "etc/slurm.conf"


def node_names(nodes: int) -> list[str]:
    """Return the names of the virtual nodes."""
    return [f"node{number}" for number in range(1, nodes + 1)]
