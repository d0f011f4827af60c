"""What a run prints at its end."""

from __future__ import annotations

import io
import re

from rich.console import Console

from pliant.cli.running import show_members
from pliant.report.render import ROLES
from tests.report.sample import sample


def test_each_member_has_a_line_of_its_own_in_80_columns() -> None:
    console, data = Console(file=io.StringIO(), width=80), sample()
    show_members(console, data)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert {member.role for member in data.members} >= {"reference", "recommended", "dropped"}
    for member in data.members:
        (line,) = (line for line in lines if re.match(rf"{member.id} +\d", line))
        assert line.rstrip().endswith(ROLES[member.role])
        assert " ms " in line
