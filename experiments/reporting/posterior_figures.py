"""Figures of a posterior's draws, by ArviZ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import ZooError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from xarray import DataTree


def forest(tree: DataTree, most: int = 24) -> Figure:
    """Medians with 50% and 94% intervals of the posterior's first ``most`` scalars of like scale, by ArviZ."""
    import arviz_plots as azp

    scalars, left_out = _of_one_scale(_scalars(tree, most))
    plot = azp.plot_forest(
        scalars, combined=True, ci_kind="eti", ci_probs=(0.5, 0.94), point_estimate="median",
        backend="matplotlib")
    more = f"; of another scale, not shown: {', '.join(left_out)}" if left_out else ""
    return _titled(_of(plot), f"posterior: median, 50% and 94% intervals{more}")


def _of_one_scale(scalars: Any, factor: float = 20.0) -> tuple[Any, list[str]]:
    """Leave out the variables that would squeeze the rest of a shared axis to points; return the rest and their names."""
    values = {str(name): variable.values for name, variable in scalars["posterior"].dataset.data_vars.items()}
    reach = {name: float(np.abs(value).max()) for name, value in values.items()}
    typical = float(np.median(list(reach.values())))
    left_out = [name for name in values if reach[name] > factor * typical]
    import arviz_base as azb

    return azb.from_dict({"posterior": {k: v for k, v in values.items() if k not in left_out}}), left_out


def pair(tree: DataTree, most: int = 4) -> Figure:
    """The posterior's first ``most`` scalars against each other, by ArviZ."""
    import arviz_plots as azp

    plot = azp.plot_pair(
        _scalars(tree, most), marginal=True, marginal_kind="kde", triangle="lower", backend="matplotlib",
        visuals={"scatter": {"alpha": 0.15}})
    return _of(plot)


def predictive_check(tree: DataTree, most: int = 6) -> Figure:
    """Observations against 50 data sets drawn from the posterior predictive, by ArviZ: a panel a column, ``most`` of them."""
    import arviz_base as azb
    import arviz_plots as azp

    if "observed_data" not in tree or "posterior_predictive" not in tree:
        raise ZooError("expected observations beside predictions of them; got none under the names of the program's sites")
    observed = _columns(tree["observed_data"].dataset, 0, most)
    predicted = _columns(tree["posterior_predictive"].dataset, 2, most)
    binary = all(bool(np.isin(value, (0, 1)).all()) for value in observed.values())
    if binary and any(value.ndim > 1 for value in tree["observed_data"].dataset.data_vars.values()):
        raise ZooError("expected one binary outcome a row for a calibration figure; got several; see the reconstructions")
    if binary:
        # Curves of zeros and ones tell nothing: show how often ones come where they are predicted with probability p.
        figure = _of(azp.plot_ppc_pava(tree, data_type="binary", backend="matplotlib"))
        return _titled(figure, "calibration: share of ones against their predicted probability")
    panels = azb.from_dict({"posterior_predictive": predicted, "observed_data": observed})
    plot = azp.plot_ppc_dist(panels, kind="kde", num_samples=50, backend="matplotlib", col_wrap=3)
    return _titled(_of(plot), "observed (black) and 50 posterior predictive data sets (blue)")


def _columns(values: Any, skip: int, most: int) -> dict[str, np.ndarray]:
    """Split a variable of a table's shape into its columns; ``skip`` dimensions come before the rows."""
    found: dict[str, np.ndarray] = {}
    for name, variable in values.data_vars.items():
        if variable.ndim - skip != 2:
            found[str(name)] = variable.values
            continue
        dim = variable.dims[-1]
        labels = variable[dim].values if dim in variable.coords else [f"{name}[{i}]" for i in range(variable.shape[-1])]
        found.update({_plain(str(label)): variable.values[..., i] for i, label in enumerate(labels)})
    return dict(list(found.items())[:most])


def _scalars(tree: DataTree, most: int) -> Any:
    """Return the posterior's first ``most`` scalars as a tree of their own, named like ``theta[Choate]``."""
    import arviz_base as azb

    flat: dict[str, np.ndarray] = {}
    posterior = tree["posterior"].dataset
    for name in sorted(posterior.data_vars, key=lambda n: posterior[n].ndim):
        variable = posterior[name]
        if variable.dtype.kind not in "f" or name == "responsibilities":
            continue
        for index in np.ndindex(*variable.shape[2:]):
            if len(flat) == most:
                break
            values = variable.values[(slice(None), slice(None), *index)]
            if np.ptp(values) > 0:  # a standard deviation may be above 0 by rounding alone
                flat[_scalar_name(str(name), variable, index)] = values
    if not flat:
        raise ZooError("expected continuous variables in the posterior for this figure; got none")
    return azb.from_dict({"posterior": flat})


def _scalar_name(name: str, variable: Any, index: tuple[int, ...]) -> str:
    """Return what an entry of a variable is called: by the labels of its dimensions, where they have any."""
    labels = [str(variable[d].values[i]) for d, i in zip(variable.dims[2:], index, strict=True) if d in variable.coords]
    return _plain(f"{name}[{', '.join(labels or map(str, index))}]" if index else name)


def _plain(name: str) -> str:
    """Return a variable's name without the slash, which trees keep for paths."""
    return name.replace("/", "∕")


def _titled(figure: Figure, title: str) -> Figure:
    figure.set_layout_engine("constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _of(plot: Any) -> Figure:
    figure: Figure = plot.viz["figure"].item()
    return figure
