"""What a sparse training will cost, before it starts."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from experiments.engine import making
from experiments.engine import networks
from experiments.engine import validation
from experiments.engine.settings import ConfigError
from experiments.engine.settings import Settings
from experiments.report import markup
from experiments.sparse_training import settings as sparse_settings
from experiments.sparse_training.settings import SparseSettings
from experiments.sparse_training.settings import sparsity
from powerprop import methods
from powerprop import planning
from powerprop.types import Method, Params

# Fields of a training that no plan needs.
_UNUSED = Settings(
  dataset='digits',
  network='mlp',
  network_kwargs={},
  optimizer='sgd',
  optimizer_kwargs={},
  learning_rate=(0.1,),
  transforms=('powerprop',),
  transform_kwargs={},
  alphas=(1.0,),
  seeds=1,
  steps=1,
  batch_size=1,
  densities=(1.0,),
  output_density_factor=1.0,
  executor='auto',
  chunk_steps=1,
  checkpoint_seconds=0.0,
  near_zero=0.01,
)


class Net(NamedTuple):
  """What only `experiments.plan` is told: there are no data to say it.

  Attributes:
    num_classes: outputs of the net, at least 1.
    image_shape: height, width and channels of a picture.
  """

  num_classes: int
  image_shape: tuple[int, int, int]


def make(
  s: SparseSettings,
  flops: Mapping[str, float],
  shapes: Params,
  aims: Mapping[tuple[str, float], methods.Target],
  sparse: Mapping[sparse_settings.Variant, Method],
) -> list[dict[str, Any]]:
  """What every method will cost, and what is left of every layer.

  Args:
    s: the run's settings.
    flops: of `layer_flops`.
    shapes: of the net's parameters.
    aims: targets by (distribution, density).
    sparse: the methods by variant.

  Returns:
    Dicts of method, distribution, sparsity, table (of layers, in Markdown),
    training_ratio (M times the longer with a training multiplier of M) and
    inference_ratio, relative to a dense training of multiplier 1.
  """
  out = []
  for (distribution, density), target in aims.items():
    for name in s.methods:
      where = (name, distribution, sparsity(density))
      method = sparse.get(sparse_settings.Variant(*where), methods.dense())
      made = planning.plan(
        flops,
        shapes,
        target=None if name == 'dense' else target,
        method=method,
        steps=s.training.steps,
      )
      out.append(
        {
          'method': name,
          'distribution': distribution,
          'sparsity': sparsity(density),
          'table': made.layers(),
          'training_ratio': s.training_multiplier * made.training_ratio,
          'inference_ratio': made.inference_ratio,
        }
      )
  return out


def markdown(
  plans: list[dict[str, Any]], most: int = 2, rest: str = 'results.json'
) -> str:
  """The plan as it is printed before training, in Markdown.

  Args:
    plans: of `make`.
    most: how many tables of layers to show, ≥ 1: the densest and the sparsest.
    rest: the file that has them all.

  Returns:
    Tables of layers, and one of what every method costs.
  """
  tables = {
    (p['distribution'], p['sparsity']): p['table']
    for p in plans
    if p['method'] != 'dense'
  }
  shown = list(tables)
  if len(shown) > most:
    shown = [shown[0], *shown[len(shown) - most + 1 :]]
  parts = [
    f'Plan, {distribution} at {100 * s:.4g}% sparsity:\n\n{tables[where]}'
    for where in shown
    for distribution, s in [where]
  ]
  if len(tables) > len(shown):
    parts.append(
      f'{len(tables) - len(shown)} more such tables will be in {rest}.'
    )
  body = [
    [
      p['method'],
      p['distribution'],
      f'{100 * p["sparsity"]:.4g}%',
      f'{p["training_ratio"]:.3f}',
      f'{p["inference_ratio"]:.3f}',
    ]
    for p in plans
  ]
  headers = ['method', 'distribution', 'sparsity', 'training', 'inference']
  parts.append(
    'FLOPs relative to the dense net, and to its training without a'
    f' multiplier:\n\n{markup.grid(body, headers, "left")}'
  )
  return '\n\n'.join(parts) + '\n'


def of_config(config: ml_collections.ConfigDict) -> list[dict[str, Any]]:
  """The plan of a config of `experiments.plan`: a net without data.

  Args:
    config: as read from a config file and overridden on the command line.

  Returns:
    What `make` returns.

  Raises:
    ConfigError: naming the first field that is missing, unknown or out of
      range.
  """
  given = config.to_dict()
  fields = ('network', 'network_kwargs', 'steps', 'densities')
  sparse_fields = [n for n in SparseSettings._fields if n != 'training']
  validation.check_names(
    given,
    [*Net._fields, *fields, *sparse_fields],
    SparseSettings._field_defaults,
    'configs/plan_resnet50.py',
  )
  image_shape = given.pop('image_shape')
  num_classes = given.pop('num_classes')
  validation.require(
    isinstance(image_shape, tuple | list)
    and len(image_shape) == 3
    and all(isinstance(n, int) and n > 0 for n in image_shape)
    and not any(isinstance(n, bool) for n in image_shape),
    'image_shape',
    repr(image_shape),
    'three whole numbers above 0: height, width, channels',
  )
  validation.require(
    isinstance(num_classes, int)
    and num_classes > 0
    and not isinstance(num_classes, bool),
    'num_classes',
    repr(num_classes),
    'a whole number above 0',
  )
  # What only a training needs does not matter here.
  unused = _UNUSED._asdict()
  unused = {k: v for k, v in unused.items() if k not in sparse_settings.UNUSED}
  s = sparse_settings.check(ml_collections.ConfigDict({**unused, **given}))
  t = s.training
  net = making.network(t.network, t.network_kwargs, num_classes)

  def init():
    image = jnp.zeros((1, *image_shape))
    return net.init(jax.random.key(0), image, is_training=True)

  try:
    shapes, net_state = jax.eval_shape(init)
  except (TypeError, ValueError) as e:
    raise ConfigError(
      f'image_shape is {image_shape}, but {s.training.network} cannot be built'
      f' for it ({str(e).splitlines()[0]}); change one of them.'
    ) from None
  flops = networks.layer_flops(net, shapes, net_state, image_shape)
  aims = sparse_settings.make_targets(s, shapes, flops)
  sparse = sparse_settings.make_methods(s, aims)
  return make(s, flops, shapes, aims, sparse)
