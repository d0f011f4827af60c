"""One network of the zoo, from capture to a trained and extracted member; every check is recorded."""

from __future__ import annotations

import copy
import random
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pliant import Depth, Family, Macs, Width
from pliant.checks import CaptureError, NoEffectWarning, WrongShapeError
from pliant.graph import Analysis, analyze
from pliant.graph.realise import compare_forms, difference, outputs, sliced_copy
from pliant.graph.slicing import Slicing
from tests.graph.support import half, permutation, randomise, some

from .entries import Net
from .reference import Masks, attends
from .shares import shares

FORMS, SAME, ROUNDING = 1e-5, 1e-4, 1e-6
SMALL = 1_000_000  # parameters
Record = dict[str, Any]


class WrongNetworkError(Exception):
    """A smaller network that computes something else than it should."""


class Measurement:
    """Runs the stages of one network; ``record`` holds what is known so far and ``keep`` stores it."""

    def __init__(self, net: Net, keep: Callable[[Record], None], precise: bool = False) -> None:
        self.net, self.keep, self.precise = net, keep, precise
        self.record: Record = {"name": net.name, "group": net.group, "attention": net.attention, "checks": {}}
        self.record |= {"outcome": "unfinished", "seconds": {}, "precision": "float64" if precise else "float32"}
        self.model: nn.Module
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self.base: list[Tensor] = []
        self.analysis: Analysis

    def run(self) -> Record:
        """Run every stage and return the record; an error becomes its outcome."""
        begun = time.process_time()
        try:
            self._stages()
            self.record["outcome"] = "ok" if self.record["axes"] or self.record["blocks"] else "nothing bends"
        except WrongNetworkError as error:
            self.record |= {"outcome": "wrong", "error": str(error)}
        except (CaptureError, WrongShapeError) as error:
            first = self.record["stage"] == "capture"
            self.record |= {"outcome": "no capture" if first else "error", "error": f"{type(error).__name__}: {error}"}
        except Exception as error:  # noqa: BLE001  (whatever a network raises is what the record tells)
            outcome = {"make": "not made", "run": "not made"}.get(self.record["stage"], "error")
            where = traceback.format_exc().splitlines()[-12:]
            self.record |= {"outcome": outcome, "error": f"{type(error).__name__}: {error}"[:2000], "trace": where}
        self.record["seconds"]["all"] = round(time.process_time() - begun, 2)
        self.keep(self.record)
        return self.record

    def _stages(self) -> None:
        with self._stage("make"):
            torch.manual_seed(11)
            self.model, args, self.kwargs = self.net.make()
            randomise(self.model)
            self.args = tuple(args)
            if self.precise:
                self.model.double()
                self.args, self.kwargs = pytree.tree_map(in_double, self.args), pytree.tree_map(in_double, self.kwargs)
            self.record["parameters"] = sum(p.numel() for p in self.model.parameters())
        with self._stage("run"):
            self.base = self._run(self.model)
        with self._stage("capture"):
            self.analysis = analyze(self.model, self.args, self.kwargs)
        self._describe()
        with self._stage("whole"):
            whole = Slicing(self.analysis)
            self._check("whole module", self._gap(sliced_copy(self.model, whole, "module")), 0.0)
            self._check("whole graph", self._gap(sliced_copy(self.model, whole, "graph")), FORMS)
        with self._stage("permute"):
            order = permutation(self.analysis, random.Random(1))
            self._check("permutation", self._gap(sliced_copy(self.model, Slicing(self.analysis, order), "graph")), SAME)
        with self._stage("mask"):
            self._mask()
        with self._stage("cut"):
            self._cuts()
        with self._stage("train"):
            self._train()

    # ---- the checks ------------------------------------------------------------------------------------------------
    def _mask(self) -> None:
        masks = Masks(self.model, self.analysis, self.args, self.kwargs)
        for what, key, axes, gap_of in (
            ("masked original", "masked_axes", list(masks.keep), masks.gap),
            ("masked, norms over what stays", "masked_axes_norms", list(masks.keep_norms), masks.gap_norms),
        ):
            self.record[key] = len(axes)
            if not axes:
                continue
            gap = gap_of(axes)
            if gap > SAME:
                self.record["mask_failures"] = masks.failures(gap_of, axes, SAME)
            self._check(what, gap, SAME)

    def _cuts(self) -> None:
        rng = random.Random(5)
        names = [block.name for block in self.analysis.blocks]
        drop = [name for name in names if rng.random() < 0.5] or names[:1]
        halves = half(self.analysis, rng)
        cuts = {
            "half": Slicing(self.analysis, halves),
            "some": Slicing(self.analysis, some(self.analysis, rng)),
            "dropped": Slicing(self.analysis, {}, drop),
            "half and dropped": Slicing(self.analysis, halves, drop),
        }
        form, why = "module", ""
        for name, slicing in cuts.items():
            if (name == "half" and not halves) or ("dropped" in name and not drop):
                continue
            cut = sliced_copy(self.model, slicing, "graph")
            got = self._run(cut)
            if [v.shape for v in got] != [v.shape for v in self.base]:
                raise WrongNetworkError(f"{name}: the cut network gives other shapes")
            if name == "half":
                self.record |= shares(self.analysis, self.model, cut, Macs(self.args, self.kwargs))
            gap, rescaled, error = compare_forms(self.model, slicing, self.analysis)
            if gap > FORMS and name == "some" and self._rounded_agrees():
                self.record["only_rounded"] = error[:300]
            elif gap > FORMS:
                form, why = "graph", f"{name}: {error or f'the two forms differ by {gap:.1e}'}"
            self.record["checks"][f"{name}: both forms"] = gap
            self.record["rescaled"] = self.record.get("rescaled", False) or rescaled
        self.record |= {"form": form, "why_graph": why[:600]}

    def _rounded_agrees(self) -> bool:
        """Tell whether both forms agree for random multiples of four: torch's grouped products take no other sizes."""
        rng = random.Random(6)
        keep = {
            a.name: rng.sample(range(a.size), 4 * rng.randint(1, a.size // 4))
            for a in self.analysis.axes
            if a.size % 4 == 0
        }
        return compare_forms(self.model, Slicing(self.analysis, keep), self.analysis)[0] <= FORMS

    def _train(self) -> None:
        """One step of plain SGD through a member that is as small as can be, then its extraction."""
        if not (self.analysis.axes or self.analysis.blocks):
            return
        multiple = 8 if self.record["parameters"] > SMALL else 4
        width = Width(kinds=("width", "heads", "stream", "head_width", "group"), multiple=multiple)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoEffectWarning)  # the axes of a tiny network can be too small
            family = Family(self.model, self.args, [width, Depth()], self.kwargs, analysis=self.analysis)
        config = family.space.smallest()
        before = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        member = family.member(config)
        parameters = [p for p in family.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=1e-3)
        loss = sum(out.float().square().mean() for out in _real(member(*self.args, **copy.deepcopy(self.kwargs))))
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            self.record["trained"] = "no output with a gradient"
            return
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        moved = sum(not torch.equal(before[name], p) for name, p in self.model.named_parameters())
        if not moved:
            raise WrongNetworkError("a training step changes nothing")
        self.record["trained"] = f"{moved} of {len(before)} tensors moved"
        inside, extracted = family.ready(config), self._run(family.extract(config))
        gap = difference(extracted, self._run(inside))
        if gap > 0:  # torch may take another kernel for the strides of a view, which rounds otherwise
            self._check("extracted, from views", gap, ROUNDING)
            gap = difference(extracted, self._run(_contiguous(inside)))
        self._check("extracted", gap, 0.0)

    # ---- parts -----------------------------------------------------------------------------------------------------
    def _describe(self) -> None:
        analysis = self.analysis
        kinds: dict[str, int] = {}
        for axis in analysis.axes:
            kinds[axis.kind] = kinds.get(axis.kind, 0) + 1
        self.record |= {
            "attention": attends(analysis),
            "axes": len(analysis.axes),
            "kinds": kinds,
            "blocks": len(analysis.blocks),
            "nodes": len(analysis.capture.graph.nodes),
            "mode": getattr(analysis.capture, "mode", "export"),
            "unknown": dict(analysis.trace.unknown),
        }
        self.record["seconds"] |= {f"of {k}": round(v, 4) for k, v in analysis.seconds.items()}

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.record["stage"] = name
        self.keep(self.record)
        start = time.process_time()
        yield
        self.record["seconds"][name] = round(time.process_time() - start, 3)

    def _run(self, net: nn.Module) -> list[Tensor]:
        return outputs(net, self.args, self.kwargs)

    def _gap(self, net: nn.Module) -> float:
        return difference(self._run(net), self.base)

    def _check(self, name: str, gap: float, limit: float) -> None:
        self.record["checks"][name] = gap
        if not gap <= limit:
            raise WrongNetworkError(f"{name}: differs by {gap:.1e}")


def _contiguous(net: nn.Module) -> nn.Module:
    """Return a copy whose tensors lie in memory as those of an ordinary network do."""
    net = copy.deepcopy(net)
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.data = tensor.data.contiguous()
    return net


def in_double(value: Any) -> Any:
    """Return a tensor of floating point numbers in double precision, and everything else as it is."""
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _real(tree: Any) -> list[Tensor]:
    found = [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
    return [leaf for leaf in found if leaf.is_floating_point() and leaf.requires_grad]


def measure(net: Net, keep: Callable[[Record], None]) -> Record:
    """Measure one network; where a difference could be rounding, once more in double precision."""
    record = Measurement(net, keep).run()
    if record["outcome"] == "wrong" and "differs by" in record.get("error", "") and "inf" not in record["error"]:
        again = Measurement(net, keep, precise=True).run()
        again["first"] = {key: record.get(key) for key in ("error", "checks", "mask_failures")}
        keep(again)
        return again
    return record
