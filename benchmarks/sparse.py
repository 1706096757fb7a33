"""Sparse training: steps against dense steps, mask updates, bytes of masks."""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import selection
from benchmarks import timing
from benchmarks import training
from experiments.engine import classification
from experiments.engine import estimates
from experiments.engine import making
from experiments.engine import networks
from experiments.engine import population
from powerprop import methods
from powerprop import train
from powerprop import trees
from powerprop.psi import Psi
from powerprop.types import Hyper

_EVERY = 100
_NAMES = (
  'fine_tune',
  'lottery',
  'static',
  'snip',
  'iterative',
  'set',
  'rigl',
  'snfs',
  'dsr',
  'top_kast',
  'ac_dc',
)


def _shapes(net: hk.TransformedWithState, shape: tuple[int, ...]) -> Any:
  image = jnp.zeros((1, *shape))
  return jax.eval_shape(
    lambda: net.init(jax.random.key(0), image, is_training=True)
  )[0]


class Net(NamedTuple):
  """A net to be timed, with the pictures that it sees.

  Attributes:
    name: of it.
    net: that is trained.
    shape: (H, W, C) of its pictures.
    batch: pictures a step.
    alphas: > 1, of dense trainings under Powerprop that are timed as well.
  """

  name: str
  net: hk.TransformedWithState
  shape: tuple[int, ...]
  batch: int = 60
  alphas: tuple[float, ...] = ()


LENET = Net('LeNet-300-100', networks.mlp(10), (28, 28, 1))
CONV = Net('small_conv', networks.small_conv(10), (32, 32, 3))


def method_step(
  say: timing.Say,
  num_train: int = 10_000,
  steps: int = 200,
  rounds: int = 10,
  names: Sequence[str] = _NAMES,
  net: Net = LENET,
) -> timing.Table:
  """Each method's step against the dense one, over two periods of its masks.

  Args:
    say: told what is going on.
    num_train: size of the made-up data set.
    steps: of a scan.
    rounds: see `timing.compare`.
    names: of the methods.
    net: of all of them.

  Returns:
    One row per method; Top-KAST also with masks refreshed at each step.
  """
  split = training.make_split(num_train, net.shape)
  shapes = _shapes(net.net, net.shape)
  recipe = train.Recipe(
    problem=classification.classification(
      classification.Pictures(net.net, net.shape, 1 / 255)
    ),
    optimizer=functools.partial(optax.sgd, momentum=0.9),
    batch_size=net.batch,
    num_train=num_train,
    epsilon=0.01,
    # Any numbers: only the counting takes time.
    layer_flops=dict.fromkeys(trees.weights(shapes), 1.0),
  )
  target = methods.make_target(shapes, 0.1, 'erk')
  last = 10 * max(steps, _EVERY)
  brief = methods.Brief(target, last)
  # Something happens in every period: the windows are the whole training.
  period = {'begin': 0, 'end': last - 1, 'every': _EVERY}
  options: dict[str, dict[str, Any]] = {
    **dict.fromkeys(('iterative', 'set', 'rigl', 'snfs', 'dsr'), period),
    'ac_dc': {**period, 'begin': 1},
    'top_kast': {'every': _EVERY},
  }
  chosen = {n: getattr(methods, n)(brief, **options.get(n, {})) for n in names}
  if 'top_kast' in names:
    chosen['top_kast, each step'] = methods.top_kast(brief, every=1)

  def compiled(method, alpha=1.0):
    hyper = Hyper(np.int32(0), np.float32(alpha), np.float32(1e-3))
    one = train.make_training(recipe, Psi(alpha), method)
    state = jax.jit(one.init)(hyper, split)
    chunk = jax.jit(one.chunk, static_argnums=4)
    # From step 1: at step 0 masks may change, as once in a period.
    run = chunk.lower(state, hyper, split, 1, steps).compile()
    return lambda: run(state, hyper, split, 1)[1]

  programs = {'dense': compiled(methods.dense())}
  limit: dict[str, float | None] = {'dense': None, 'top_kast, each step': 1.15}
  for alpha in net.alphas:
    name = f'dense, α = {alpha:g}'
    programs[name], limit[name] = compiled(methods.dense(), alpha), 1.03
  for name, method in chosen.items():
    say(f'compiling {name}')
    programs[name] = compiled(method)
  times = timing.compare(programs, 'dense', rounds, say)
  return timing.Table(
    f'A sparse step against the dense step, {net.name}',
    (
      f'α = 1, batch {net.batch}, SGD with momentum, {steps} steps per scan,'
      f' masks change every {_EVERY} steps'
      f' ({"their time is in it" if steps >= _EVERY else "in none of these"}),'
      f' ERK at 90% sparsity, {rounds} rounds. The limit of 1.15 is meant for a'
      ' GPU.',
    ),
    [
      {
        'method': name,
        'steps/s': steps / t.seconds,
        **timing.ratio_cells(t, limit.get(name, 1.05)),
      }
      for name, t in times.items()
    ],
  )


def resnet50(say: timing.Say, size: Any = None) -> timing.Table:
  """Steps of ResNet-50 by method, and how much of the device they use.

  Args:
    say: told what is going on.
    size: net, training pictures, steps of a scan and rounds; None is a period
      of masks with 256 pictures of 224x224 a step in bfloat16, or on a CPU one
      step with 4 of 64x64 in float32.

  Returns:
    One row per method.
  """
  cpu = jax.default_backend() == 'cpu'
  dtype = jnp.float32 if cpu else jnp.bfloat16
  if size is None:
    name = 'resnet' if cpu else 'resnet50'
    kwargs = (
      {'blocks': (3, 4, 6, 3), 'width': 64, 'sliced': True} if cpu else {}
    )
    net = making.network(name, kwargs, 1_000, str(jnp.dtype(dtype)))
    side, batch = (64, 4) if cpu else (224, 256)
    timed = Net('ResNet-50', net, (side, side, 3), batch, (1.375,))
    size = timed, 2 * batch, 1 if cpu else _EVERY, 5
  timed, num_train, steps, rounds = size
  names = ('static', 'iterative', 'rigl', 'top_kast')
  table = method_step(say, num_train, steps, rounds, names, timed)
  params, state = jax.eval_shape(
    lambda: timed.net.init(
      jax.random.key(0), jnp.zeros((1, *timed.shape)), is_training=True
    )
  )
  flops = networks.layer_flops(timed.net, params, state, timed.shape)
  learned = 3 * sum(flops.values()) * timed.batch
  peak = estimates.matrix_product_rate(dtype)
  rows = [
    {
      'method': row['method'],
      'pictures/s': timed.batch * row['steps/s'],
      'share of a matrix product': learned * row['steps/s'] / peak,
      **{k: row[k] for k in row if k not in ('method', 'steps/s')},
    }
    for row in table.rows
  ]
  note = (
    f'Pictures of {timed.shape[0]}x{timed.shape[1]}, {jnp.dtype(dtype)}; a'
    f' picture is {learned / timed.batch / 1e9:.3g} GFLOPs in training. A large'
    f' matrix product has {peak / 1e12:.3g} TFLOP/s here.'
  )
  return timing.Table(table.title, (*table.notes, note), rows)


def mask_update(
  say: timing.Say,
  big: Any = None,
  shape: tuple[int, ...] = (224, 224, 3),
  rounds: int = 3,
  small_rounds: int = 20,
) -> timing.Table:
  """Masks of a net's layers, each for itself and all together, against sorts.

  Args:
    say: told what is going on.
    big: a net of `experiments.engine.networks`; None is ResNet-50.
    shape: of its pictures.
    rounds: for it; see `timing.compare`.
    small_rounds: for LeNet-300-100.

  Returns:
    One row per program. Raises AssertionError where two programs disagree.
  """
  rows = []
  for net, size, turns, limit in (
    (big or networks.resnet50(1000), shape, rounds, None),
    (networks.mlp(10), (28, 28, 1), small_rounds, 5.0),
  ):
    shapes = _shapes(net, size)
    for distribution in ('erk', 'global'):
      target = methods.make_target(shapes, 0.1, distribution)
      keys = jax.random.split(jax.random.key(0), len(target.shapes))
      scores = {
        n: jax.random.normal(k, s)
        for k, (n, s) in zip(keys, target.shapes.items(), strict=True)
      }
      ours = jax.jit(lambda x, t=target: methods.select(t, x, 1.0))

      def sorting(x, t=target):
        if not t.pooled:
          return {n: selection.sorted_mask(y, t.kept[n]) for n, y in x.items()}
        flat = jnp.concatenate([y.ravel() for y in x.values()])
        mask = selection.sorted_mask(flat, sum(t.kept.values()))
        cuts = np.cumsum([y.size for y in x.values()])[:-1]
        parts = jnp.split(mask, cuts)
        return {
          n: part.reshape(y.shape)
          for part, (n, y) in zip(parts, x.items(), strict=True)
        }

      theirs = jax.jit(sorting)
      jax.tree.map(np.testing.assert_array_equal, ours(scores), theirs(scores))
      times = timing.compare(
        {
          'ours': functools.partial(ours, scores),
          'sort': functools.partial(theirs, scores),
        },
        'ours',
        turns,
        say,
      )
      weights = sum(x.size for x in scores.values())
      for name, t in times.items():
        milliseconds = 1000 * t.seconds
        wanted = limit if name == 'ours' else None
        rows.append(
          {
            'weights': f'{weights:,}',
            'masks': 'global' if target.pooled else 'per layer',
            'program': name,
            'ms': milliseconds,
            'times ours': t.ratio,
            'low': t.low,
            'high': t.high,
            'target': f'≤ {wanted:g} ms' if wanted else '',
            'met': ''
            if wanted is None
            else 'yes'
            if milliseconds <= wanted
            else 'no',
          }
        )
  return timing.Table(
    'Mask updates: bisection on bits against sorts',
    (
      f'10% of normal values kept; {rounds} rounds for the large net,'
      f' {small_rounds} for LeNet-300-100. Both give the same bits.',
    ),
    rows,
  )


def memory(say: timing.Say, names: Sequence[str] = _NAMES) -> timing.Table:
  """Bytes of masks per weight, while training and in a checkpoint.

  Args:
    say: told what is going on.
    names: of the methods.

  Returns:
    One row per method.
  """
  net = networks.mlp(10)
  image = (28, 28, 1)
  target = methods.make_target(_shapes(net, image), 0.1, 'erk')
  weights = sum(int(np.prod(s)) for s in target.shapes.values())
  recipe = train.Recipe(
    problem=classification.classification(
      classification.Pictures(net, image, 1 / 255)
    ),
    optimizer=optax.sgd,
    batch_size=10,
    num_train=20,
    epsilon=0.01,
  )
  split = training.make_split(20, image)
  hyper = Hyper(np.int32(0), np.float32(1), np.float32(1e-3))
  rows = []
  for name in names:
    say(name)
    method = getattr(methods, name)(methods.Brief(target, 1_000))
    one = train.make_training(recipe, Psi(1.0), method)
    state = one.init(hyper, split)
    is_mask = lambda x: x.dtype in (jnp.bool_, jnp.uint8)
    used = sum(x.nbytes for x in jax.tree.leaves(state.method) if is_mask(x))
    packed = population.pack(state, codes=True)
    stored = sum(x.nbytes for x in jax.tree.leaves(packed.method) if is_mask(x))
    masks = 2 if name == 'top_kast' else 1
    rows.append(
      {
        'method': name,
        'masks': masks,
        'bytes per weight': used / weights,
        'bits per weight in a checkpoint': 8 * stored / weights,
        'target': f'≤ 1 byte, {masks} bit',
        'met': 'yes'
        if used <= weights and stored <= masks * (weights / 8 + 8)
        else 'no',
      }
    )
  return timing.Table(
    'Memory of masks',
    ('LeNet-300-100. Top-KAST has two masks: one bit each in a checkpoint.',),
    rows,
  )
