"""``python -m pliant`` is the command ``pliant``."""

from .cli.main import app

app()
