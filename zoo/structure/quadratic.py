"""Densities that depend on rows only through the first and second moments of these rows.

If log p(x_i, z_i | θ) is a polynomial of degree two in row i, at every value of z_i, one of two computations replaces a pass of
the program over all rows:

- z has a finite support (a Gaussian mixture): the polynomial's coefficients at each value of z. They are found by running the
  program on a handful of rows (:mod:`zoo.structure.probe`), so the program stays the only definition of the density.
- x and z are jointly normal (probabilistic PCA): log p(x), the posterior's mean and all expectations are polynomials of degree
  two in the row as well. So any rows with the data's mean and covariance give the data's totals, and a few rows are as good as
  all rows (:meth:`Frame.rows`).

Everything is computed in float64, whatever the data's type, a chunk of rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

#: Numbers that a chunk's features may take: they are read again at once, and should still be in the cache then. Measured on
#: two cores with 1 MiB of second-level cache each: at 32 columns half and twice as many took a fifth longer.
CACHE = 2**20
#: Rows of a chunk, at most.
ROWS = 2**14
#: With so many columns for each component, rows are met by matrices: features then take longer to write down than the
#: arithmetic that they spare. Measured at 16 to 64 columns and 2 to 32 components; 64 and 8 take half as long.
WIDE = 6
#: Numbers that a chunk's products with the components' matrices may take.
PRODUCTS = 2**18


@dataclass(frozen=True)
class Moments:
    """Weighted counts, means and covariances of rows under K components, for a closed-form M-step.

    Attributes:
        count: Σ_i r_ik, (K,).
        mean: (K, D).
        covariance: about the mean, (K, D, D), divided by ``count``.
    """

    count: Tensor
    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, x: Tensor, r: Tensor) -> Moments:
        """Return the moments of rows ``x`` (rows, D) under weights ``r`` (rows, K).

        >>> Moments.of(torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([[1.0], [1.0], [0.0]])).covariance
        tensor([[[1.]]])
        """
        count = r.sum(0)
        mean = (r.T @ x) / count[:, None]
        scatter = []
        for weight, centre in zip(r.T, mean, strict=True):
            centred = x - centre
            scatter.append((weight[:, None] * centred).T @ centred)
        return cls(count, mean, torch.stack(scatter) / count[:, None, None])


def power_sums(x: Tensor, origin: Tensor) -> Tensor:
    """Return Σ_i (1, x_i − origin)(1, x_i − origin)ᵀ over rows (rows, D), (D + 1, D + 1), float64: sums of parts add up."""
    total = torch.zeros(x.shape[1] + 1, x.shape[1] + 1, dtype=torch.float64, device=x.device)
    for part in x.split(max(1, CACHE // (x.shape[1] + 1))):
        moved = part.double() - origin
        total[0, 0] += len(part)
        total[0, 1:] += moved.sum(0)
        total[1:, 1:].addmm_(moved.T, moved)
    total[1:, 0] = total[0, 1:]
    return total


@dataclass(frozen=True)
class Frame:
    """Coordinates y = A⁻¹ (x − centre) in which the data have mean zero and identity covariance.

    Polynomials are expanded there, since the terms of an expansion about another origin cancel.

    Attributes:
        count: how many rows the data have.
        centre: their mean, (D,).
        basis: A, lower triangular, (D, D).
    """

    count: int
    centre: Tensor
    basis: Tensor

    @classmethod
    def of(cls, sums: Tensor, origin: Tensor) -> Frame:
        """Return the frame of rows with these :func:`power_sums`."""
        count = float(sums[0, 0])
        mean = sums[0, 1:] / count
        covariance = sums[1:, 1:] / count - torch.outer(mean, mean)
        scale = covariance.diagonal().clamp(min=0).sqrt()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        return cls(round(count), origin + mean, scale[:, None] * _factor(covariance / torch.outer(scale, scale)))

    @cached_property
    def inverse(self) -> Tensor:
        """A⁻¹, (D, D)."""
        found: Tensor = torch.linalg.solve_triangular(self.basis, torch.eye(len(self.centre)).to(self.basis), upper=False)
        return found

    @property
    def columns(self) -> int:
        return len(self.centre)

    @property
    def size(self) -> int:
        """How many features there are: 1, the columns and their :attr:`products`."""
        return 1 + self.columns + self.products.shape[1]

    @cached_property
    def blocks(self) -> list[tuple[int, int]]:
        """Columns i to j whose products with all columns from i on are written down at once.

        Operations on one column at a time are too short to share out among threads; but of two columns in one block the product
        is there twice.
        """
        width = max(2, self.columns // 8)
        return [(i, min(i + width, self.columns)) for i in range(0, self.columns, width)]

    @cached_property
    def products(self) -> Tensor:
        """Which y_i y_j are features, in their order, (2, products): i ≤ j, and in a block of columns i > j, too."""
        all_columns = torch.arange(self.columns, device=self.basis.device)
        return torch.cat([torch.cartesian_prod(all_columns[i:j], all_columns[i:]) for i, j in self.blocks]).T

    @cached_property
    def shares(self) -> Tensor:
        """What each of the :attr:`products` takes of its coefficient, (products,): a half, if it is there twice."""
        first, other = self.products
        there = torch.zeros(self.columns, self.columns).to(self.basis)
        there[first, other] = 1.0
        return torch.where(first == other, 1.0, 1 / (there + there.T)[first, other])

    @cached_property
    def pairs(self) -> Tensor:
        """All i < j, (2, D (D − 1) / 2)."""
        return torch.triu_indices(self.columns, self.columns, 1, device=self.basis.device)

    @cached_property
    def ends(self) -> Tensor:
        """The rows whose densities and gradients tell a polynomial: centre and centre + A e_j, (1 + D, D)."""
        return torch.cat([self.centre[None], self.centre + self.basis.T])

    @cached_property
    def corners(self) -> Tensor:
        """The rows whose densities alone tell it: the :attr:`ends`, centre − A e_j and centre + A (e_i + e_j), (corners, D)."""
        along = self.basis.T
        return torch.cat([self.ends, self.centre - along, self.centre + along[self.pairs[0]] + along[self.pairs[1]]])

    def by_values(self, values: Tensor) -> Tensor:
        """Return the coefficients (…, size) of polynomials from their values (…, corners) at the :attr:`corners`."""
        constant = values[..., :1]
        plus, minus, both = values[..., 1:].split([self.columns, self.columns, self.pairs.shape[1]], -1)
        second = values.new_zeros(*values.shape[:-1], self.columns, self.columns)
        second[..., self.pairs[0], self.pairs[1]] = both - plus[..., self.pairs[0]] - plus[..., self.pairs[1]] + constant
        second.diagonal(dim1=-2, dim2=-1).copy_(0.5 * (plus + minus) - constant)
        return self._coefficients(constant, 0.5 * (plus - minus), second.triu() + second.triu(1).mT)

    def by_slopes(self, values: Tensor, slopes: Tensor) -> Tensor:
        """Return them from their values (…, 1 + D) and gradients in x (…, 1 + D, D) at the :attr:`ends`."""
        slopes = slopes @ self.basis
        second = slopes[..., 1:, :] - slopes[..., :1, :]
        second = 0.5 * (second + second.mT)
        second.diagonal(dim1=-2, dim2=-1).mul_(0.5)
        return self._coefficients(values[..., :1], slopes[..., 0, :], second)

    def _coefficients(self, constant: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Return those of constant + first · y + Σ_i≤j second_ij y_i y_j, ``second`` being symmetric."""
        products = second[..., self.products[0], self.products[1]]
        return torch.cat([constant, first, products * self.shares], -1)

    def matrices(self, coefficients: Tensor) -> Tensor:
        """Return the symmetric M, (K, 1 + D, 1 + D), of (1, y)ᵀ M (1, y) = coefficients (K, size) · features."""
        found = coefficients.new_zeros(len(coefficients), 1 + self.columns, 1 + self.columns)
        found[:, 0, : 1 + self.columns] = coefficients[:, : 1 + self.columns]
        found[:, 1 + self.products[0], 1 + self.products[1]] = coefficients[:, 1 + self.columns :]
        return 0.5 * (found + found.mT)

    def rows(self) -> Tensor:
        """Return 2 D rows with the data's mean and covariance, (2 D, D): centre ± √D A e_j."""
        spread = math.sqrt(self.columns) * self.basis.T
        return torch.cat([self.centre + spread, self.centre - spread])

    def features(self, x: Tensor, room: Tensor | None = None) -> Tensor:
        """Return 1, y_j and the :attr:`products` of rows (…, rows, D), as (…, size, rows): a view of ``room``, if given."""
        shape = (*x.shape[:-2], self.size, x.shape[-2])
        out = (x.new_empty(math.prod(shape), dtype=torch.float64) if room is None else room[: math.prod(shape)]).view(shape)
        out[..., 0, :] = 1.0
        y = out[..., 1 : 1 + self.columns, :]
        y.copy_(self.inverse.expand(*x.shape[:-2], -1, -1) @ (x.double() - self.centre).mT)
        start = 1 + self.columns
        for i, j in self.blocks:
            end = start + (j - i) * (self.columns - i)
            torch.mul(y[..., i:j, None, :], y[..., None, i:, :], out=out[..., start:end, :].unflatten(-2, (j - i, -1)))
            start = end
        return out

    def chunks(self, x: Tensor) -> Iterator[Tensor]:
        """Yield rows (rows, D) in parts (threads, rows, D) whose features stay in the cache."""
        yield from _shared_out(x, max(256, min(ROWS, CACHE // self.size)))

    def moments(self, sums: Tensor) -> Moments:
        """Return the moments, in x's own coordinates, of weighted sums of features (K, size)."""
        columns, count = self.columns, sums[:, 0]
        mean = sums[:, 1 : 1 + columns] / count[:, None]
        second = sums.new_zeros(len(sums), columns, columns)
        second[:, self.products[0], self.products[1]] = sums[:, 1 + columns :] / count[:, None]
        second = second.triu() + second.triu(1).mT
        covariance = self.basis @ (second - mean[:, :, None] * mean[:, None]) @ self.basis.T
        return Moments(count, self.centre + mean @ self.basis.T, covariance)


def _factor(correlation: Tensor) -> Tensor:
    """Return the Cholesky factor; of a singular matrix, as collinear columns have, that of one a little off: any basis will
    do for a direction in which nothing varies."""
    eye = torch.eye(len(correlation)).to(correlation)
    for ridge in (0.0, 1e-14, 1e-12, 1e-10, 1e-8):
        factor, failed = torch.linalg.cholesky_ex(correlation + ridge * eye)
        if not bool(failed) and float(factor.diagonal().min()) > 1e-7:
            break
    found: Tensor = factor
    return found


def responsibilities(frame: Frame, x: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Return Σ_i r_ik features_i, (K, size), and Σ_i log p(x_i), (): r_ik = p(z_i = k | x_i), of rows (rows, D)."""
    return (by_matrices if frame.columns >= WIDE * len(coefficients) else by_features)(frame, x, coefficients)


def by_features(frame: Frame, x: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`responsibilities` by two products with the rows' features, which all components share."""
    sums, total = coefficients.new_zeros(torch.get_num_threads(), *coefficients.shape), coefficients.new_zeros(())
    room: Tensor | None = None
    for part in frame.chunks(x):
        # One room for all parts: asking the system for fresh memory each time takes longer than filling it.
        room = coefficients.new_empty(frame.size * part[..., 0].numel()) if room is None else room
        features = frame.features(part, room)
        share, mass = _normalise(coefficients.expand(len(part), -1, -1) @ features)
        total += mass
        sums[: len(part)].baddbmm_(share, features.mT)
    return sums.sum(0), total


def by_matrices(frame: Frame, x: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`responsibilities` by two products of (1, y) with a matrix of each component.

    That is twice the arithmetic, in a small part of the memory: features of many columns fill much, and are read again.
    """
    matrices, total = frame.matrices(coefficients), coefficients.new_zeros(())
    flat, (components, width, _) = matrices.flatten(0, 1), matrices.shape
    seconds = flat.new_zeros(torch.get_num_threads(), *flat.shape)
    most = max(256, PRODUCTS // len(flat))
    rooms = flat.new_empty(len(flat) * most), flat.new_empty(width * most)
    for part in _shared_out(x, most):
        threads, rows, _ = part.shape
        products, y = (
            room[: size * threads * rows].view(threads, size, rows) for room, size in zip(rooms, flat.shape, strict=True))
        y[:, 0] = 1.0
        y[:, 1:] = frame.inverse.expand(threads, -1, -1) @ (part.double() - frame.centre).mT
        torch.bmm(flat.expand(threads, -1, -1), y, out=products)
        each = products.unflatten(1, (components, width))
        share, mass = _normalise(each.mul_(y[:, None]).sum(2))
        total += mass
        torch.mul(share[:, :, None], y[:, None], out=each)
        seconds[:threads].baddbmm_(products, y.mT)
    found = seconds.sum(0).view_as(matrices)
    return torch.cat([found[:, 0], found[:, 1 + frame.products[0], 1 + frame.products[1]]], 1), total


def _shared_out(x: Tensor, most: int) -> Iterator[Tensor]:
    """Yield rows (rows, D) in parts (threads, rows, D) of up to ``most`` rows.

    Operations on such a part give each thread the same rows, so that it reads what it wrote itself. With rows that threads met
    in turn a pass took, measured, now as long and now 2.5 times as long: as if cores at times shared no cache.
    """
    threads = torch.get_num_threads() if x.device.type == "cpu" and len(x) >= most else 1
    whole = len(x) - len(x) % threads
    for part in x[:whole].split(max(1, most // threads) * threads):
        yield part.unflatten(0, (threads, -1))
    if whole < len(x):
        yield x[None, whole:]


def _normalise(log_joint: Tensor) -> tuple[Tensor, Tensor]:
    """Return r_ik, (…, K, rows), and Σ_i log p(x_i), from log p(x_i, z_i = k), whose memory is taken."""
    most = log_joint.amax(-2, keepdim=True)
    share = log_joint.sub_(most).exp_()
    mass = share.sum(-2, keepdim=True)
    return share.div_(mass), most.add_(mass.log()).sum()
