"""A fitted guide in two files: its tensors, and what rebuilds it. It is loaded without the data that it was fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from experiments.fits.journal import read, write
from experiments.fits.result import Fit
from experiments.fits.state import State, check_finite, fitting
from guides.construct import build
from guides.guide import BaseGuide
from guides.pyro_guide.guide import as_guide
from zoo.bare import as_model, given
from zoo.data import Data, tensors
from zoo.errors import ZooError
from zoo.model import Model

if TYPE_CHECKING:
    from zoo.program.run import Program

SUFFIX = ".safetensors"


def export(done: Fit, path: str | Path) -> Path:
    """Write a fit's guide, and θ, to ``path``, which ends in .safetensors, and beside it a JSON file of what rebuilds it.

    The JSON names the guide, the model, the data's entries with their types and shapes (no values), how the fit went, and the
    checksum of the tensors. Nothing in either file can be executed.

    Raises:
        ZooError: another ending, or what the disk refuses.
    """
    stem = _stem(Path(path))
    x = done.guide.fitted
    data = {} if x is None else {name: [str(value.dtype), *value.shape] for name, value in tensors(x).items()}
    parts = {**State.prefixed("model", done.model.state_dict()), **State.prefixed("guide", done.guide.state_dict())}
    write(stem, State(parts, {
        "guide": done.guide.written, "text": done.guide.text, "model": repr(done.model), "data": data, "entries": [*data],
        "latents": [] if x is None else [site.name for site in done.model.latents(x).sites], "method": done.method,
        "steps": done.steps, "bound": done.bound, "objective": done.objective, "converged": done.converged,
        "stopped": done.stopped}))
    return stem.with_name(stem.name + SUFFIX)


def load_guide(path: str | Path, model: Model | Program, *x: Any, guide: Any = None, **kwargs: Any) -> BaseGuide:
    """Return the guide that was written to ``path``, for ``model``, whose parameters are set to the θ that it was fitted with.

    Args:
        path: the .safetensors file; its JSON lies beside it.
        model: the model, or the bare program: its code is in neither file.
        x: data like that the guide was fitted to: other rows for a guide that serves new units, or for latents that all rows
            share; as many units for one that has parameters for each. Or all arguments of the program.
        guide: of a Pyro guide, the guide, which can't be built from its name.
        kwargs: more arguments of the program.

    Raises:
        ZooError: files that can't be read or were altered, or parameters of other shapes.

    >>> import tempfile, zoo, experiments
    >>> x = zoo.dataset("iris").x
    >>> done = experiments.fit(zoo.build("ppca", x[:100]), "mean_field:encoder", x[:100], steps=50)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = done.export(folder + "/guide.safetensors")
    ...     again = load_guide(file, zoo.build("ppca", x[100:]), x[100:])
    >>> again.posterior(x[100:]).batch_shape
    torch.Size([50])
    """
    stem = _stem(Path(path))
    file = stem.with_name(stem.name + ".json")
    try:
        state = read(file)
    except FileNotFoundError:
        raise ZooError(f"expected {file} beside the tensors, to say what they are; got none; export the fit again") from None
    data, own = given(model, *x, **kwargs), as_model(model)
    with fitting(file):
        text, values = str(state.values["text"]), state.values
        data = _in_order(data, values["entries"])
        check_latents(own, data, values["latents"])
        written = str(values["guide"])
        if not written and guide is None:
            raise ZooError(f"expected guide=, the Pyro guide '{text}'; got none, and it can't be built from its name; pass it")
        whole = as_guide(own, guide if guide is not None else written, data)
        found = build(whole, own, data) if isinstance(whole, str) else whole
        parts = {name: state.part(name) for name in ("model", "guide")}
        check_finite(value for part in parts.values() for value in part.values() if value.is_floating_point())
        for name, module in (("model", own), ("guide", found)):  # both, before either is moved
            _check_shapes(name, module, parts[name])
        own.load_state_dict(parts["model"])
        found.load_state_dict(parts["guide"])
    found.text = text
    own.eval()
    return found.eval()


def check_latents(model: Model, x: Data, expected: Any) -> None:
    """Raise a :class:`ZooError` unless a model has the latent sites that were written down, if any were."""
    own = [site.name for site in model.latents(x).sites]
    if expected and own != expected:
        raise ZooError(
            f"expected the model that was saved, with latents {', '.join(map(str, expected))}; got {model.label} with "
            f"{', '.join(own) or 'none'}; pass that model")


def _in_order(x: Data, entries: Any) -> Data:
    """Return data with its entries in the order in which an encoder read them."""
    if not isinstance(x, Mapping) or not entries:
        return x
    missing = [name for name in entries if name not in x]
    if missing:
        raise ZooError(f"expected entries {', '.join(entries)} of the data; got none for {', '.join(missing)}; add it")
    return {**{name: x[name] for name in entries}, **x}


def _check_shapes(what: str, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise a :class:`ZooError` where a module has parameters of other names or shapes than a state."""
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    for name in {**own, **state}:
        then = tuple(state[name].shape) if name in state else "none"
        if own.get(name, "none") != then:
            raise ZooError(
                f"expected a {what} of the shapes that were saved; got {name} of shape {own.get(name, 'none')}, not {then}; "
                "pass the same model, and as many rows where each has parameters of its own")


def _stem(path: Path) -> Path:
    if path.suffix != SUFFIX:
        raise ZooError(f"expected a path that ends in {SUFFIX}; got {path}; name one")
    return path.with_suffix("")
