"""Compare the versions of uv.lock, which uv writes, with those of constraints.txt: python .ci/check_lock.py."""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def disagreements(lock: str, constraints: str) -> list[str]:
    """Return a line about every pinned package that the lock has not, or in another version on some platform."""
    locked: dict[str, set[str]] = {}
    for package in tomllib.loads(lock)["package"]:
        locked.setdefault(package["name"], set()).add(package.get("version", "no version"))
    pins = [line.split("==") for line in constraints.splitlines() if "==" in line and not line.startswith("#")]
    found = {name: (version, locked.get(re.sub(r"[-_.]+", "-", name).lower(), {"nothing"})) for name, version in pins}
    return [
        f"{name}: constraints.txt has {version}, uv.lock {', '.join(sorted(versions))}"
        for name, (version, versions) in found.items()
        if versions != {version}
    ]


if __name__ == "__main__":
    lines = disagreements((ROOT / "uv.lock").read_text(), (ROOT / "constraints.txt").read_text())
    sys.exit("\n".join([*lines, "uv lock --upgrade, or python .ci/pin_uv.py after an edit"]) if lines else 0)
