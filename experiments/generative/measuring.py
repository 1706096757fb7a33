"""What is measured of nets that draw: likelihoods, and the pictures."""

import functools

import jax
import numpy as np

from experiments import data
from experiments.continual.learner import Learner
from experiments.continual.learner import Measures
from experiments.engine import autoencoder
from experiments.engine import population
from experiments.engine.autoencoder import Autoencoder
from experiments.generative.analysis import NAMES
from experiments.generative.settings import GenerativeSettings
from powerprop import trees
from powerprop.likelihood import Estimate
from powerprop.types import Params

DRAWN = 2  # pictures of each character, after each task
TENTHS = 10


def measures(
  s: GenerativeSettings, it: Autoencoder, sequence: data.Sequence
) -> Measures:
  """What `continual.learner` measures for this experiment.

  Codes and samples are the same for all members, tasks and times: what is
  unchanged has the same numbers and pictures.

  Args:
    s: checked settings.
    it: the net.
    sequence: of tasks.

  Returns:
    Functions that give, after each task, 'likelihoods', float32
    [members, T], of the test pictures of each task so far, NaN of the others,
    and 'drawn', uint8 [members, T, DRAWN, H, W], pictures of them; of methods
    that hold weights by an importance 'importance', float32 [members, TENTHS],
    see `by_size`, and 'strength', float32 [members], its sum over all kernels;
    and at the end 'log_likelihood', float32 [members, T, 2], means and standard
    errors over pictures. T is the number of the cell's own tasks.
  """
  key = jax.random.key(0)

  @functools.partial(jax.jit, static_argnames='samples')
  def likelihood(w: Params, source: data.Source, samples: int) -> Estimate:
    return autoencoder.log_marginal(
      it, w, source, 'test', key, samples, s.likelihood_pictures
    )

  latents = autoencoder.fixed_latents(it, DRAWN)
  draw = jax.jit(lambda w: autoencoder.pictures(it, w, latents))

  def of_member(
    learner: Learner, m: int, task: int, w: Params, samples: int
  ) -> tuple[float, float]:
    """The mean of a task's pictures, and its standard error."""
    source = learner.source(task)
    if learner.cell.stacked:
      tables = jax.tree.map(lambda x: x[m], source.tables)
      source = source._replace(tables=tables)
    found = jax.device_get(likelihood(w, source, samples))
    return float(found.value), float(found.error)

  def after_task(learner: Learner) -> dict[str, np.ndarray]:
    members, tasks = len(learner.cell.members), learner.cell.plan.num_tasks
    height, width, _ = sequence.dataset.image_shape
    likelihoods = np.full((members, tasks), np.nan, np.float32)
    drawn = np.zeros((members, tasks, DRAWN, height, width), np.uint8)
    for t in range(len(learner.records)):
      for m, w in enumerate(learner.nets(t)):
        likelihoods[m, t], _ = of_member(learner, m, t, w, s.matrix_samples)
        pictures = np.asarray(draw(w)).reshape(DRAWN, height, width)
        drawn[m, t] = np.round(255 * np.clip(pictures, 0, 1))
    found: dict[str, np.ndarray] = {
      'likelihoods': likelihoods,
      'drawn': drawn,
    }
    strength = getattr(learner.life.state.method, 'importance', None)
    if strength is not None:
      each = [
        by_size({name: theta[name] for name in mine}, mine)
        for theta, mine in zip(
          map(learner.theta, range(members)),
          population.unstack(learner.cell, strength),
          strict=True,
        )
      ]
      found['importance'] = np.stack([shares for shares, _ in each])
      found['strength'] = np.array([x for _, x in each], np.float32)
    return found

  def at_end(learner: Learner) -> dict[str, np.ndarray]:
    members, tasks = len(learner.cell.members), learner.cell.plan.num_tasks
    out = np.full((members, tasks, 2), np.nan, np.float32)
    for t in range(len(learner.records)):
      for m, w in enumerate(learner.nets(t)):
        learner.life.stop_if_asked()
        out[m, t] = of_member(learner, m, t, w, s.likelihood_samples)
    return {'log_likelihood': out}

  return Measures(after_task, at_end, NAMES, ' nats')


def by_size(theta: Params, importance: Params) -> tuple[np.ndarray, float]:
  """How much of the importance of all kernels weights of which size have.

  Args:
    theta: float arrays.
    importance: the same structure; synaptic intelligence has some below 0.

  Returns:
    float32 [TENTHS], shares of the sum: the first is of the tenth of the
    weights with the smallest |θ|. NaN where there is no importance. And the
    sum itself.
  """
  flat = lambda tree: np.concatenate(
    [np.ravel(x) for x in trees.weights(tree).values()]
  )
  order = np.argsort(np.abs(flat(theta)), kind='stable')
  parts = np.array_split(flat(importance)[order].astype(np.float64), TENTHS)
  sums = np.array([part.sum() for part in parts])
  whole = sums.sum()
  out = sums / whole if whole > 0 else np.full(TENTHS, np.nan)
  return out.astype(np.float32), float(whole)


def flops(
  s: GenerativeSettings, it: Autoencoder, sequence: data.Sequence, tasks: int
) -> float:
  """FLOPs of all log-likelihoods of one member.

  Args:
    s: checked settings.
    it: the net.
    sequence: of tasks.
    tasks: how many of them it learns.
  """
  # A split's pictures are walked as far as the largest task's go.
  pictures = int(counts(s, sequence).max())
  of = lambda samples: autoencoder.marginal_flops(it, pictures, samples)
  after_tasks = tasks * (tasks + 1) // 2
  return after_tasks * of(s.matrix_samples) + tasks * of(s.likelihood_samples)


def counts(s: GenerativeSettings, sequence: data.Sequence) -> np.ndarray:
  """How many test pictures of each task are measured; int [T]."""
  sizes = np.asarray(sequence.sizes['test'])
  return np.minimum(sizes, s.likelihood_pictures or sizes.max())
