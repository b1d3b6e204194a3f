"""A fitted guide in two files: its tensors, and what rebuilds it. It is loaded without the data that it was fitted to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.fits.journal import State, check_finite, fitting, read, write
from experiments.fits.result import Fit
from guides.construct import build
from guides.guide import BaseGuide
from guides.pyro_guide.guide import as_guide
from zoo.bare import as_model, given
from zoo.data import tensors
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
        "guide": done.guide.written, "text": done.guide.text, "model": repr(done.model), "data": data, "method": done.method,
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
        written = str(values["guide"])
        if not written and guide is None:
            raise ZooError(f"expected guide=, the Pyro guide '{text}'; got none, and it can't be built from its name; pass it")
        whole = as_guide(own, guide if guide is not None else written, data)
        found = build(whole, own, data) if isinstance(whole, str) else whole
        own.load_state_dict(state.part("model"))
        found.load_state_dict(state.part("guide"))
        check_finite([*own.parameters(), *found.parameters()])
    found.text = text
    own.eval()
    return found.eval()


def _stem(path: Path) -> Path:
    if path.suffix != SUFFIX:
        raise ZooError(f"expected a path that ends in {SUFFIX}; got {path}; name one")
    return path.with_suffix("")
