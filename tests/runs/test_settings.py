"""Settings of a task that no run reads, or not as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pliant import runs
from pliant.checks import NoEffectWarning, PliantError
from pliant.runs.settings import settings_of
from pliant.tasks import load_task
from pliant.techniques.train.sandwich import Sandwich

TASK = Path(__file__).with_name("small_task.py")


def test_misspelt_settings_are_noticed(tmp_path: Path) -> None:
    loaded = load_task(TASK)
    task = replace(loaded, settings={**loaded.settings, "weigth_decay": 0.1, "batch": 64, "quick": {"step": 3}})
    with pytest.warns(NoEffectWarning) as told:
        settings_of(task, False, {})
    assert [str(each.message).partition(" has ")[2] for each in told] == [
        "'weigth_decay', which no run reads; is 'weight_decay' meant?",
        "'step', which no run reads; is 'steps' meant?",
    ]
    with pytest.raises(PliantError, match=r"the recipe of a task is text, .* has Sandwich\("):
        settings_of(replace(loaded, settings={"recipe": Sandwich()}), False, {})
    with pytest.raises(PliantError, match="no choices are asked for"):
        runs.run(str(TASK), tmp_path / "run", choices=("",))
