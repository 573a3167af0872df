"""The build backend of ``pyproject.toml``: setuptools', after ``ttt/__init__.py`` has checked the running Python."""

from setuptools.build_meta import *  # noqa: F403 - all functions of a backend
