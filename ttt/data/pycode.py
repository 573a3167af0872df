"""Python source code of installed packages: real, long documents without a download."""

import platform
import sysconfig
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

from ttt.config.errors import UserError, bad_value
from ttt.config.schema import DataConfig
from ttt.data.sources import Document, Source, register_source

STDLIB = "stdlib"
INSTALLED_BESIDE_STDLIB = {"site-packages", "dist-packages"}


@register_source("pycode")
class PyCode(Source[DataConfig]):
    """The ``.py`` files of ``data.packages``, found without importing the packages.

    ``stdlib`` is the interpreter's own library. Files that are not UTF-8 are skipped.
    """

    def versions(self) -> dict[str, str]:
        """Return the installed version of each of ``data.packages``; the interpreter's for ``stdlib``.

        Raises:
            UserError: there are no packages, or one is not installed.
        """
        if not self.config.packages:
            raise bad_value("data.packages", self.config.packages, f"name at least one package, such as {STDLIB}")
        return {package: _version(package) for package in self.config.packages}

    def documents(self) -> Iterator[Document]:
        """Yield every file of every package, named by package and path.

        Raises:
            UserError: a package is not installed, or one of its files cannot be read.
        """
        for package in sorted(self.config.packages):
            for root in _roots(package):
                yield from _read(package, root)


def _version(package: str) -> str:
    if package == STDLIB:
        return platform.python_version()
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        # Search all distributions, which is slower, only for packages whose distribution has another name.
        distributions = metadata.packages_distributions().get(package)
    if not distributions:
        raise _not_installed(package)
    return metadata.version(distributions[0])


def _roots(package: str) -> list[Path]:
    """Return the folders of ``package``, or its only file."""
    if package == STDLIB:
        return [Path(sysconfig.get_path("stdlib"))]
    # find_spec of a dotted name would import its parents.
    spec = util.find_spec(package) if package.isidentifier() else None
    if spec is None:
        raise _not_installed(package)
    return [Path(location) for location in spec.submodule_search_locations or [str(spec.origin)]]


def _read(package: str, root: Path) -> Iterator[Document]:
    paths = [root] if root.is_file() else sorted(root.rglob("*.py"))
    for path in paths:
        inside = path.relative_to(root) if root.is_dir() else Path(root.name)
        if package == STDLIB and INSTALLED_BESIDE_STDLIB.intersection(inside.parts):
            continue
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        except OSError as error:
            raise UserError(f"{path}: cannot be read for data.packages={package}: {error.strerror}") from error
        yield Document(f"{package}/{inside.as_posix()}", text)


def _not_installed(package: str) -> UserError:
    return bad_value("data.packages", package, "no installed package has this import name; install it or remove it")
