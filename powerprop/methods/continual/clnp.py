"""Continual learning via neural pruning: whole units for every task."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from powerprop import trees
from powerprop import units as units_lib
from powerprop.methods import magnitude
from powerprop.methods import targets
from powerprop.methods.continual import packing
from powerprop.methods.continual import sequential
from powerprop.types import Ending, Masks, Method, Params, Penalty

THRESHOLDS = ('shared', 'layer')
SEARCHES = ('scan', 'binary')
_SCANNED = 32  # thresholds, before halves
_BATCH = 500  # examples at a time whose activations are taken

# By layer, what of its units: bool [C].
Which = dict[str, jax.Array]


class Neurons(NamedTuple):
  """State of `clnp`.

  Attributes:
    active: the units of earlier tasks' nets.
    mask: those of the net of the task that ended last.
  """

  active: Which
  mask: Which


class Record(NamedTuple):
  """What is kept of a task.

  Attributes:
    bits: uint8 [⌈n/8⌉], which of all n hidden units its net has, in the order
      of the layers, as `jax.numpy.packbits` has it. Where tasks share the
      outputs, of the last layer those alone that it added: the others are not
      connected to them.
    others: by path, its biases of the outputs, where these are shared.
  """

  bits: jax.Array
  others: dict[str, jax.Array]


class _Net(NamedTuple):
  """What a method knows of the net.

  Attributes:
    units: of the net.
    shared: whether all tasks have the same outputs (a single head).
    biases: of the outputs, where they are shared; they belong to a task.
  """

  units: units_lib.Units
  shared: bool
  biases: tuple[str, ...]

  @property
  def last(self) -> str:
    """The name of the last hidden layer."""
    return list(self.units.layers)[-1]


class Options(NamedTuple):
  """How units are chosen; see `clnp`."""

  margin: float
  thresholds: str
  l1: dict[str, float]
  average_examples: int = 0
  search: str = 'scan'


def clnp(
  tasks: sequential.Tasks,
  *,
  margin: float = 5e-4,
  l1: dict[str, float] | tuple[tuple[str, float], ...] = (),
  thresholds: str = 'shared',
  search: str = 'scan',
  average_examples: int = packing.AVERAGE_EXAMPLES,
) -> Method:
  r"""CLNP: tasks take whole units, as many as they need.

  While a task is learned, L1 on the weights that it may change makes units die.
  At its end the mean activation E(N) over its training data ranks the units
  that no task has: those up to a threshold θ are cut off, where θ is the
  highest at which the validation score is still at most `margin` below that of
  the net with all units. What is left, and all units of earlier tasks, is
  active: weights into active units are never changed again, and those from
  inactive to active ones (interference) are severed, so that no later task can
  change what the earlier answer, bit for bit. All other weights are drawn anew.

  Where tasks have outputs of their own (several heads) every head reads all
  active units. Where they share them (a single head) a task's outputs read
  those units of the last hidden layer alone that the task has added.

  Under batch normalisation (`powerprop.BatchNorm`) an active channel has the
  averages of the net of the task that it is of: later tasks are normalised by
  them there, in training too, so that they read what that task computed. The
  paper does not say what becomes of them.

  A training phase under the new mask (`retrain_epochs` in a config) is the
  paper's fine-tuning.

  Args:
    tasks: of the sequence; its net publishes its units (`powerprop.publish`).
    margin: m in [0, 1), of graceful forgetting, in units of the score. The
      paper measures it from the best of all hyperparameters tried, here it is
      from the task's own net: where several are tried, see the experiment.
    l1: regular expression for paths of kernels -> factor ≥ 0 on the coefficient
      of L1 there, or pairs of these; 1 where none is found.
    thresholds: 'shared': one θ for all layers. 'layer': one for each, found in
      turn from the input on.
    search: for the highest threshold that is good enough. 'scan': 32 of them,
      which cut off 1/32, 2/32, … of the free units, from the highest down to
      the first that is good enough; between it and the one above by halves.
      'binary': by halves alone, as if all below one that is good enough were,
      which takes fewer evaluations; but where the margin is a few examples of
      the validation set the score is noise about it, and where the halves end
      is chance.
    average_examples: ≥ 0, as in `packing.method`: training examples from which
      the averages of channels that are not yet active are made anew for every
      candidate, and for the net that a task keeps.

  Returns:
    A method. Its coefficient is that of L1.

  Raises:
    ValueError: if an option is out of range, or the net has no units that can
      be cut off (see `powerprop.units.find`), averages that cannot be frozen,
      or heads that are not all of what makes the outputs.

  Reference: Golkar, Kagan and Cho, Continual learning via neural pruning, 2019,
    section 2 and algorithm 1. Its text has E(N), the algorithm E|N|: the same
    after ReLU; here it is E|N|.
  """
  options = Options(margin, thresholds, dict(l1), average_examples, search)
  _check(options)
  if tasks.units is None:
    raise ValueError('the problem does not say what the units of its net are')
  found = tasks.units()
  for name, layer in found.layers.items():
    loose = [n for n in layer.state if n.rpartition('/')[0] not in layer.frozen]
    if loose:
      raise ValueError(
        f'the layer {name!r} has averages ({", ".join(loose)}) that cannot be'
        ' frozen with its units: make the net with powerprop.BatchNorm, or'
        ' without batch normalisation'
      )
  shared = not tasks.heads
  beside = [
    n for n in (found.output, *found.output_own) if n not in tasks.heads
  ]
  if beside and not shared:
    raise ValueError(
      f'{", ".join(beside)} gives the outputs but is of no head (these are'
      f' {", ".join(tasks.heads)}), and so is not of one task alone: let one'
      ' layer make the outputs out of the last hidden one, and name it as'
      ' output_layer'
    )
  biases = found.output_own if shared else ()
  net = _Net(found, shared, biases)
  kernels = {x.kernel: 1.0 for x in found.layers.values()} | {found.output: 1.0}
  factors = targets.matches('l1', options.l1, kernels)
  free = lambda s: {n: ~x for n, x in s.active.items()}
  added = lambda s: {n: x & ~s.active[n] for n, x in s.mask.items()}

  def masked(which) -> dict[str, Any]:
    # What the optimiser sees, and may change, is that of these units.
    return {
      'gradients': lambda dense, theta, s: only(net, dense, which(s)),
      'constrain': lambda updates, s: only(net, updates, which(s)),
    }

  def l1_of(which) -> Penalty:
    def norm(theta, state):
      held = trees.weights(only(net, theta, which(state)), lambda *_: True)
      sizes = {n: jnp.sum(jnp.abs(held[n])) for n in kernels}
      return sum(factors.get(n, 1.0) * x for n, x in sizes.items())

    return Penalty(norm)

  base = sequential.method(
    lambda key, phi, psi, gradient: (phi, empty(net)),
    weights=functools.partial(computing, net),
    penalty=l1_of(free),
    end_task=functools.partial(end_task, net, options),
    archive=functools.partial(archive, net),
    predict=functools.partial(predict, net),
    needs_identity=True,
    zero_forgetting=True,
    average_examples=average_examples,
    freeze=functools.partial(freeze, net),
    layers={n: x.size for n, x in found.layers.items()},
    needed=net.last if net.shared else '',
    **masked(free),
  )
  if not tasks.retrain_steps:
    return base
  again = base._replace(
    weights=lambda theta, s: only(net, computing(net, theta, s), s.mask),
    masks=lambda state: Masks({}, {}),
    continual=base.continual._replace(penalty=l1_of(added)),
    **masked(added),
  )
  return base._replace(continual=base.continual._replace(retraining=again))


def _check(options: Options) -> None:
  """Raises ValueError if an option is out of range."""
  if not 0 <= options.margin < 1:
    raise ValueError(f'margin is {options.margin} but must be in [0, 1)')
  if options.thresholds not in THRESHOLDS:
    raise ValueError(
      f'thresholds is {options.thresholds!r} but must be one of'
      f' {", ".join(THRESHOLDS)}'
    )
  if options.search not in SEARCHES:
    raise ValueError(
      f'search is {options.search!r} but must be one of {", ".join(SEARCHES)}'
    )
  packing.check_average_examples(options.average_examples)
  for name, factor in options.l1.items():
    if not 0 <= factor < math.inf:
      raise ValueError(f'l1[{name!r}] is {factor} but must be at least 0')


def empty(net: _Net) -> Neurons:
  """The state before the first task."""
  none = lambda: {
    n: jnp.zeros(x.size, bool) for n, x in net.units.layers.items()
  }
  return Neurons(none(), none())


def _inputs(which: jax.Array, inputs: int) -> jax.Array:
  """By input of the next kernel, whether its unit is one; bool [inputs, 1]."""
  return jnp.tile(which, inputs // len(which))[:, None]


def only(net: _Net, tree: Params, which: Which) -> Params:
  """The tree with zeros in what makes other units.

  Args:
    net: of the method.
    tree: like the parameters.
    which: units.

  Returns:
    A tree like `tree`. Shared outputs have zeros where they read other units;
    heads are as they are: each is its task's. Of θ the other units answer 0.
  """
  kept: dict[str, jax.Array] = {}
  for name, layer in net.units.layers.items():
    kept |= dict.fromkeys((layer.kernel, *layer.own), which[name])
  if net.shared:
    kept |= _read(net, tree, which[net.last])
  return magnitude.prune(tree, kept)


def _read(net: _Net, tree: Params, which: jax.Array) -> dict[str, jax.Array]:
  """The outputs' kernel, where it reads these units of the last layer."""
  kernel = trees.weights(tree, lambda path, _: path == net.units.output)
  return {n: _inputs(which, x.shape[-2]) for n, x in kernel.items()}


def computing(net: _Net, theta: Params, state: Neurons) -> Params:
  """θ as a new task computes with it.

  Shared outputs do not read units that earlier tasks have added.
  """
  if not net.shared:
    return theta
  return magnitude.prune(theta, _read(net, theta, ~state.active[net.last]))


def activity(net: _Net, ending: Ending, theta: Params) -> dict[str, jax.Array]:
  """The mean activation E|N| of every unit over the task's training examples.

  Args:
    net: of the method.
    ending: of the task.
    theta: the weights.

  Returns:
    By layer, float32 [C] or wider; a channel's is over the picture as well.
  """
  size = ending.sizes['train']
  zeros = {n: jnp.zeros(x.size) for n, x in net.units.layers.items()}

  def step(i, total):
    rows = i * _BATCH + jnp.arange(_BATCH, dtype=jnp.int32)
    found = ending.activations(theta, ending.batch('train', rows % size))

    def add(old, x):
      x = jnp.abs(trees.wide(x))
      x = jnp.mean(x.reshape(len(x), -1, x.shape[-1]), axis=1)
      return old + jnp.sum(jnp.where((rows < size)[:, None], x, 0), axis=0)

    return {n: add(old, found[n]) for n, old in total.items()}

  total = jax.lax.fori_loop(0, -(-size // _BATCH), step, zeros)
  return {n: x / size for n, x in total.items()}


def end_task(
  net: _Net,
  options: Options,
  ending: Ending,
  phi: Params,
  state: Neurons,
) -> tuple[Params, Neurons, dict[str, jax.Array]]:
  """Finds the task's units: (φ as it is, the state with them, a report)."""
  theta = computing(net, ending.psi.to_theta(phi), state)
  found = activity(net, ending, theta)
  # A layer keeps its most active unit, so that there is a net.
  ranked = dict(found)
  if net.shared:  # its outputs read none of the units that are there
    ranked[net.last] = jnp.where(state.active[net.last], -1, found[net.last])
  best = {n: jnp.arange(len(x)) == jnp.argmax(x) for n, x in ranked.items()}

  def kept(least):
    return {
      n: state.active[n] | (x > least[n]) | best[n] for n, x in found.items()
    }

  # All with averages of their own, or the target had what these differ by.
  dense = ending.score(theta, options.average_examples)
  target = dense - options.margin
  score = lambda mask: ending.score(
    only(net, theta, mask), options.average_examples
  )
  passes = lambda least: score(kept(least)) >= target
  scanned = _SCANNED if options.search == 'scan' else 0

  def highest(group, least):
    # Only activations of units that are free can be a threshold.
    free = jnp.concatenate([~state.active[n] for n in group])
    values = jnp.concatenate([found[n] for n in group])
    values = jnp.sort(jnp.where(free, values, -jnp.inf))
    number = jnp.sum(free, dtype=jnp.int32)

    def at(i):  # that of the i-th free unit; 0 is no threshold
      value = values[len(values) - number + i - 1]
      return least | dict.fromkeys(group, jnp.where(i > 0, value, -jnp.inf))

    cut, tries = sequential.highest(lambda i: passes(at(i)), number, scanned)
    return at(cut), tries

  groups = [tuple(net.units.layers)]
  if options.thresholds == 'layer':
    groups = [(n,) for n in net.units.layers]
  least = dict.fromkeys(found, jnp.asarray(-jnp.inf))
  tried = jnp.zeros((), jnp.int32)
  for group in groups:
    least, tries = highest(group, least)
    tried = tried + tries
  mask = kept(least)
  accuracy = score(mask)
  count = lambda which: sequential.count(which, net.units.layers)
  reused = {n: state.active[n] & (x > least[n]) for n, x in found.items()}
  if net.shared:
    reused[net.last] = jnp.zeros_like(state.active[net.last])
  own = dict(mask)
  if net.shared:
    own[net.last] = mask[net.last] & ~state.active[net.last]
  report = {
    'kept_by_layer': count(own),
    'used_by_layer': count({n: state.active[n] | x for n, x in mask.items()}),
    'new_by_layer': count({n: x & ~state.active[n] for n, x in mask.items()}),
    'reused_by_layer': count(reused),
    'reached': accuracy >= target,
    'pruned_accuracy': accuracy,
    'target': target,
    'evaluations': tried,
  }
  return phi, state._replace(mask=mask), report


def archive(
  net: _Net, ending: Ending, phi: Params, state: Neurons
) -> tuple[Params, Neurons, Record]:
  """Freezes the task's units, severs interference, and draws the rest anew."""
  active = {n: state.active[n] | x for n, x in state.mask.items()}
  fresh = trees.weights(ending.psi.to_phi(ending.fresh()), lambda *_: True)
  old = trees.weights(phi, lambda *_: True)
  new: dict[str, jax.Array] = {}
  inputs: jax.Array | None = None
  for name, layer in net.units.layers.items():
    mine = active[name]
    for leaf in (layer.kernel, *layer.own):
      x = old[leaf]
      if leaf == layer.kernel and inputs is not None:
        x = jnp.where(_inputs(inputs, x.shape[-2]) | ~mine, x, 0)
      new[leaf] = jnp.where(mine, x, fresh[leaf])
    inputs = mine
  others: dict[str, jax.Array] = {}
  net_of_task = dict(state.mask)
  if net.shared:
    for leaf, read in _read(net, phi, active[net.last]).items():
      new[leaf] = jnp.where(read, old[leaf], fresh[leaf])
    theta = trees.weights(ending.psi.to_theta(phi), lambda *_: True)
    others = {n: jnp.copy(theta[n]) for n in net.biases}
    new |= {n: fresh[n] for n in net.biases}
    net_of_task[net.last] = state.mask[net.last] & ~state.active[net.last]
  bits = jnp.packbits(
    jnp.concatenate([net_of_task[n] for n in net.units.layers])
  )
  phi = trees.replace_weights(phi, new)
  return phi, state._replace(active=active), Record(bits, others)


def freeze(net: _Net, live: Any, own: Any, state: Neurons) -> Any:
  """The net's state, the averages of active units frozen as a task has them.

  Args:
    net: of the method.
    live: the state as training left it.
    own: the state of the task's net.
    state: with the task's units active.

  Returns:
    What later tasks go on with.
  """
  frozen = {
    module: {**own[module], 'frozen': state.active[name]}
    for name, layer in net.units.layers.items()
    for module in layer.frozen
  }
  return units_lib.hold_frozen(live, frozen)


def units_of(found: units_lib.Units, record: Record) -> Which:
  """By layer, the units of a task's net; see `Record`.

  With them `powerprop.units.narrow` takes that net out of `predict`'s weights.
  """
  sizes = [x.size for x in found.layers.values()]
  row = jnp.unpackbits(record.bits, count=sum(sizes)).astype(bool)
  parts = jnp.split(row, np.cumsum(sizes)[:-1].tolist())
  return dict(zip(found.layers, parts, strict=True))


def predict(net: _Net, theta: Params, record: Record) -> Params:
  """The weights of the task whose record it is."""
  theta = only(net, theta, units_of(net.units, record))
  return trees.replace_weights(theta, record.others)
