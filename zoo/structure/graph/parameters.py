"""The learned parameters θ of a model: their names, where they lie in memory, and what values they may have."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from zoo.structure.graph.supports import constraint_words


@dataclass(frozen=True)
class Parameter:
    """A learned parameter: its name as in :meth:`zoo.Model.theta`, the tensor that is learned, its shape and support."""

    name: str
    tensor: Tensor
    shape: tuple[int, ...]
    support: str


def parameters(model: nn.Module, theta: dict[str, Tensor]) -> list[Parameter]:
    """Return a model's parameters in the order of its modules; ``theta`` are the constrained ones by name.

    >>> model = nn.Linear(2, 1)
    >>> [(p.name, p.shape, p.support) for p in parameters(model, dict(model.named_parameters()))]
    [('weight', (1, 2), 'real'), ('bias', (1,), 'real')]
    """
    found = []
    bare = model.__dict__.get("param_constraints", {})
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        kinds = getattr(module, "_pyro_params", {})
        for raw, tensor in module.named_parameters(recurse=False):
            if prefix == "params" and raw in bare:  # the pyro.param statements of a bare program
                name, constraint = raw.replace("/", "."), bare[raw]
            else:
                base = raw.removesuffix("_unconstrained")
                name, constraint = (dot + base, kinds[base][0]) if base in kinds else (dot + raw, None)
            support = "real" if constraint is None else constraint_words(constraint)
            found.append(Parameter(name, tensor, tuple(theta[name].shape), support))
    return found
