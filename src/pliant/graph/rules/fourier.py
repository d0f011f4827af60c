"""Fourier transforms: along the transformed dimensions the order of the units counts, the others pass on."""

from __future__ import annotations

from ..trace import Call, Tracer

_ORDER = ("order", "a Fourier transform runs over it")
_LAST = {"fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_hfft", "fft_ihfft"}
_LAST_TWO = {"fft_fft2", "fft_ifft2", "fft_rfft2", "fft_irfft2"}
_ANY = {"fft_fftn", "fft_ifftn", "fft_rfftn", "fft_irfftn", "fft_fftshift", "fft_ifftshift"}


def transform(t: Tracer, call: Call) -> None:
    """`fft_fft(x, n, dim)` and its kin over one, two or all dimensions."""
    x, asked = t.of(call.first), call.get("dim")
    lengths = call.get("s")
    if asked is None:
        dims = list(range(len(x) - len(lengths), len(x))) if lengths else list(range(len(x)))
    else:
        dims = [asked] if isinstance(asked, int) else list(asked)
    for i in dims:
        t.freeze(x[i], *_ORDER, call.node)
        x[i] = t.fixed([call.out.shape[i]], *_ORDER, call.node)[0]
    t.set(call, x)


RULES = dict.fromkeys((*_LAST, *_LAST_TWO, *_ANY), transform)
SIZES = {}  # type: ignore[var-annotated]
