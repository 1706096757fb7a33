"""Pictures and their labels as a `Problem`."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import data
from experiments.data import Examples
from experiments.engine import fitting
from experiments.engine import making
from experiments.engine import networks
from experiments.engine import pretrained
from experiments.engine.settings import Settings
from powerprop import learning
from powerprop import train
from powerprop import trees
from powerprop import units
from powerprop.types import Params, Problem, Score

_EVALUATION_BATCH = 2_000
_NEVER = -1e9  # a logit that takes no part; −∞ would make NaN of 0 · ∞


class Pictures(NamedTuple):
  """What is to be classified, by which net.

  A source is a `data.Split`, or, of a sequence, a `data.Source`; a batch is
  `data.Examples`.

  Attributes:
    net: from pictures to logits, as those of `networks`.
    image_shape: (H, W, C).
    scale: factor from uint8 pixels to [0, 1].
    augment: (key, images) -> images, in training.
    label_smoothing: in [0, 1), over the outputs that take part.
    sequence: of tasks; None is one task, which is all of a split.
    heads: paths of the leaves whose columns are outputs, where not all outputs
      take part in all tasks.
    streamed: whether a source is the batches of some steps, and is scored one
      batch at a time: see `feed.Streaming`.
    spread: batch -> the same, each device having its part.
    parts: in which a batch of a streamed source is scored, one after the other.
  """

  net: hk.TransformedWithState
  image_shape: tuple[int, ...]
  scale: float
  augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None
  label_smoothing: float = 0.0
  sequence: data.Sequence | None = None
  heads: tuple[str, ...] = ()
  streamed: bool = False
  spread: Callable[[Any], Any] = lambda batch: batch
  parts: int = 1


def classification(it: Pictures) -> Problem:
  """The mean cross-entropy of a net's softmax, scored by its accuracy.

  Where γ of an accuracy is to be kept, γ times it is enough.

  Args:
    it: what is to be classified.

  Returns:
    A problem.
  """
  of = lambda fn: functools.partial(fn, it)
  image = jax.ShapeDtypeStruct((1, *it.image_shape), jnp.float32)
  logits = lambda w, state, x: it.net.apply(
    w, state, None, x, is_training=False
  )[0]
  return Problem(
    init=of(init),
    task=lambda source: jnp.int32(0) if it.sequence is None else source.task,
    size=of(size),
    batch=of(batch),
    augment=None if it.augment is None else of(augmented),
    loss=of(loss),
    score=of(score),
    least=lambda accuracy, gamma: gamma * accuracy,
    log_likelihood=of(log_likelihood),
    outputs=of(outputs),
    flops=lambda params, net_state: networks.layer_flops(
      it.net, params, net_state, it.image_shape
    ),
    recalled=of(recalled),
    any_task=of(any_task),
    at=None if it.sequence is None else at,
    resting=of(resting) if it.heads and it.sequence is not None else None,
    own=it.heads,
    averages=learning.averages_of(of(init), of(loss)),
    activations=of(activations),
    units=learning.units_of(of(init), logits, image),
  )


def of_settings(
  s: Settings,
  dataset: data.Dataset | data.Streamed,
  sequence: data.Sequence | None = None,
  spread: Callable[[Any], Any] = lambda batch: batch,
) -> Problem:
  """The problem that a config has.

  Args:
    s: checked settings.
    dataset: of the settings.
    sequence: of the tasks to learn, made of that data set; None is one task.
    spread: as in `Pictures`.

  Returns:
    A problem. Tasks have outputs of their own, those of the `output_layer`, in
    all scenarios but 'domain'.

  Raises:
    ConfigError: if that is not the layer that gives the logits.
  """
  width = dataset.num_classes if sequence is None else sequence.num_outputs
  it = Pictures(
    net=making.network(s.network, s.network_kwargs, width, s.compute_dtype),
    image_shape=dataset.image_shape,
    scale=dataset.scale,
    augment=None if s.augment == 'none' else data.AUGMENTATIONS[s.augment],
    label_smoothing=s.label_smoothing,
    sequence=sequence,
    streamed=isinstance(dataset, data.Streamed),
    spread=spread,
    parts=s.accumulate,
  )
  if sequence is not None and sequence.scenario != 'domain':
    shapes, _ = jax.eval_shape(functools.partial(init, it), jax.random.key(0))
    heads = fitting.output_leaves(s, shapes, width)
    fitting.check_outputs(s, it.net, it.image_shape, heads)
    it = it._replace(heads=tuple(heads))
  return classification(it)


def make_recipe(
  s: Settings,
  dataset: data.Dataset | data.Streamed,
  sequence: data.Sequence | None = None,
  spread: Callable[[Any], Any] = lambda batch: batch,
) -> train.Recipe:
  """What the members of a run share.

  Args:
    s: checked settings.
    dataset: that they train on.
    sequence: of the tasks that they learn, made of that data set.
    spread: as in `Pictures`.

  Returns:
    A recipe; FLOPs are not counted with it as it is.
  """
  sizes = np.array([dataset.sizes['train']])
  if sequence is not None:
    sizes = sequence.sizes['train']
  problem = of_settings(s, dataset, sequence, spread)
  start = None
  if s.pretrained:
    shapes = jax.eval_shape(problem.init, jax.random.key(0))
    start = pretrained.read(s, *shapes)
  return recipe_of(s, problem, sizes)._replace(
    start=start, streamed=isinstance(dataset, data.Streamed)
  )


def recipe_of(s: Settings, problem: Problem, sizes: np.ndarray) -> train.Recipe:
  """What of a recipe follows from settings, whatever is learned.

  Args:
    s: checked settings.
    problem: what is learned.
    sizes: of the tasks' training sets, int [T].
  """
  return train.Recipe(
    problem=problem,
    optimizer=making.optimizer(s.optimizer, s.optimizer_kwargs),
    batch_size=s.batch_size,
    num_train=int(sizes.max()),
    epsilon=s.near_zero,
    schedule=making.schedule(s.learning_rate_schedule, s.steps),
    l2=s.l2,
    unequal=bool(sizes.min() < sizes.max()),
    accumulate=s.accumulate,
  )


def init(it: Pictures, key: jax.Array) -> tuple[Params, Any]:
  """θ and the net's state as its own law draws them."""
  image = jnp.zeros((1, *it.image_shape), jnp.float32)
  return it.net.init(key, image, is_training=True)


def size(it: Pictures, source: Any, split: str) -> jax.Array:
  """How many examples a task has; of a streamed one, how many batches."""
  if it.sequence is None:
    return jnp.int32(source.label.shape[0])
  sizes = jnp.asarray(it.sequence.sizes[split], jnp.int32)
  return sizes[source.task]


def batch(it: Pictures, source: Any, split: str, rows: jax.Array) -> Examples:
  """Examples of a task, or of a split, whatever `split` says of that.

  Of a streamed one, they are those of the batch that the first row says.
  """
  if it.sequence is not None:
    return it.spread(data.examples(it.sequence, source, split, rows))
  image, label = map(jnp.asarray, source)
  which = rows[0] if it.streamed else rows
  return it.spread(_labelled(image[which], label[which]))


def _labelled(image: jax.Array, label: jax.Array) -> Examples:
  return Examples(image, label, jnp.ones((len(label), 1), bool))


def augmented(it: Pictures, key: jax.Array, examples: Examples) -> Examples:
  """The same pictures, cropped and flipped by chance."""
  assert it.augment is not None
  return examples._replace(image=it.augment(key, examples.image))


def loss(
  it: Pictures, w: Params, net_state: Any, key: jax.Array, examples: Examples
) -> tuple[jax.Array, Any]:
  """The mean cross-entropy in training, and the net's new state."""
  logits, net_state = _forward(it, w, net_state, key, examples.image)
  label = examples.label
  if it.sequence is not None:
    logits = jnp.where(examples.visible, logits, _NEVER)
  if it.label_smoothing:
    target = _smoothed(it, label, logits.shape[-1], examples.visible)
    losses = optax.softmax_cross_entropy(logits, target)
  else:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
  return jnp.mean(losses), net_state


def outputs(
  it: Pictures, w: Params, net_state: Any, examples: Examples
) -> tuple[jax.Array, jax.Array]:
  """Logits as in evaluation, and which take part; [B, outputs] both.

  They are float32, or wider where the net's are.
  """
  logits, _ = _forward(it, w, net_state, None, examples.image)
  if it.sequence is None:
    return logits, jnp.ones(logits.shape, bool)
  return logits, jnp.broadcast_to(examples.visible, logits.shape)


def activations(
  it: Pictures, w: Params, net_state: Any, examples: Examples
) -> dict[str, jax.Array]:
  """What the net's hidden units answer in evaluation; see `Problem`."""
  answer = units.with_activations(functools.partial(_forward, it))
  return answer(w, net_state, None, examples.image)[1]


def score(
  it: Pictures, w: Params, net_state: Any, source: Any, split: str
) -> Score:
  """The accuracy on a whole split of a task; see `scored`.

  A streamed split is one batch, whose padding has the label −1.
  """

  def logits(examples):
    found, visible = outputs(it, w, net_state, examples)
    return found if it.sequence is None else jnp.where(visible, found, -jnp.inf)

  if it.streamed:
    examples = it.spread(_labelled(*map(jnp.asarray, source)))
    index = jnp.arange(len(examples.label), dtype=jnp.int32)
    # As a step's examples are cut: those of a device stay on it.
    cut = lambda x: x.reshape(-1, it.parts, *x.shape[1:]).swapaxes(0, 1)

    def one(part):
      mine, index = part
      return _tally(logits(mine), mine, index, mine.label >= 0)

    tallied = jax.lax.map(one, jax.tree.map(cut, (examples, index)))
    right, nll, hashes = (jnp.sum(x, 0, dtype=x.dtype) for x in tallied)
    count = jnp.maximum(jnp.sum(examples.label >= 0), 1)
    return Score(right / count, nll / count, hashes)
  take = functools.partial(batch, it, source, split)
  if it.sequence is None:
    rows = source.label.shape[0]
    return scored(logits, take, rows, rows)
  rows = int(it.sequence.sizes[split].max())
  return scored(logits, take, rows, size(it, source, split))


def log_likelihood(
  it: Pictures,
  w: Params,
  net_state: Any,
  examples: Examples,
  key: jax.Array | None,
  targets: str,
) -> jax.Array:
  """The mean of log p(label | picture); see `Problem`."""
  found, visible = outputs(it, w, net_state, examples)
  found = jnp.where(visible, found, _NEVER)
  return learning.mean_log_p(found, examples.label, key, targets)


def recalled(it: Pictures, examples: Examples, source: Any) -> Examples:
  """Examples of earlier tasks, with all outputs that compete by now."""
  if it.sequence is None or it.sequence.scenario != 'class':
    return examples
  now = data.visible_outputs(it.sequence, source.task, source.now)
  return examples._replace(visible=examples.visible | now)


def any_task(it: Pictures, source: Any, key: jax.Array) -> Any:
  """The source of one of the tasks so far, at random."""
  if it.sequence is None:
    return source
  return source._replace(task=jax.random.randint(key, (), 0, source.task + 1))


def at(source: data.Source, task: jax.Array) -> data.Source:
  """The source of another task."""
  return source._replace(task=task)


def resting(
  it: Pictures, source: data.Source, earlier: bool
) -> Callable[[Params], Params]:
  """tree -> tree, zero in the columns of outputs that take no part yet.

  What moves weights without a gradient of theirs, as decay does, must not move
  these: a task would find its outputs changed before it begins.
  """
  assert it.sequence is not None
  scenario = 'class' if earlier else it.sequence.scenario
  sequence = it.sequence._replace(scenario=scenario)
  moving = data.visible_outputs(sequence, source.task, source.now)

  def is_head(path, leaf):
    # VCL's leaves have the net's paths within theirs.
    return leaf.shape[-1:] == moving.shape and any(
      f'/{head}/' in f'/{path}/' for head in it.heads
    )

  return lambda tree: trees.map_where(
    lambda x: jnp.where(moving, x, 0), is_head, tree
  )


def scored(
  logits: Callable[[Examples], jax.Array],
  take: Callable[[jax.Array], Examples],
  size: int,
  count: Any,
) -> Score:
  """Evaluates examples in batches of one shape.

  Args:
    logits: of examples, float32 or wider; −∞ where an output takes no part.
    take: rows -> examples.
    size: number of rows that there may be, static; batches are made for it.
    count: how many there are, in [1, size]; no other batches are evaluated.

  Returns:
    The accuracy as the value, the mean negative log-likelihood as the loss.
  """
  batches = -(-size // _EVALUATION_BATCH)
  rows = -(-size // batches)

  def one(start):
    index = start + jnp.arange(rows, dtype=jnp.int32)
    examples = take(jnp.minimum(index, size - 1))
    return _tally(logits(examples), examples, index, index < count)

  # What is not evaluated adds nothing to the sums below.
  start = jax.tree.map(
    lambda x: jnp.zeros((batches, *x.shape), x.dtype), jax.eval_shape(one, 0)
  )
  right, nll, hashes = jax.lax.fori_loop(
    0,
    -(-count // rows),
    lambda i, sums: jax.tree.map(
      lambda several, x: several.at[i].set(x), sums, one(rows * i)
    ),
    start,
  )
  return Score(
    jnp.sum(right) / count,
    jnp.sum(nll) / count,
    jnp.sum(hashes, axis=0, dtype=jnp.uint32),
  )


def _tally(
  found: jax.Array, examples: Examples, index: jax.Array, counts: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """How many are right, the sum of their losses, and a hash of the logits.

  Args:
    found: logits [B, outputs].
    examples: B of them.
    index: int32 [B], their places in the split.
    counts: bool [B], which count.

  Returns:
    float32, float32 and uint32 [2].
  """
  label = examples.label
  nll = optax.softmax_cross_entropy_with_integer_labels(found, label)
  right = jnp.argmax(found, axis=-1) == label
  return (
    jnp.sum(right * counts.astype(jnp.float32)),
    jnp.sum(nll * counts.astype(jnp.float32)),
    fingerprint(found, index, counts),
  )


def fingerprint(
  found: jax.Array, index: jax.Array, counts: jax.Array
) -> jax.Array:
  """A hash of the bits of outputs; those of parts of a split add up.

  Args:
    found: outputs [B, n].
    index: int32 [B], their examples' places in the split.
    counts: bool [B], which count.

  Returns:
    uint32 [2].
  """
  bits = jax.lax.bitcast_convert_type(found, jnp.uint32)
  bits = bits.reshape(len(found), -1)  # float64 has two words
  bits = jnp.where(counts[:, None], bits, 0)
  place = index[:, None].astype(jnp.uint32) * jnp.uint32(
    bits.shape[1]
  ) + jnp.arange(bits.shape[1], dtype=jnp.uint32)
  return trees.hashed(bits, place)


def _forward(it, w, net_state, key, image):
  """Logits, float32 or wider, and the net's state; a key means training."""
  s = it.sequence
  centred = (s.mean, s.std) if s is not None else ()
  image = data.normalise(image, it.scale, *centred)
  logits, net_state = it.net.apply(
    w, net_state, key, image, is_training=key is not None
  )
  return trees.wide(logits), net_state


def _smoothed(it, label, number, visible):
  """Labels smoothed over the outputs that take part; float32 [B, outputs].

  An output that takes no part has a log-probability of about `_NEVER`: any
  share of a label there would swamp the loss, and make the others drift.
  """
  target = jax.nn.one_hot(label, number)
  if it.sequence is None or data.all_take_part(it.sequence):
    return optax.smooth_labels(target, it.label_smoothing)
  count = jnp.sum(visible, axis=-1, keepdims=True)
  share = jnp.where(visible, it.label_smoothing / count, 0)
  return (1 - it.label_smoothing) * target + share
