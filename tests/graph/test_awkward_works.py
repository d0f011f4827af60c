"""Awkward networks that work: a cut equals the masked original, members are smaller and are what is extracted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from pliant import Depth, Family, NoEffectWarning, Width, analyze
from pliant.graph.realise import compare_forms
from pliant.graph.slicing import Slicing
from tests.graph.awkward import Counting, Locked, Straight, checkpointed, family_of, mlp, tiny, works
from tests.graph.support import Tiny, check, sizes


def x() -> Tensor:
    return torch.randn(3, 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions(dtype: torch.dtype) -> None:
    works(mlp().to(dtype), x().to(dtype))


@pytest.mark.slow
def test_numpy_in_the_forward_is_captured_from_the_bytecode() -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        return s.b(s.a(torch.from_numpy(np.cos(x.detach().numpy()))).relu())

    analysis = works(tiny(forward), x())
    assert "strict" in analysis.capture.scope.mode
    assert set(analysis.capture.calls) == {"", "a", "b"}, "calls are known in this mode too"


def test_an_operation_without_sizes_is_captured_as_a_draft() -> None:
    with torch.library._scoped_library("awkward", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda t: t * 2, "CPU")
        net = tiny(lambda s, x: s.c(torch.ops.awkward.twice(s.b(s.a(x).relu()))), c=nn.Linear(2, 2))
        analysis = check(net, x(), mask=False)
    assert analysis.capture.scope.mode == "draft export"
    assert sizes(analysis) == [8], "what the unknown operation touches stays, the rest bends"
    assert any("depends on the data" in str(f.reason) for f in analysis.fixed)


def test_lists_dicts_and_none_as_arguments() -> None:
    works(tiny(lambda s, xs: s.b(torch.stack([s.a(v) for v in xs]).mean(0).relu())), [x(), x()], batch=False)
    net = tiny(lambda s, d, m=None: {"y": s.b(s.a(d["x"]).relu() * d["more"][0])})
    works(net, {"x": x(), "more": [torch.rand(3, 1)]}, None, batch=False)
    works(tiny(lambda s, *, x, n: s.b([s.a(x) for _ in range(n)][-1].relu())), kwargs={"x": x(), "n": 2})


def test_integers_and_masks_as_arguments() -> None:
    net = Tiny(lambda s, i, m: s.b(s.e(i).relu().masked_fill(m[..., None], 0)), e=nn.Embedding(9, 8), b=nn.Linear(8, 2))
    works(net, torch.randint(0, 9, (3, 4)), torch.rand(3, 4) > 0.5)


def test_state_is_left_as_it_was() -> None:
    net = Counting()
    works(net, x())
    fresh, given = Counting(), x()
    kept = given.clone()
    family = Family(fresh, (given,), [Width(multiple=1)])
    assert int(fresh.count) == 0, "the buffer that counts calls"
    assert torch.equal(given, kept)
    family.member(family.space.smallest())(given)
    assert fresh.calls <= 4, "the user's own network ran only for checks"


def test_forwards_that_write_into_their_inputs() -> None:
    given = x()
    kept = given.clone()
    works(tiny(lambda s, x: s.b(s.a(x.mul_(2)).relu())), given, batch=False)
    assert torch.equal(given, kept), "the example is the user's"


def test_random_numbers_in_the_forward() -> None:
    net = tiny(lambda s, x: s.b(s.a(x) + torch.randn_like(s.a(x)) * s.c(x).exp()), c=nn.Linear(5, 8))
    given = x()
    state = torch.get_rng_state()
    assert family_of(net, (given,)).form == "module"
    assert torch.equal(state, torch.get_rng_state()), "nothing draws from the user's generator"
    analysis = analyze(net, (given,))
    cut = Slicing(analysis, {axis.name: 3 for axis in analysis.axes})
    assert compare_forms(net, cut, analysis)[0] <= 1e-5


def test_one_module_under_two_names_and_weights_in_one_storage() -> None:
    net = tiny(lambda s, x: s.b((s.a(x) + s.c(x)).relu()))
    net.c = net.a
    works(net, x())
    pool, pair = torch.randn(56), mlp()
    pair[0].weight = nn.Parameter(pool[:40].view(8, 5))
    pair[2].weight = nn.Parameter(pool[40:].view(2, 8))
    works(pair, x())
    net = tiny(lambda s, x: s.b(s.a(x).relu() + s.c(x).relu()), c=nn.Linear(5, 8))
    net.c.weight = nn.Parameter(net.a.weight.data)  # two parameters, one memory
    works(net, x(), mask=False)


def test_weights_that_are_not_contiguous() -> None:
    net: Any = mlp()
    net[0].weight.data = net[0].weight.data.t().contiguous().t()
    works(net, x())
    net[2].weight.data = torch.randn(2, 1).expand(2, 8)
    family_of(net, (x(),))


@pytest.mark.parametrize("where", ["root", "part", "in place"])
def test_compiled_modules(where: str) -> None:
    net: Any = mlp()
    if where == "root":
        net = torch.compile(net, backend="eager")
    elif where == "part":
        part: Any = torch.compile(net, backend="eager")
        net = nn.Sequential(part, nn.ReLU(), nn.Linear(2, 2))
    else:
        net[0].compile(backend="eager")
    assert family_of(net, (x(),)).form == "module"


def test_wrappers_are_taken_off() -> None:
    family = family_of(nn.DataParallel(mlp()), (x(),))
    assert [axis.name for axis in family.analysis.axes] == ["0.width"]
    assert isinstance(family.model, nn.Sequential)


def test_hooks_run_in_members_too() -> None:
    net = mlp()
    net[0].register_forward_hook(lambda module, args, out: out * 2)
    net[2].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    works(net, x(), mask=False)
    assert len(net[0]._forward_hooks) == 1


def test_parts_that_are_not_trained_and_dropout_while_training() -> None:
    net = mlp()
    net[0].requires_grad_(False)
    works(net, x())
    family = Family(net, (x(),), [Width(multiple=1)])
    assert [p.requires_grad for p in family.extract(family.space.smallest()).parameters()] == [False, False, True, True]
    net = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 2)).train()
    analyze(net, (x(),))
    assert net.training
    works(net, x())


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("kind", ["weight_norm", "orthogonal", "old weight_norm"])
def test_weights_that_are_computed(kind: str) -> None:
    wrap: Any = nn.utils.weight_norm if kind.startswith("old") else getattr(parametrizations, kind)
    first: nn.Module = wrap(nn.Linear(5, 8))
    works(nn.Sequential(first, nn.ReLU(), nn.Linear(8, 2)), x(), mask=False)


def test_complex_weights() -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        turned = torch.view_as_complex(s.a(x).view(-1, 4, 2)) * s.w
        return s.b(torch.view_as_real(turned).flatten(1))

    works(tiny(forward, w=nn.Parameter(torch.randn(4, dtype=torch.cfloat))), x(), mask=False)


def test_what_has_no_rule_is_kept() -> None:
    spectrum = nn.Parameter(torch.randn(5, dtype=torch.cfloat))
    net = tiny(lambda s, x: s.b(torch.fft.irfft(torch.fft.rfft(s.a(x)) * s.w, n=8)), w=spectrum)
    assert not check(net, x(), mask=False).axes
    sparse = tiny(lambda s, x: s.b(torch.sparse.mm(s.w, s.a(x).t()).t()), w=nn.Parameter(torch.eye(8).to_sparse()))
    assert not check(sparse, x(), mask=False).axes
    mapped = check(tiny(lambda s, x: s.b(torch.vmap(s.a)(x))), x())
    assert "Pliant has no rule for the operation" in str(mapped)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_buffers_of_rare_types(dtype: torch.dtype) -> None:
    works(tiny(lambda s, x: s.b(s.a(x).relu() * s.m.to(x.dtype)), m=torch.tensor([0, 1, 2, 1] * 2).to(dtype)), x())


def test_outputs_that_are_constants_or_no_tensors() -> None:
    analysis = works(tiny(lambda s, x: (s.b(s.a(x).relu()), torch.ones(3), 7, None, "text")), x())
    assert sizes(analysis) == [8]


def test_no_parameters_at_all() -> None:
    assert not check(nn.ReLU(), x()).axes
    with pytest.warns(NoEffectWarning, match="found nothing to bend"):
        family = Family(nn.ReLU(), (x(),), [Width(), Depth()])
    assert torch.equal(family.extract(family.space.largest())(-torch.ones(2, 5)), torch.zeros(2, 5))


def test_what_cannot_be_copied_is_shared() -> None:
    net = Locked()
    family = family_of(net, (x(),))
    assert family.form == "module"
    small: Any = family.extract(family.space.smallest())
    assert small.lock is net.lock


def test_custom_gradients_and_checkpoints() -> None:
    works(tiny(lambda s, x: s.b(Straight.apply(s.a(x)))), x())
    works(tiny(checkpointed), x())


def test_traced_by_fx_and_lists_of_parameters() -> None:
    works(torch.fx.symbolic_trace(mlp()), x())
    works(
        Tiny(lambda s, x: (x @ s.p[0]).relu() @ s.p[1], p=nn.ParameterList([torch.randn(5, 8), torch.randn(8, 2)])), x()
    )


def test_one_example_and_none() -> None:
    works(mlp(), x()[:1], batch=False)
    assert sizes(analyze(mlp(), (torch.zeros(0, 5),))) == [8]


def test_without_gradients_and_in_inference_mode() -> None:
    net, given = mlp(), x()
    with torch.no_grad():
        family_of(net, (given,))
    with torch.inference_mode():
        analysis = analyze(net, (given,))
    assert sizes(analysis) == [8]


def test_a_network_without_weights_gives_members_without_weights() -> None:
    with torch.device("meta"):
        net, given = mlp(), x()
    family = Family(net, (given,), [Width(multiple=1)])
    small = family.extract(family.space.smallest())
    assert all(p.is_meta for p in small.parameters())
    assert small(given).shape == (3, 2)


@pytest.mark.parametrize("held", ["closure", "default", "list", "itself"])
def test_functions_that_hold_modules(held: str) -> None:
    """As minGPT writes its MLP; a copy whose functions run the original's modules would be no network of its own."""
    net: Any = tiny(lambda s, x: s.run[0](x) if isinstance(s.run, list) else s.run(x))
    parts: Any = nn.ModuleDict({"a": net.a, "b": net.b})
    net.parts = parts
    net.run = {
        "closure": lambda x: parts.b(parts.a(x).relu()),
        "default": lambda x, p=parts: p.b(p.a(x).relu()),
        "list": [lambda x: parts.b(parts.a(x).relu())],
        "itself": lambda x: net.b(net.a(x).relu()),
    }[held]
    works(net, x(), mask=False)  # `copy.deepcopy`, which masks, runs the original's modules
    family = family_of(net, (x(),))
    assert family.form == "module"
    whole, given = family.extract(family.space.largest()), x()
    before = whole(given)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.zero_()
    assert torch.equal(whole(given), before)
