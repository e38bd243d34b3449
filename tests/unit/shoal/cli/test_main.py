"""The words of the command line: what is an option of ours and what is another program's."""

import argparse
import importlib
import os
import signal
import subprocess
import sys

import pytest

from shoal.cli import __main__ as cli

exec_words = [
    ["sandbox", "exec", "m1", "--name", "n", "--", "curl", "-s", "--name", "x"],
    ["sandbox", "exec", "--name", "n", "m1", "--", "curl", "-s", "--name", "x"],
]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[argparse.Namespace]:
    """What a verb is run with, instead of running it."""
    found: list[argparse.Namespace] = []
    module = importlib.import_module("shoal.cli.sandbox.command")

    def run(arguments: argparse.Namespace) -> int:
        found.append(arguments)
        return 0

    monkeypatch.setattr(module, "run", run)
    return found


@pytest.mark.parametrize("words", exec_words)
def test_options_before_the_dashes_are_ours_and_all_after_them_the_commands(
    seen: list[argparse.Namespace], words: list[str]
) -> None:
    assert cli.main(words) == 0
    assert (seen[0].host, seen[0].name) == ("m1", "n")
    assert seen[0].command == ["curl", "-s", "--name", "x"]


def test_a_verb_without_a_command_refuses_one(
    seen: list[argparse.Namespace], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["sandbox", "ls", "--", "true"])
    assert "nothing is expected after --, but there is true" in capsys.readouterr().err
    assert seen == []


def test_a_reader_that_has_enough_ends_it_without_a_trace() -> None:
    """As in `shoal sandbox ls | head -1`, whose pipe is closed before all is written."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-m", "shoal.cli", "sandbox", "ls"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
