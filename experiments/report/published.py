"""Published results, to stand beside a run's own.

Plain data, as printed: top-1 test accuracies in percent, and of Table 3
log-likelihoods in nats.

References:
  Schwarz et al., Powerpropagation, 2021, Tables 1 to 3, section 6.3.
  Evci et al., Rigging the Lottery (RigL), 2020: CIFAR-10 (section 4.3, Figure
  4), and on ImageNet what the former leaves out.
  Golkar et al., Continual learning via neural pruning (CLNP), 2019, Table 1.
"""

from collections.abc import Collection, Mapping
import math
from types import MappingProxyType
from typing import Any, NamedTuple


class Number(NamedTuple):
  """A published accuracy.

  Attributes:
    accuracy: mean, in percent.
    std: standard deviation over seeds, in percent; nan where none is printed.
    training_flops_ratio: relative to dense training for a single cycle; nan
      where none is printed.
  """

  accuracy: float
  std: float = math.nan
  training_flops_ratio: float = math.nan


class Setting(NamedTuple):
  """What a table was measured on.

  Attributes:
    title: in words.
    dataset: as a config calls it.
    network: as a config calls it.
  """

  title: str
  dataset: str
  network: str


class Published(NamedTuple):
  """A line of a published table, without and with Powerprop.

  Attributes:
    setting: what it was measured on.
    method: as a config calls it.
    distribution: as a config calls it; '' for the dense net.
    note: what tells the line from others of the method, or ''.
    source: who prints it.
    baseline: number by sparsity in [0, 1), without Powerprop.
    powerprop: number by sparsity, with Powerprop; {} where there is none.
  """

  setting: Setting
  method: str
  distribution: str
  note: str
  source: str
  baseline: Mapping[float, Number]
  powerprop: Mapping[float, Number] = MappingProxyType({})


class Average(NamedTuple):
  """A published average accuracy on permuted MNIST, one output layer for all.

  Attributes:
    method: as a config calls it.
    tasks: how many had been learned.
    number: the average accuracy on all of them.
    note: what tells it from a run's number, or ''.
    source: who prints it.
    powerprop: whether with α > 1.
  """

  method: str
  tasks: int
  number: Number
  note: str
  source: str
  powerprop: bool = False


class Usage(NamedTuple):
  """A published use of a net's units on permuted MNIST, one output layer.

  Attributes:
    method: as a config calls it.
    tasks: how many had been learned.
    sizes: units of the hidden layers.
    shares: of these in use, in percent.
    until_full: about how many are learned before no unit of the last of them is
      free.
    note: the net.
    source: who prints it.
  """

  method: str
  tasks: int
  sizes: tuple[int, ...]
  shares: tuple[float, ...]
  until_full: int
  note: str
  source: str


class Likelihood(NamedTuple):
  """A published test log-likelihood of ten characters drawn in turn.

  Attributes:
    method: as `powerprop.methods` calls it.
    nats: by data set, as a config calls it: the mean of all pictures.
    note: what the source calls it, or ''.
    powerprop: whether with α > 1.
  """

  method: str
  nats: Mapping[str, float]
  note: str = ''
  powerprop: bool = False


IMAGENET = Setting(
  'ImageNet, ResNet-50, 32,000 steps of 4,096 images',
  'imagenet2012',
  'resnet50',
)
CIFAR10 = Setting(
  'CIFAR-10, WRN-22-2, 97,656 steps of 128 images', 'cifar10', 'wide_resnet'
)

_BOTH = 'Powerpropagation, RigL'
_NAN = math.nan


def _at(
  *values: float | tuple[float, ...],
  sparsities: tuple[float, ...] = (0.8, 0.9, 0.95),
) -> dict[float, Number]:
  """Numbers at the first of the sparsities."""
  numbers = [Number(*v) if isinstance(v, tuple) else Number(v) for v in values]
  return dict(zip(sparsities, numbers, strict=False))


def _imagenet(
  method: str,
  distribution: str,
  baseline: Mapping[float, Number],
  powerprop: Mapping[float, Number] = MappingProxyType({}),
  note: str = '',
  source: str = 'Powerpropagation',
) -> Published:
  return Published(
    IMAGENET, method, distribution, note, source, baseline, powerprop
  )


def _cifar10(method: str, distribution: str, *values: float) -> Published:
  numbers = _at(*values, sparsities=(0.5, 0.8, 0.9, 0.95))
  return Published(CIFAR10, method, distribution, '', 'RigL', numbers)


# Top-KAST's notes say how many of the weights get no gradient.
ROWS: tuple[Published, ...] = (
  _imagenet('dense', '', {0.0: Number(76.8, 0.09)}),
  _imagenet(
    'iterative',
    'uniform',
    _at((75.3, 0.07), (73.7, 0.14), (70.6, 0.05)),
    _at((75.7, 0.05), (74.4, 0.02), (72.1, 0.00)),
  ),
  _imagenet(
    'iterative',
    'uniform',
    _at((76.5, _NAN, 0.84), (75.2, _NAN, 0.76)),
    note='1.5 × steps',
  ),
  _imagenet('static', 'uniform', _at((70.6, 0.06), (65.8, 0.04), (59.5, 0.11))),
  _imagenet('static', 'erk', _at((72.1, 0.04), (67.7, 0.12))),
  _imagenet('snip', 'uniform', _at((72.0, 0.10), (67.2, 0.12), (57.8, 0.40))),
  _imagenet('set', 'uniform', _at(72.9, 69.6, 64.4), source='RigL'),
  _imagenet('rigl', 'uniform', _at((74.6, 0.06), (72.0, 0.05), (67.5, 0.10))),
  _imagenet('rigl', 'erk', _at((75.1, 0.05), (73.0, 0.04), 69.7), source=_BOTH),
  _imagenet(
    'rigl',
    'uniform',
    _at((76.6, 0.06, 1.14), (75.7, 0.06, 0.52)),
    note='5 × steps',
  ),
  _imagenet(
    'rigl',
    'erk',
    _at((77.1, 0.06, 2.09), (76.4, 0.05, 1.23)),
    note='5 × steps',
  ),
  _imagenet('snfs', 'uniform', _at(74.2, 72.3)),
  _imagenet('snfs', 'erk', _at((75.2, 0.11), (72.9, 0.06), 70.0), source=_BOTH),
  _imagenet('dsr', 'uniform', _at(73.3, 71.6)),
  _imagenet(
    'top_kast',
    'uniform',
    _at((75.47, 0.03), (74.65, 0.03), (72.73, 0.10)),
    _at((75.75, 0.05), (74.74, 0.04), (72.89, 0.10)),
    note='50% backward sparsity',
  ),
  _imagenet(
    'top_kast',
    'erk',
    _at((75.71, 0.06), (74.79, 0.05)),
    _at((75.84, 0.01), (74.98, 0.09)),
    note='50% backward sparsity',
  ),
  _imagenet(
    'top_kast',
    'uniform',
    _at((76.08, 0.02), (75.13, 0.03), (73.19, 0.02)),
    _at((76.24, 0.07), (75.23, 0.02), (73.25, 0.02)),
    note='0% backward sparsity',
  ),
  _imagenet(
    'top_kast',
    'erk',
    _at((76.42, 0.03), (75.51, 0.05)),
    _at((76.76, 0.08), (75.74, 0.08)),
    note='0% backward sparsity',
  ),
  _imagenet(
    'top_kast',
    'erk',
    {},
    _at((77.51, 0.03, 1.21), (76.94, 0.10, 0.97)),
    note='0% backward sparsity, 2 × steps',
  ),
  _imagenet(
    'top_kast',
    'erk',
    {},
    _at((77.64, 0.05, 1.81), (77.16, 0.19, 1.46)),
    note='0% backward sparsity, 3 × steps',
  ),
  Published(CIFAR10, 'dense', '', '', 'RigL', {0.0: Number(94.1)}),
  # ERK says the paper, where a mask is drawn; pruning has one target for all
  # layers in its code, whose default is a dense stem.
  _cifar10('iterative', 'uniform', 94.0, 93.6, 93.3, 92.3),
  _cifar10('static', 'erk', 94.1, 92.9, 91.5, 89.0),
  _cifar10('rigl', 'erk', 94.2, 93.6, 92.9, 91.8),
)

FIGURE4 = 'Powerpropagation, section 6.3.1'
_CLNP = 'CLNP, Table 1'
PERMUTED_MNIST: tuple[Average, ...] = (
  Average(
    'efficient_packnet',
    300,
    Number(86),
    'about',
    FIGURE4,
    True,
  ),
  Average('online_ewc', 51, Number(85.61), 'called Laplace there', FIGURE4),
  Average('single', 10, Number(98.48, 0.05), 'two layers of 2,000', _CLNP),
  Average('ewc', 10, Number(97.0), 'two layers of 2,000', _CLNP),
  Average('si', 10, Number(97.2), 'an output layer for each task', _CLNP),
  Average(
    'superposition',
    10,
    Number(97.6),
    'Cheung et al., an output layer for each task',
    _CLNP,
  ),
  Average('clnp', 10, Number(98.42, 0.04), 'two layers of 2,000', _CLNP),
)
PERMUTED_MNIST_UNITS: tuple[Usage, ...] = (
  Usage(
    'clnp',
    10,
    (2000, 2000),
    (18.0, 40.0),
    25,
    'two layers of 2,000',
    'CLNP, section 3.1',
  ),
)


def _characters(
  method: str,
  mnist: float,
  notmnist: float,
  note: str = '',
  powerprop: bool = False,
) -> Likelihood:
  nats = {'mnist': mnist, 'notmnist': notmnist}
  return Likelihood(method, nats, note, powerprop)


TABLE3 = 'Powerpropagation, Table 3'
# What differs there: of VCL's protocol, which it follows, by data set.
TABLE3_SIZES: Mapping[str, str] = {
  'mnist': '200 epochs a task, K = 5,000',
  'notmnist': '400 epochs a task, K = 5,000, many more pictures of each letter',
}
CHARACTERS: tuple[Likelihood, ...] = (
  _characters('naive', -258.40, -797.88),
  _characters('online_ewc', -108.06, -225.54, 'called Laplace there'),
  _characters('ewc', -105.78, -212.62),
  _characters('si', -111.47, -190.48),
  _characters('vcl', -94.27, -187.34),
  _characters('efficient_packnet', -94.50, -177.08),
  _characters('online_ewc', -96.72, -196.87, 'called Laplace there', True),
  _characters('ewc', -95.79, -188.56, '', True),
  _characters('efficient_packnet', -92.15, -174.54, '', True),
)


def likelihood(dataset: str, method: str, powerprop: bool) -> float | None:
  """A published log-likelihood, in nats; None where there is none.

  Args:
    dataset: as a config calls it.
    method: as `powerprop.methods` calls it.
    powerprop: whether with α > 1.
  """
  for line in CHARACTERS:
    if (line.method, line.powerprop) == (method, powerprop):
      return line.nats.get(dataset)
  return None


def averages(methods: Collection[str]) -> tuple[Average, ...]:
  """Published averages that a run's can be laid beside.

  Args:
    methods: of the run, as a config calls them.

  Returns:
    Those of these methods, and with CLNP all of its table.
  """
  return tuple(
    line
    for line in PERMUTED_MNIST
    if line.method in methods or ('clnp' in methods and line.source == _CLNP)
  )


def usage(
  results: Mapping[str, Any], method: str, layers: Mapping[str, int]
) -> tuple[Usage, ...]:
  """Published uses of units that a run's can be laid beside.

  Args:
    results: a run's record.
    method: as a config calls it.
    layers: sizes of the hidden layers of the run's net.

  Returns:
    Those of the method on such a net; () on other tasks.
  """
  of = tuple(results.get(n) for n in ('dataset', 'sequence', 'scenario'))
  if of != ('mnist', 'permuted', 'domain'):
    return ()
  sizes = tuple(layers.values())
  return tuple(
    line
    for line in PERMUTED_MNIST_UNITS
    if line.method == method and line.sizes == sizes
  )
