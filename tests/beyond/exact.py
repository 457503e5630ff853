"Stimuli on a line and simulated neurons: worlds in which information is known exactly."
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from migvis.beyond.stimulus_information import (_check_draw, _check_levels, _Draw, _Estimate, _Gain, _Posterior,
                                                _time_of_level, integrate)

_Conditional = Callable[[Tensor, float, Tensor], Tensor]
_Encoder = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Line:
    ("Stimuli on a line and an encoder with finitely many responses: everything about them can be computed "
     "exactly.")
    x: Tensor          # (M,) evenly spaced stimuli
    prior: Tensor      # (M,) their probabilities
    likelihood: Tensor # (R, M) probability of each response to each stimulus

    def __post_init__(self) -> None:
        if self.x.ndim != 1 or self.prior.shape != self.x.shape or self.likelihood.shape[1:] != self.x.shape:
            raise ValueError(f"need x (M,), prior (M,) and likelihood (R, M), got {tuple(self.x.shape)}, "
                             f"{tuple(self.prior.shape)}, {tuple(self.likelihood.shape)}")
        for name, p in (("the prior", self.prior), ("each stimulus's likelihood", self.likelihood)):
            if not torch.allclose(p.sum(0), torch.ones((), dtype=p.dtype), atol=1e-6) or (p < 0).any():
                raise ValueError(f"{name} must be probabilities that add up to 1")

    def mutual_information(self) -> float: # nats
        "I(R; X), by summing p log p."
        joint = self.likelihood * self.prior
        outer = joint.sum(1, keepdim=True) * self.prior
        return float(torch.where(joint > 0, joint * (joint / outer).log(), 0).sum())

    def posterior(self, x_c: Tensor, c: float) -> Tensor: # (..., M)
        "p(x | x_c)."
        return (self.prior.log() - (x_c[..., None] - self.x).square() / (2 * c)).softmax(-1)

    def answers(self, x: Tensor) -> Tensor: # (..., R)
        "p(r | x) for any x, interpolated between the stimuli."
        place = ((x - self.x[0]) / (self.x[1] - self.x[0])).clamp(0, len(self.x) - 1.000001)
        left, part = place.floor().long(), place.frac()[..., None]
        return (1 - part) * self.likelihood.T[left] + part * self.likelihood.T[left + 1]


def _expected_gain(
    line: Line,
    p_x: Tensor,  # (..., M) what is known of the stimulus before the response
    law: Tensor,  # (..., R) where the response is drawn from
) -> Tensor: # (...)
    "Mean squared distance between the best guesses with and without the response."
    p_r = (p_x @ line.likelihood.T).clamp(min=1e-300)
    guess_r, guess = (p_x * line.x) @ line.likelihood.T / p_r, p_x @ line.x
    return (law * (guess_r - guess[..., None]).square()).sum(-1)


def _check_grid(line: Line, levels: Tensor) -> None:
    "Raise ValueError if a level is finer than the grid resolves."
    step, finest = float(line.x[1] - line.x[0]), math.sqrt(_check_levels(levels)[0])
    if finest < 0.7 * step:
        raise ValueError(f"the noise s.d. {finest:.3g} of the first level is finer than the grid's step "
                         f"{step:.3g}; refine the grid")


def _line_curve(
    line: Line,
    levels: Tensor,            # (K,) none finer than the grid
    draw: str = "posterior",   # where r comes from: "posterior", "estimate" or "stimulus"
    nodes: int = 32,           # of the Gauss-Hermite rule over x_c
) -> Tensor: # (M, K) integrand per unit of ln c, at every stimulus
    "Integrand of I_local(x), exact. Raises ValueError for an unknown draw, or levels finer than the grid."
    _check_grid(line, levels)
    z, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
    laws = {"posterior": lambda p_x: p_x @ line.likelihood.T, "estimate": lambda p_x: line.answers(
                p_x @ line.x), "stimulus": lambda p_x: line.answers(line.x)[:, None]}
    if draw not in laws: raise ValueError(f"draw must be one of {sorted(laws)}, got {draw!r}")
    columns = []
    for c in levels.tolist():
        p_x = line.posterior(line.x[:, None] + math.sqrt(c) * z, c)          # (M, Q, M)
        columns.append(_expected_gain(line, p_x, laws[draw](p_x)) @ (w / w.sum()) / (2 * c))
    return torch.stack(columns, 1)


def line_information(
    line: Line,
    levels: Tensor,
    draw: str = "posterior",
) -> Tensor: # (M,) nats
    "I_local(x) of every stimulus on a line."
    return integrate(_line_curve(line, levels, draw), levels).value


def _both(
    first: Line,
    second: Line, # another response to the same stimuli, independent of the first given the stimulus
) -> Line: # R1 x R2 responses
    "The two responses as one. Raises ValueError if the stimuli differ."
    if first.x.shape != second.x.shape or not torch.equal(first.x, second.x) or not torch.allclose(
        first.prior, second.prior):
        raise ValueError("the two responses are to different stimuli: x and prior must be the same")
    return Line(first.x, first.prior, (first.likelihood[:, None] * second.likelihood[None]).flatten(0, 1))


def _line_information_given(
    line: Line,
    first: Line,              # the response that is known already
    levels: Tensor,
    draw: str = "posterior",  # or "stimulus"
    nodes: int = 32,
) -> Tensor: # (M,) nats
    "I(R2; x | R1), exact: what a response adds to another one at every stimulus."
    _check_grid(line, levels)
    z, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
    columns = []
    for c in levels.tolist():
        p_x = line.posterior(line.x[:, None] + math.sqrt(c) * z, c)
        p_first = (p_x @ first.likelihood.T).clamp(min=1e-300)
        gain = 0
        for r, likelihood in enumerate(first.likelihood):
            known = p_x * likelihood / p_first[..., r, None]
            laws = {"posterior": (p_first[..., r], known @ line.likelihood.T),
                    "stimulus": (likelihood[:, None], line.answers(line.x)[:, None])}
            if draw not in laws: raise ValueError(f"draw must be one of {sorted(laws)}, got {draw!r}")
            gain = gain + laws[draw][0] * _expected_gain(line, known, laws[draw][1])
        columns.append(gain @ (w / w.sum()) / (2 * c))
    return integrate(torch.stack(columns, 1), levels).value


# responses are numbers of rows of the likelihood, (B, 1)
def _line_estimates(line: Line,) -> tuple[_Estimate, _Conditional, _Encoder, _Posterior]:
    "Exact guesses, encoder and posterior sampler of stimuli on a line, in the form that `information` takes."
    def estimate(x_c: Tensor, c: float) -> Tensor:
        return (line.posterior(x_c.double()[:, 0], c) @ line.x)[:, None].to(x_c)
    def conditional(x_c: Tensor, c: float, r: Tensor) -> Tensor:
        p_x = line.posterior(x_c.double()[:, 0], c) * line.likelihood[r[:, 0].long()]
        return ((p_x @ line.x) / p_x.sum(1).clamp(min=1e-300))[:, None].to(x_c)
    def encoder(x: Tensor, stream: torch.Generator) -> Tensor:
        return torch.multinomial(line.answers(x.double()[:, 0]), 1, generator=stream)
    def posterior(x_c: Tensor, c: float, stream: torch.Generator) -> Tensor:
        return line.x[torch.multinomial(line.posterior(x_c.double()[:, 0], c), 1, generator=stream)].to(x_c)
    return estimate, conditional, encoder, posterior


@dataclass(frozen=True)
class LNP:
    "Linear-nonlinear Poisson neurons: spike counts with mean gain * softplus(filter . x + bias)."
    filters: Tensor       # (N, H, W), on images in [-1, 1]
    bias: float = 0.0
    gain: float = 8.0     # spikes at a drive of about 1; twice the gain is twice the time of counting

    @property
    def n_units(self) -> int:
        "Number of neurons."
        return len(self.filters)

    def drive(self, x: Tensor) -> Tensor: # (B, 1, H, W) -> (B, N)
        "What the filters see."
        if x.shape[-2:] != self.filters.shape[-2:]:
            raise ValueError(f"the neurons look at images of shape {tuple(self.filters.shape[-2:])}, got "
                             f"{tuple(x.shape)}")
        return x.flatten(1) @ self.filters.flatten(1).T.to(x) + self.bias

    def rates(self, x: Tensor) -> Tensor: # (B, N)
        "Expected counts."
        return self.gain * F.softplus(self.drive(x))

    def __call__(self, x: Tensor, stream: torch.Generator) -> Tensor: # (B, N)
        "Spike counts (drawn on the CPU)."
        return torch.poisson(self.rates(x).cpu(), generator=stream).to(x)

    def fisher(self, x: Tensor) -> Tensor: # (B, H W, H W)
        "Fisher information about the pixels."
        drive, w = self.drive(x), self.filters.flatten(1).to(x)
        weight = self.gain * torch.sigmoid(drive).square() / F.softplus(drive)
        return torch.einsum("bn,nd,ne->bde", weight, w, w)


def retinotopic_population(
    size: int = 32,          # side of the images
    side: int = 7,           # neurons along one side of the lattice
    width: float = 2.0,      # standard deviation of the centre, pixels
    surround: float = 0.5,   # weight of the surround (twice as wide) against the centre
    strength: float = 4.0,   # drive of a white centre on grey, about
    bias: float = 0.0,
    gain: float = 8.0,
) -> LNP: # side^2 neurons
    "A lattice of neurons with centre-surround receptive fields."
    pixel, place = torch.arange(size).float(), (torch.arange(side).float() + .5) * size / side - .5
    def blob(width: float) -> Tensor: # (N, size, size), sums about 1
        line = (-(pixel - place[:, None]).square() / (2 * width**2)).exp() / (width * math.sqrt(2 * math.pi))
        return torch.einsum("ay,bx->abyx", line, line).flatten(0, 1)
    return LNP(strength * (blob(width) - surround * blob(2 * width)), bias, gain)


def _response_gain(estimate: _Estimate, conditional: _Conditional, draw: _Draw) -> _Gain:
    "Squared difference of the best guesses for one drawn response."
    def gain(x_c, c, index, stream):
        r = _check_draw(draw(x_c, c, index, stream), len(x_c))
        return (conditional(x_c, c, r) - estimate(x_c, c)).square()
    return gain


def _draw_from_estimate(encoder: _Encoder, estimate: _Estimate) -> _Draw:
    "r ~ p(r | xhat(x_c)), the shortcut."
    return lambda x_c, c, index, stream: encoder(estimate(x_c, c), stream)


def _draw_from_stimulus(encoder: _Encoder, x: Tensor) -> _Draw:
    "r ~ p(r | x), the variant of Kong et al."
    return lambda x_c, c, index, stream: encoder(x[index], stream)


def _draw_from_posterior(encoder: _Encoder, posterior: _Posterior) -> _Draw:
    "r ~ p(r | x_c)."
    return lambda x_c, c, index, stream: encoder(posterior(x_c, c, stream), stream)


def _denoiser_estimates(denoiser) -> tuple[_Estimate, _Conditional]:
    "The two guesses of a conditional denoiser, for images in [-1, 1]."
    def conditional(x_c, c, r):
        return x_c - math.sqrt(c) * denoiser(x_c / math.sqrt(1 + c), _time_of_level(c, denoiser.schedule), r)
    return lambda x_c, c: conditional(x_c, c, None), conditional
