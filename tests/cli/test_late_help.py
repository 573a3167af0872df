"""Hydra's argument parser can be built although argparse checks each flag's help, as it does from Python 3.14 on."""

import argparse

import pytest
from hydra._internal.utils import get_args_parser

from ttt.cli.late_help import accept_late_help


def check(_: argparse._ActionsContainer, action: argparse.Action) -> None:
    """Do what Python 3.14 does."""
    if action.help and "%x" in action.help:
        raise ValueError("badly formed help string")


def test_only_help_that_is_text_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(argparse._ActionsContainer, "_check_help", check, raising=False)
    # Where argparse does not check by itself, checking is added.
    monkeypatch.setattr(argparse._ActionsContainer, "add_argument", adding(argparse._ActionsContainer.add_argument))
    with pytest.raises(TypeError):
        get_args_parser()
    for _ in range(2):
        accept_late_help()
    assert get_args_parser().parse_args(["--multirun", "seed=1"]).multirun
    with pytest.raises(ValueError, match="badly formed"):
        argparse.ArgumentParser().add_argument("--rate", help="in %x")


def adding(add):  # type: ignore[no-untyped-def]
    def add_argument(self, *names, **settings):  # type: ignore[no-untyped-def]
        action = add(self, *names, **settings)
        self._check_help(action)
        return action

    return add_argument
