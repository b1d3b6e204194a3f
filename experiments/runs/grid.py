"""Specs in TOML files, and grids of them: a list where one value belongs stands for a run of each."""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import tomli_w

from experiments.reporting.record import OURS
from experiments.runs.spec import MOST_RUNS, Spec, complete, keys
from experiments.runtime.sealed import check_inside
from experiments.runtime.toml import read_toml
from zoo.errors import ZooError, nearest
from zoo.registry import MODELS

FORMAT = 1
#: Ready specs, one a model.
READY = Path(__file__).parent / "specs"

Axes: TypeAlias = dict[tuple[str, ...], list[Any]]


@dataclass(frozen=True)
class Grid:
    """The runs of a spec file: one, or one for each combination of the values that its lists offer.

    Attributes:
        specs: the specs by name. A name lists the values in which a run differs from the others, e.g. ``latent=2,seed=0``; the
            name of a single run is empty.
        record: the provenance of a finished run; empty in a spec that a person wrote.
    """

    specs: Mapping[str, Spec]
    record: Mapping[str, Any]

    @property
    def single(self) -> bool:
        return list(self.specs) == [""]


def read_grid(path: Path) -> Grid:
    """Read a spec file, check every run that it stands for, and return them.

    Raises:
        ZooError: a file that can't be read, or the first wrong key: its path in the file, the value, what was expected.
    """
    raw = read_toml(path)
    record = raw.pop("record", {})
    version = raw.pop("format", FORMAT)
    if version != FORMAT:
        raise ZooError(f"expected a spec of format {FORMAT} in {path}; got {version!r}; write it anew")
    if not isinstance(record, dict):
        raise ZooError(f"{path}: record: expected a table; got {record!r}; remove it")
    try:
        return Grid({name: complete("", **one) for name, one in expand(raw)}, record)
    except ZooError as error:
        raise ZooError(f"{path}: {error}") from None


def find(name: str) -> Path:
    """Return the path of a spec file, or of the ready one of that name.

    Raises:
        ZooError: if there is neither.

    >>> find("gmm").name
    'gmm.toml'
    """
    path, ready = Path(name), READY / f"{name}.toml"
    if path.is_dir() and (path / "spec.toml").exists():
        return path / "spec.toml"
    if path.exists() or not ready.exists():
        known = [p.stem for p in sorted(READY.glob("*.toml"))]
        if not path.exists():
            hint = nearest(name, known) or "; check the path"
            raise ZooError(f"expected a spec file, or one of {', '.join(known)}; got '{name}'{hint}")
        return path
    return ready


def spec_of(path: Path) -> Spec:
    """Return the spec of the run in ``path``.

    Raises:
        ZooError: if there is none, or one of a grid; something in the directory leads out of it.
    """
    if not (path / "spec.toml").exists():
        raise ZooError(f"expected a run's directory, with a spec.toml; got {path}; 'zoo runs' lists those there are")
    check_inside(path, OURS)
    found = read_grid(path / "spec.toml")
    if not found.single:
        raise ZooError(f"expected one run in {path}; got a spec of {len(found.specs)}; 'zoo run {path}' runs them")
    return found.specs[""]


def write_toml(spec: Spec, record: Mapping[str, Any] | None = None) -> str:
    """Return a spec as TOML, every key with its value; those that are left to the method are left out."""
    plain = {key: value for key, value in spec.plain().items() if key != "options"}
    table = {"format": FORMAT, **plain, "options": _plain(spec.options)}
    return tomli_w.dumps({**table, "record": _plain(record)} if record else table)


def read_spec(text: str) -> Spec:
    """Return the spec of one run that :func:`write_toml` wrote.

    Raises:
        ZooError: if it is none.
    """
    raw: dict[str, Any] = tomllib.loads(text)
    raw.pop("format")
    ((_, given),) = expand(raw)
    return complete("", **given)


def expand(raw: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the keys of each run that ``raw`` stands for.

    Lists make runs where a key takes one value: ``seeds = [0, 1, 2]``, ``latent = [2, 8]`` under ``options``, and ``guides``
    of a spec that fits one at a time. A list where a list belongs is a value: ``hidden = [400, 200]``; a list of lists makes
    runs.

    Raises:
        ZooError: an empty list, or too many runs.

    >>> [name for name, _ in expand({"model": "ppca", "seeds": [0, 1], "options": {"latent": [2, 8]}})]
    ['seed=0,latent=2', 'seed=0,latent=8', 'seed=1,latent=2', 'seed=1,latent=8']
    """
    axes = _axes(raw)
    for path, values in axes.items():
        if not values:
            raise ZooError(f"{'.'.join(path)}: expected a value or more; got an empty list; leave the key out for its default")
    count = math.prod(len(values) for values in axes.values())
    if count > MOST_RUNS:
        raise ZooError(f"expected a grid of up to {MOST_RUNS} runs; got {count}; shorten its lists")
    options = raw.get("options")
    for combination in itertools.product(*axes.values()):
        one = dict(raw)
        if isinstance(options, Mapping):
            one["options"] = {key: _tuple(value) for key, value in options.items()}
        for path, value in zip(axes, combination, strict=True):
            _set(one, path, _tuple(value))
        yield ",".join(f"{_axis(path)}={_text(v)}" for path, v in zip(axes, combination, strict=True)), one


def _axes(raw: Mapping[str, Any]) -> Axes:
    """Return the lists that make runs, by their path in the file."""
    return {**_key_axes(raw), **_option_axes(raw)}


def _key_axes(raw: Mapping[str, Any]) -> Axes:
    """Return the lists of a spec's own keys that make runs: those of ``guides`` where guides are fitted one at a time."""
    axes: Axes = {}
    for key, value in raw.items():
        if not isinstance(value, list):
            continue
        if key == "guides":
            if raw.get("command") == "fit" and len(value) > 1:
                axes[key,] = [[guide] for guide in value]
        elif key == "seeds" or key in keys():
            axes[key,] = value
    return axes


def _option_axes(raw: Mapping[str, Any]) -> Axes:
    """Return the lists of the model's options that make runs: of options that take one value, and lists of lists."""
    axes: Axes = {}
    options = raw.get("options")
    for key, value in options.items() if isinstance(options, Mapping) else ():
        if isinstance(value, list) and (not _takes_list(raw, key) or (value and all(isinstance(v, list) for v in value))):
            axes["options", key] = value
    return axes


def _takes_list(raw: Mapping[str, Any], option: str) -> bool:
    """Whether an option of the model takes a list itself."""
    from zoo.construct import options

    model = raw.get("model")
    if not isinstance(model, str) or model not in MODELS:
        return False
    known = options(model).get(option)
    return known is not None and isinstance(known.default, tuple)


def _set(one: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    if path == ("seeds",):
        one.pop("seeds")
        one["seed"] = value
    elif len(path) == 1:
        one[path[0]] = value
    else:
        one["options"][path[1]] = value


def _axis(path: tuple[str, ...]) -> str:
    return {"seeds": "seed", "guides": "guide"}.get(path[-1], path[-1])


def _text(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """Return ``value`` as TOML can hold it: no tuples, nothing where there is nothing."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
