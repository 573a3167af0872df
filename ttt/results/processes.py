"""Identity of a process on this machine: process ids are used again, so the start counts too, which no clock moves."""

from pathlib import Path


def machine_id() -> str:
    """Return the ids of boot and container, within which process ids are unique; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def start_ticks(pid: int) -> int | None:
    """Return the process's start in clock ticks since boot; None if it does not run or this is unknown."""
    try:
        # The second field is a name in parentheses, which may contain any character.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
