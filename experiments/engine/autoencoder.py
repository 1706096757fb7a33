r"""Pictures without labels as a `Problem`: a variational autoencoder.

Each task has an encoder and the first layers of the decoder, its head, for
itself; the rest of the decoder is shared. The bound on log p(x), in nats, is

.. math::
  \mathrm{ELBO}(x) = E_{q(z|x)}[\log p(x|z)] - KL(q(z|x) ‖ N(0, I))

where p(x|z) is a Bernoulli distribution of each pixel. Pixels are numbers in
[0, 1] and not binarised, so log p(x|z) = Σ x log p + (1 − x) log(1 − p).

Reference: Nguyen et al., Variational continual learning, ICLR 2018, section 6.2
  and its public code, for the sizes, the likelihood and the first weights.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments import data
from experiments.data import Examples
from experiments.engine import classification
from experiments.engine import validation
from powerprop import costs
from powerprop import likelihood
from powerprop import trees
from powerprop.types import Params, Problem, Score, Where

LABELS = ('true', 'sampled')  # of which pictures a likelihood is asked for
NO_LABELS = (
  "'true' or 'sampled' for an autoencoder: a picture has no label that would be"
  ' the most likely'
)
_EVALUATION_BATCH = 2_000
_SCORED_WITH = 0  # the key of what scores draw: always the same
_DRAWN = 16  # pictures, of latents that stay the same, in a fingerprint
_ROUNDING = 1e-6


class Autoencoder(NamedTuple):
  """What pictures are learned, by which net; the defaults are the paper's.

  A source is a `data.Source` and a batch `data.Examples`, whose labels play no
  part.

  Attributes:
    sequence: of tasks; its mean and std are not used.
    encoder: widths of the hidden layers from pixels to the latents. The
      authors' public code has three of 500.
    latent: number of latents.
    head: widths of the layers of the decoder that each task has for itself.
    decoder: widths of the shared hidden layers before the pixels.
  """

  sequence: data.Sequence
  encoder: tuple[int, ...] = (500, 500)
  latent: int = 50
  head: tuple[int, ...] = (500, 500)
  decoder: tuple[int, ...] = (500,)

  @property
  def pixels(self) -> int:
    """Of a picture, its channels among them."""
    height, width, channels = self.sequence.dataset.image_shape
    return height * width * channels


class Bound(NamedTuple):
  """Of every example, in nats, [B].

  Attributes:
    fit: log p(x|z), of one z.
    divergence: KL(q(z|x) ‖ N(0, I)) ≥ 0.
  """

  fit: jax.Array
  divergence: jax.Array

  @property
  def elbo(self) -> jax.Array:
    """An unbiased estimate of the bound."""
    return self.fit - self.divergence


def autoencoder(it: Autoencoder) -> Problem:
  r"""Minus the ELBO as the loss, one draw of z for an example in each step.

  The score is the mean ELBO of a split, in nats per picture, with the same
  draws at every call. It is negative, and γ times it would be a better score.
  What γ of it means is ours to say: as much as the score's own size may be lost
  as of a positive one,

  .. math::
    \text{least}(s, γ) = s - (1 - γ) |s|

  which is γ s where s > 0, as for an accuracy, and (2 − γ) s where s < 0: of
  −100 nats γ = 0.9 lets 10 go. It goes with the unit, unlike a number of nats,
  and γ = 1 lets nothing go.

  Args:
    it: what is learned.

  Returns:
    A problem. Its private leaves are those of the encoder and the head.

  Raises:
    ConfigError: if a width is no whole number above 0, or pixels are outside
      [0, 1].
  """
  check(it)
  of = lambda fn: functools.partial(fn, it)
  shapes, _ = jax.eval_shape(of(init), jax.random.key(0))
  return Problem(
    init=of(init),
    task=lambda source: source.task,
    size=of(size),
    batch=lambda source, split, rows: data.examples(
      it.sequence, source, split, rows
    ),
    augment=None,
    loss=of(loss),
    score=of(score),
    least=lambda elbo, gamma: elbo - (1 - gamma) * jnp.abs(elbo),
    log_likelihood=of(log_likelihood),
    outputs=of(outputs),
    flops=of(flops),
    private=private_paths(shapes),
  )


def check(it: Autoencoder) -> None:
  """Raises ConfigError for a wrong width, and for pixels outside [0, 1]."""
  for name in ('encoder', 'head', 'decoder'):
    for width in getattr(it, name):
      _check_width(name, width)
  _check_width('latent', it.latent)
  dataset = it.sequence.dataset
  for name in data.SPLITS:
    image = getattr(dataset, name).image
    low = float(image.min()) * dataset.scale
    high = float(image.max()) * dataset.scale
    validation.require(
      low >= 0 and high <= 1 + _ROUNDING,
      'scale',
      f'{dataset.scale:g}, by which the {name} pixels of {dataset.name} are'
      f' between {low:g} and {high:g},',
      'one that takes them to [0, 1], of which the likelihood of a pixel is'
      f' (such as {1 / max(float(image.max()), 1):.4g})',
    )


def _check_width(name: str, width: Any) -> None:
  ok = isinstance(width, int) and not isinstance(width, bool) and width > 0
  validation.require(ok, name, repr(width), 'of whole numbers above 0')


def private_paths(shapes: Params) -> tuple[str, ...]:
  """Which leaves are those of the encoder and the head."""
  return tuple(
    path
    for path in trees.weights(shapes, lambda *_: True)
    if path.startswith(('encoder_', 'head_'))
  )


def under_psi(powerprop_on: str) -> Where:
  """Which leaves live under Ψ.

  Args:
    powerprop_on: 'shared', the weights that methods govern, or 'all', those of
      encoder and head as well.

  Returns:
    A function of (path, leaf); biases are under no Ψ.

  Raises:
    ConfigError: if it is neither.
  """
  validation.require(
    powerprop_on in ('shared', 'all'),
    'powerprop_on',
    repr(powerprop_on),
    "'shared' or 'all'",
  )
  if powerprop_on == 'all':
    return trees.is_weight
  return lambda path, x: (
    trees.is_weight(path, x) and not path.startswith(('encoder_', 'head_'))
  )


def init(it: Autoencoder, key: jax.Array) -> tuple[Params, Any]:
  """θ, and no state: weights uniform by Glorot and Bengio's law, biases 0."""
  layers = {
    'encoder': (it.pixels, *it.encoder, 2 * it.latent),
    'head': (it.latent, *it.head),
    'shared': ((it.latent, *it.head)[-1], *it.decoder, it.pixels),
  }
  draw = jax.nn.initializers.glorot_uniform()
  theta: dict[str, dict[str, jax.Array]] = {}
  for name, widths in layers.items():
    for i, shape in enumerate(zip(widths, widths[1:], strict=False)):
      weights = draw(jax.random.fold_in(key, len(theta)), shape, jnp.float32)
      bias = jnp.zeros(shape[1], jnp.float32)
      theta[f'{name}_{i}'] = {'w': weights, 'b': bias}
  return theta, {}


def _layers(w: Params, name: str, number: int, x: jax.Array) -> jax.Array:
  """So many layers, and ReLU between them."""
  for i in range(number):
    layer = w[f'{name}_{i}']
    x = (x if i == 0 else jax.nn.relu(x)) @ layer['w'] + layer['b']
  return x


def pixels_of(it: Autoencoder, batch: Examples) -> jax.Array:
  """The pictures as numbers in [0, 1], float32 [B, pixels]."""
  image = data.normalise(batch.image, it.sequence.dataset.scale)
  return image.reshape(len(image), -1)


def posterior(
  it: Autoencoder, w: Params, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Mean and log σ of q(z|x), [..., latent], of pixels [..., pixels]."""
  found = _layers(w, 'encoder', len(it.encoder) + 1, x)
  mean, log_std = jnp.split(found, 2, -1)
  return mean, log_std


def decode(it: Autoencoder, w: Params, z: jax.Array) -> jax.Array:
  """Logits [..., pixels] of pictures, from latents [..., latent]."""
  x = z
  if it.head:
    x = jax.nn.relu(_layers(w, 'head', len(it.head), z))
  return trees.wide(_layers(w, 'shared', len(it.decoder) + 1, x))


def log_p(logits: jax.Array, x: jax.Array) -> jax.Array:
  """log p(x|z) in nats, summed over the last axis."""
  return -jnp.sum(optax.sigmoid_binary_cross_entropy(logits, x), -1)


def bound(it: Autoencoder, w: Params, x: jax.Array, key: jax.Array) -> Bound:
  """The ELBO of pictures, [B, pixels], with one draw of z for each."""
  mean, log_std = posterior(it, w, x)
  z = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype)
  divergence = 0.5 * (mean**2 + jnp.expm1(2 * log_std)) - log_std
  return Bound(log_p(decode(it, w, z), x), jnp.sum(divergence, -1))


def loss(
  it: Autoencoder, w: Params, net_state: Any, key: jax.Array, batch: Examples
) -> tuple[jax.Array, Any]:
  """Minus the mean ELBO, in nats per picture."""
  return -jnp.mean(bound(it, w, pixels_of(it, batch), key).elbo), net_state


def log_likelihood(
  it: Autoencoder,
  w: Params,
  net_state: Any,
  batch: Examples,
  key: jax.Array,
  targets: str,
) -> jax.Array:
  """The mean ELBO, which stands for the log-likelihood; see `Problem`.

  Args:
    it: what is learned.
    w: weights.
    net_state: {}.
    batch: of pictures.
    key: of z, and of pictures that are drawn.
    targets: 'true' is of the batch's pictures, 'sampled' of as many that the
      net draws: z from the prior and pixels, 0 or 1, from p(x|z).

  Returns:
    A scalar, in nats.

  Raises:
    ConfigError: for 'argmax'.
  """
  del net_state
  validation.require(targets in LABELS, 'labels', repr(targets), NO_LABELS)
  x = pixels_of(it, batch)
  if targets == 'sampled':
    latent_key, pixel_key = jax.random.split(jax.random.fold_in(key, 1))
    z = jax.random.normal(latent_key, (len(x), it.latent))
    p = jax.nn.sigmoid(decode(it, w, z))
    drawn = jax.random.bernoulli(pixel_key, p).astype(x.dtype)
    x = jax.lax.stop_gradient(drawn)
  return jnp.mean(bound(it, w, x, key).elbo)


def outputs(
  it: Autoencoder, w: Params, net_state: Any, batch: Examples
) -> tuple[jax.Array, jax.Array]:
  """The decoder's logits at the posterior's mean; [B, pixels] both."""
  del net_state
  mean, _ = posterior(it, w, pixels_of(it, batch))
  found = decode(it, w, mean)
  return found, jnp.ones(found.shape, bool)


def flops(it: Autoencoder, w: Params, net_state: Any) -> dict[str, float]:
  """FLOPs of one picture through encoder and decoder, by path."""
  del net_state
  x = jax.ShapeDtypeStruct((1, it.pixels), jnp.float32)
  through = lambda w, x: decode(it, w, posterior(it, w, x)[0])
  return costs.flops(through, w, x)


def size(it: Autoencoder, source: data.Source, split: str) -> jax.Array:
  """How many pictures a task has."""
  return jnp.asarray(it.sequence.sizes[split], jnp.int32)[source.task]


def score(
  it: Autoencoder, w: Params, net_state: Any, source: data.Source, split: str
) -> Score:
  """The mean ELBO of a split, and a hash of what the decoder draws.

  What is drawn is of latents that are the same at every call, so that equal
  fingerprints are pictures that are equal to the bit.
  """
  del net_state
  most, count = int(it.sequence.sizes[split].max()), size(it, source, split)
  batches = -(-most // _EVALUATION_BATCH)
  rows = -(-most // batches)
  key = jax.random.key(_SCORED_WITH)

  def one(i):
    index = i * rows + jnp.arange(rows, dtype=jnp.int32)
    batch = data.examples(
      it.sequence, source, split, jnp.minimum(index, most - 1)
    )
    x = pixels_of(it, batch)
    elbo = bound(it, w, x, jax.random.fold_in(key, i)).elbo
    return jnp.sum(jnp.where(index < count, elbo, 0))

  total = jax.lax.map(one, jnp.arange(batches, dtype=jnp.int32))
  value = jnp.sum(total) / count
  found = decode(it, w, fixed_latents(it, _DRAWN))
  index = jnp.arange(_DRAWN, dtype=jnp.int32)
  return Score(
    value,
    -value,
    classification.fingerprint(found, index, jnp.ones(_DRAWN, bool)),
  )


def fixed_latents(it: Autoencoder, number: int) -> jax.Array:
  """So many draws of the prior, the same at every call."""
  key = jax.random.fold_in(jax.random.key(_SCORED_WITH), 1 << 30)
  draw = lambda i: jax.random.normal(jax.random.fold_in(key, i), (it.latent,))
  return jax.vmap(draw)(jnp.arange(number))


def pictures(it: Autoencoder, w: Params, z: jax.Array) -> jax.Array:
  """What the decoder draws: the mean of p(x|z), [n, H, W, C] in [0, 1]."""
  found = jax.nn.sigmoid(decode(it, w, z))
  return found.reshape(len(z), *it.sequence.dataset.image_shape)


def proposal(it: Autoencoder, w: Params) -> likelihood.Proposal:
  """The model, of one picture as pixels, with q(z|x) of its encoder."""

  def log_normal(noise):
    return -0.5 * jnp.sum(noise**2 + jnp.log(2 * jnp.pi))

  def sample(known, key):
    mean, log_std = known
    noise = jax.random.normal(key, mean.shape)
    z = mean + jnp.exp(log_std) * noise
    return z, log_normal(noise) - jnp.sum(log_std)

  widths = (it.latent, *it.head, *it.decoder, it.pixels)
  return likelihood.Proposal(
    encode=lambda x: posterior(it, w, x),
    sample=sample,
    log_joint=lambda x, z: log_normal(z) + log_p(decode(it, w, z), x),
    floats=2 * sum(widths),
  )


def log_marginal(
  it: Autoencoder,
  w: Params,
  source: data.Source,
  split: str,
  key: jax.Array,
  samples: int = 5_000,
  number: int = 0,
) -> likelihood.Estimate:
  """log p(x) of a task's pictures; see `likelihood.importance_weighted`.

  Args:
    it: what is learned.
    w: weights of the task's net.
    source: of the task.
    split: of the sequence.
    key: a random key.
    samples: K ≥ 1 draws of z for each picture; 5,000 is the protocol's.
    number: of pictures, the first of the split; 0 is all.

  Returns:
    An estimate, in nats per picture.
  """
  most, count = int(it.sequence.sizes[split].max()), size(it, source, split)
  if number:
    most, count = min(number, most), jnp.minimum(number, count)
  take = lambda rows: pixels_of(
    it, data.examples(it.sequence, source, split, rows)
  )
  of_task = jax.random.fold_in(key, source.task)
  return likelihood.importance_weighted(
    proposal(it, w), take, most, count, of_task, samples
  )


def marginal_flops(it: Autoencoder, number: int, samples: int) -> float:
  """FLOPs of `log_marginal` of so many pictures: K decoders, one encoder."""
  shapes, _ = jax.eval_shape(functools.partial(init, it), jax.random.key(0))
  layers = flops(it, shapes, {})
  encoder = sum(x for n, x in layers.items() if n.startswith('encoder_'))
  return number * (encoder + samples * (sum(layers.values()) - encoder))
