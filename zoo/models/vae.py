"""Models with a network for a decoder: variational autoencoders, flow priors, and the linear one whose answers are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo.data import Data, as_rows, check_finite, check_magnitude
from zoo.errors import ZooError, chosen
from zoo.model import Model
from zoo.models.linear_gaussian import linear_log_evidence, linear_posterior, regress
from zoo.nn.likelihoods import LIKELIHOODS, Likelihood, Normal
from zoo.nn.networks import Apart, Picture, Rows, attempt, check_hidden, check_shapes, network_kind
from zoo.nn.priors import PRIORS, Mixture
from zoo.structure.learned import Form


class VAE(Model):
    """z_i ~ p(z), x_i | z_i ~ likelihood(network(z_i)): a deep latent-variable model. Each row is a unit.

    The variational autoencoder is this model with an encoder for a guide (``mean_field:encoder``): ELBO = reconstruction −
    KL(q ‖ prior). θ: the network's weights, the prior's parameters, the normal likelihood's ``scale``.

    Args:
        x: (rows, columns), or pictures: (rows, h, w), (rows, h, w, channels) or (rows, channels, h, w), each number a column.
            Sizes the model; the network starts at the columns' means, a convolutional one at their mean.
        latent: d.
        likelihood: ``bernoulli`` (0 and 1), ``normal`` (one learned scale), ``binomial`` or ``categorical`` (counts).
        prior: ``standard`` normal, ``mixture`` of normals, ``vamp`` (pseudo-inputs), or ``flow``.
        network: ``mlp``, ``conv`` (pictures, or rows of square ones), or any torch module from (units, latent) to (units,
            columns · outputs), or to pictures. The model is then ``pure`` only where the module says ``pure = True``.
        hidden: widths of the network's hidden layers; of ``conv``, its channels.
        components: of a mixture or vamp prior.
        levels: of counts: the largest there can be; 0: the largest in x.

    Raises:
        ZooError: x outside the likelihood's support, an unknown word, sizes out of range, or a network of the wrong shape.

    Source: Kingma and Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114; Rezende, Mohamed and
    Wierstra (2014), Stochastic backpropagation, https://arxiv.org/abs/1401.4082

    >>> x = (torch.rand(20, 16, dtype=torch.double) > 0.5).double()
    >>> VAE(x, latent=2).log_joint(x, torch.zeros(3, 20, 2, dtype=torch.double)).shape
    torch.Size([3, 20])
    """

    pure = True
    dims = {"z": ("latent",), "x": ("column",), "responsibilities": ("rows", "component")}
    holdout = 0.2
    train_with = "mean_field:encoder"
    learning_rate = 0.01
    #: Where the scale of a normal likelihood starts, in units of the columns' pooled standard deviation.
    noise = 1.0

    def __init__(
        self, x: Data, latent: int = 8, likelihood: str = "bernoulli", prior: str = "standard",
        network: str | nn.Module = "mlp", hidden: Sequence[int] = (200,), components: int = 10, levels: int = 0,
    ):
        super().__init__()
        x = check_rows(x, self.label, pictures=True)
        if not isinstance(latent, int) or latent < 1:
            raise ZooError(f"expected at least 1 latent dimension for {self.label}; got {latent}; raise --latent")
        self.latent = latent
        self.words = f"{likelihood}, prior={prior}"
        self.likelihood = chosen(LIKELIHOODS, likelihood, "likelihood")(x, levels).to(x)
        self.prior = chosen(PRIORS, prior, "prior")(x.flatten(1), latent, components).to(x)
        self.network = self._network(x, network, check_hidden(hidden))
        self.likelihood.narrow(self.noise)
        self.eval()

    def forward(self, x: Tensor) -> None:
        prior, network, likelihood = self.prior(), self.network, self.likelihood
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", prior)
            pyro.sample("x", likelihood(network(z)), obs=x)

    def decode(self, z: Tensor) -> Any:
        """Return p(x | z), the event a row of x, for z (…, latent)."""
        output = self.network(z.reshape(-1, self.latent))  # convolutions take one batch dimension
        return self.likelihood(output.reshape(*z.shape[:-1], -1))

    def recover(self, x: Data, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``responsibilities``, p(component = k | z), (draws, rows, K), where the prior is a mixture."""
        return {"responsibilities": self.prior.responsibilities(values["z"])} if isinstance(self.prior, Mixture) else {}

    def forms(self) -> Mapping[str, Sequence[Form]]:
        return {
            "prior.logits": (Form("prior.weights", ("component",), lambda logits: logits.softmax(-1), Tensor.log),),
            "prior.loc": (Form("prior.loc", ("component", "latent")),),
            "prior.log_scale": (Form("prior.scale", ("component", "latent"), Tensor.exp, Tensor.log),),
            "prior.pseudo_inputs": (Form("prior.pseudo_inputs", ("component", "column")),),
            "likelihood.scale": (Form("noise_sd", ()),)}

    def _network(self, x: Tensor, network: str | nn.Module, hidden: tuple[int, ...]) -> nn.Module:
        """Build the decoder, or check the one that was passed."""
        rows, outputs = x.flatten(1), self.likelihood.outputs
        if isinstance(network, str):
            module = network_kind(network).decoder(self.latent, x.shape[1:], outputs, hidden).to(x)
            start_at_level(module, self.likelihood, rows)
            return module
        if not isinstance(network, nn.Module):
            raise ZooError(
                f"expected a network of {self.label} to be a name or a torch module; got {type(network).__name__}; pass one")
        two = torch.linspace(-1, 1, 2 * self.latent).reshape(2, -1).to(x)
        answer = attempt(network.to(x), two)
        self.pure = bool(getattr(network, "pure", False))
        if isinstance(answer, Tensor) and answer.ndim > 2:
            network = Rows(network)
        check_shapes(network, two, rows.shape[1] * outputs, f"a network of {self.label}")
        return Apart(network) if isinstance(network, PyroModule) else network

    def extra_repr(self) -> str:
        return f"latent={self.latent}, likelihood={self.words}"


class FlowPrior(VAE):
    """z_i ~ flow, x_i | z_i ~ likelihood(network(z_i)): :class:`VAE` with other defaults.

    Args: as :class:`VAE`.

    Source: Chen et al. (2017), Variational lossy autoencoder, https://arxiv.org/abs/1611.02731

    >>> FlowPrior(torch.randn(20, 2, dtype=torch.double))
    FlowPrior(
      latent=2, likelihood=normal, prior=flow
      ...
    """

    #: As wide as the data, the noise explains them without any latents, and the guide collapses onto the prior: on two_moons
    #: it ends 0.6 nats per row below one that starts at a tenth.
    noise = 0.1

    def __init__(
        self, x: Data, latent: int = 2, likelihood: str = "normal", prior: str = "flow", network: str | nn.Module = "mlp",
        hidden: Sequence[int] = (64,), components: int = 10, levels: int = 0,
    ):
        super().__init__(x, latent, likelihood, prior, network, hidden, components, levels)


class LinearVAE(VAE):
    """z_i ~ N(0, I), x_i | z_i ~ N(W z_i + μ, σ² I): a VAE whose decoder is linear, which makes it PPCA.

    Its posterior and evidence are exact, so it checks the whole path that a VAE takes: encoders, minibatches, objectives,
    gradient estimators, brackets.

    Args:
        x: (rows, columns).
        latent: d.

    Source: Lucas et al. (2019), Don't blame the ELBO! A linear VAE perspective on posterior collapse,
    https://arxiv.org/abs/1911.02469

    >>> x = torch.randn(50, 6, dtype=torch.double)
    >>> LinearVAE(x).log_evidence(x).shape
    torch.Size([50])
    """

    dims = {"z": ("latent",), "x": ("column",)}
    holdout = 0.0
    quadratic = True
    train_with = ""

    def __init__(self, x: Data, latent: int = 2):
        super().__init__(check_rows(x, self.label), latent, "normal", "standard", hidden=())

    @property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        linear: Any = self.network[-1]  # type: ignore[index]
        return linear.weight, linear.bias, self.likelihood.scale.square().expand(len(linear.bias))

    def forms(self) -> Mapping[str, Sequence[Form]]:
        return {
            "network.0.weight": (Form("loadings", ("column", "latent")),), "network.0.bias": (Form("loc", ("column",)),),
            **super().forms()}

    def posterior(self, x: Data) -> dist.MultivariateNormal:
        return linear_posterior(as_rows(x), *self._parts)

    def log_evidence(self, x: Data) -> Tensor:
        return linear_log_evidence(as_rows(x), *self._parts)

    def maximise(self, x: Data, q: Distribution) -> None:
        linear, likelihood = self.network[-1], self.likelihood  # type: ignore[index]
        assert isinstance(linear, nn.Linear), "as __init__ built it"
        assert isinstance(likelihood, Normal), "as __init__ built it"
        with torch.no_grad():
            loadings, loc, residual = regress(as_rows(x), q)
            linear.weight.copy_(loadings)
            linear.bias.copy_(loc)
            likelihood.set_scale(residual.mean().sqrt())

    def confine(self) -> None:
        likelihood = self.likelihood
        assert isinstance(likelihood, Normal), "as __init__ built it"
        likelihood.set_scale(likelihood.scale.detach())


def start_at_level(decoder: nn.Module, likelihood: Likelihood, x: Tensor) -> None:
    """Start a decoder at the columns' own levels, or their mean where it has one bias for all, in the units of x."""
    last = [part for part in decoder.modules() if isinstance(part, nn.Linear | nn.ConvTranspose2d)][-1]
    assert last.bias is not None, "networks are built with biases"
    with torch.no_grad():
        level = likelihood.bias(x if isinstance(last, nn.Linear) else x.reshape(-1, 1))
        last.bias.copy_(level.repeat(len(last.bias) // len(level)))  # of pictures, the same for each channel
        last.weight.mul_(likelihood.unit)


def check_rows(x: Data, name: str, pictures: bool = False) -> Tensor:
    """Return ``x`` as floating rows, or ``pictures``; constant columns are welcome, as images have them."""
    rows = as_rows(x)
    if pictures and rows.ndim > 2:
        Picture.of(rows.shape[1:])  # raises
    if (rows.ndim != 2 and not pictures) or rows.ndim < 2 or not rows.is_floating_point() or len(rows) < 2:
        raise ZooError(
            f"expected a floating tensor of shape (rows, columns), 2 rows or more, for {name}; got {rows.dtype} of shape "
            f"{tuple(rows.shape)}; flatten images to rows")
    check_finite(rows)
    check_magnitude(rows, name)
    return rows
