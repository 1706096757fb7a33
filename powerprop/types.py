"""The core types. Imports jax only."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax

# A pytree of arrays: φ, θ, gradients, masks. Structure is the caller's.
Params: TypeAlias = Any
Updates: TypeAlias = Any
# α ≥ 1: a Python number is static (compiled in), an array is traced.
Alpha: TypeAlias = float | jax.Array
Schedule: TypeAlias = Callable[[jax.Array], jax.Array]
# `where(path, leaf)`: does this leaf live under Ψ? `path` is 'module/name'.
Where: TypeAlias = Callable[[str, Any], bool]


class Hyper(NamedTuple):
  """What differs between the members of a population; all may be traced.

  Attributes:
    seed: int32, decides the initial θ and the order of the batches.
    alpha: the power α ≥ 1 (at the start, where a transform adapts it).
    learning_rate: float ≥ 0, the inner optimiser's.
    coefficient: float ≥ 0, what the method's penalty is multiplied by.
  """

  seed: Any
  alpha: Any
  learning_rate: Any
  coefficient: Any = 0.0


class Work(NamedTuple):
  """What a net costs, relative to the dense one; float32 scalars.

  Attributes:
    density: share of the governed weights in the forward pass.
    forward: FLOPs of a forward pass.
    backward: FLOPs of a forward pass over the weights that are updated.
    training: FLOPs of a training step, the mean of all steps so far.
  """

  density: jax.Array
  forward: jax.Array
  backward: jax.Array
  training: jax.Array


class TrainState(NamedTuple):
  """Everything that a training needs to go on, for one member.

  Attributes:
    phi: stored parameters φ.
    net: the net's own state (moving averages), {} where it has none.
    opt: the optimiser's state; it also says which α φ is to be read with.
    method: the method's state, its masks among it; () when dense.
    work: what the net costs, and what its training has cost.
    step: int32, the number of steps done.
    finite: bool, whether every loss so far was finite.
  """

  phi: Params
  net: Any
  opt: Any
  method: Any
  work: Work
  step: jax.Array
  finite: jax.Array


class Masks(NamedTuple):
  """Which weights take part, by layer path; layers without an entry are dense.

  Attributes:
    forward: bool arrays, the set A that the forward pass uses.
    backward: bool arrays, the set B ⊇ A that is updated.
  """

  forward: dict[str, jax.Array]
  backward: dict[str, jax.Array]


class Event(NamedTuple):
  """What a method sees when its masks are due for a change.

  Attributes:
    key: a random key of this step.
    step: int32, the step that is being done, from 0.
    phi: stored parameters φ.
    psi: the `Psi` that φ is to be read with.
    opt: the optimiser's state.
    dense: ∂L/∂w of this step's batch, for all weights, masked ones as well; L
      has the L2 term.
    reset: (opt, φ, {path: bool array}) -> opt with the moments of those
      weights set to what they are at the start; None is all of them.
    coefficient: what the method's penalty is multiplied by.
    plain: `dense` without the L2 term.
  """

  key: jax.Array
  step: jax.Array
  phi: Params
  psi: Any
  opt: Any
  dense: Params
  reset: Callable[[Any, Params, dict[str, jax.Array] | None], Any]
  coefficient: Any = 0.0
  plain: Params = ()


class Score(NamedTuple):
  """What an evaluation finds.

  Attributes:
    value: the higher the better, float32; an accuracy in [0, 1], or whatever
      the problem says.
    loss: mean over the examples, nats.
    fingerprint: uint32 [2], a hash of the bits of all outputs.
  """

  value: jax.Array
  loss: jax.Array
  fingerprint: jax.Array


class Problem(NamedTuple):
  """What is learned, as pure functions: no method and no trainer knows more.

  A *batch* is a pytree of arrays whose first axis counts examples. A *source*
  is a pytree of the data on the device and of the task that they are now read
  for. Both are the problem's own: others only hand them on.

  Attributes:
    init: key -> (θ, net state).
    task: source -> int32, the number of its task from 0.
    size: (source, split) -> int32, the task's number of examples.
    batch: (source, split, rows) -> batch; rows int32 [B] in [0, size).
    augment: (key, batch) -> batch, in training; None is as it is.
    loss: (w, net state, key, batch) -> (mean loss, net state), in training.
    score: (w, net state, source, split) -> Score, of a whole split.
    least: (score, γ) -> the score that is still enough where γ in (0, 1] of it
      is to be kept. γ times a score means nothing where it may be negative.
    log_likelihood: (w, net state, batch, key, targets) -> the mean, as in
      evaluation. targets 'true' are the batch's, 'sampled' are drawn from the
      net's own distribution, and 'argmax' its modes.
    outputs: (w, net state, batch) -> the net's outputs as in evaluation, and a
      bool array of their shape: which of them take part.
    flops: (θ, net state) -> FLOPs of one example's forward pass, by path.
    recalled: (batch, source) -> the batch, of earlier tasks, as it counts now.
    any_task: (source, key) -> a source of one of the tasks so far, at random.
    at: (source, task) -> a source of that task, one of those so far; None is
      not said: then there are no batches of several tasks.
    resting: (source, whether earlier tasks are learned as well) -> a function
      that zeroes what in a tree like θ belongs to tasks that are not learned
      now; None where all is everybody's.
    own: paths of the leaves of which each task has a part of its own, by their
      last axis.
    private: paths of the leaves that belong to the task being learned alone. A
      state holds one task's; when a task is archived they go into its record,
      and those of the next are drawn by `init`. No method sees them: its shapes
      are those of `private.split`, whose dicts θ must be of.
    averages: (w, net state, key, batch, number) -> the net state with what it
      averages over training examples (batch normalisation's means) made anew
      for w, as in training, from batch(0), …, batch(number − 1); where some of
      them are frozen, those stay. None is not said: then a net that has a state
      is not pruned and scored in one go.
    activations: (w, net state, batch) -> by layer what its hidden units answer,
      [batch, ..., C], as in evaluation; {} is not said.
    units: () -> `powerprop.units.Units` of the net; it raises ValueError where
      the net has none that could be told apart.
  """

  init: Callable[[jax.Array], tuple[Params, Any]]
  task: Callable[[Any], jax.Array]
  size: Callable[[Any, str], jax.Array]
  batch: Callable[[Any, str, jax.Array], Any]
  augment: Callable[[jax.Array, Any], Any] | None
  loss: Callable[[Params, Any, jax.Array, Any], tuple[jax.Array, Any]]
  score: Callable[[Params, Any, Any, str], Score]
  least: Callable[[jax.Array, float], jax.Array]
  log_likelihood: Callable[..., jax.Array]
  outputs: Callable[[Params, Any, Any], tuple[jax.Array, jax.Array]]
  flops: Callable[[Params, Any], dict[str, float]]
  recalled: Callable[[Any, Any], Any] = lambda batch, source: batch
  any_task: Callable[[Any, jax.Array], Any] = lambda source, key: source
  at: Callable[[Any, jax.Array], Any] | None = None
  resting: Callable[[Any, bool], Callable[[Params], Params]] | None = None
  own: tuple[str, ...] = ()
  private: tuple[str, ...] = ()
  averages: Callable[..., Any] | None = None
  activations: Callable[..., dict[str, jax.Array]] = lambda *_: {}
  units: Callable[[], Any] | None = None


class Ending(NamedTuple):
  """What a method sees at the end of a task; see `Problem`.

  Attributes:
    key: a random key of this member and task.
    task: int32, the task's number from 0.
    psi: the `Psi` that φ is to be read with.
    batch: (split, rows) -> batch of this task; split is 'train' or
      'validation', rows int32 [B] in [0, the task's number of examples).
    sizes: by split, int32, the task's number of examples.
    score: (w, examples) -> score on the validation examples, the higher the
      better. Averages in the net's own state are made anew for w from so many
      training examples; 0, the default, takes them as training left them.
    least: (score, γ) -> the score that is still enough.
    log_likelihood: (w, batch, key, targets) -> the mean over the batch.
    outputs: (w, batch) -> the net's outputs, and which of them take part.
    recalled: batch of earlier tasks -> the batch as it counts now.
    fresh: () -> θ, drawn anew by the net's own law.
    augment: (key, batch) -> batch, as in training.
    activations: (w, batch) -> by layer what its hidden units answer.
    coefficient: of the training, float ≥ 0. What a method has no penalty for it
      may take for another number that is searched.
  """

  key: jax.Array
  task: jax.Array
  psi: Any
  batch: Callable[[str, jax.Array], Any]
  sizes: dict[str, jax.Array]
  score: Callable[..., jax.Array]
  least: Callable[[jax.Array, float], jax.Array]
  log_likelihood: Callable[..., jax.Array]
  outputs: Callable[[Params, Any], tuple[jax.Array, jax.Array]]
  recalled: Callable[[Any], Any]
  fresh: Callable[[], Params]
  augment: Callable[[jax.Array, Any], Any] = lambda key, batch: batch
  activations: Callable[..., dict[str, jax.Array]] = lambda w, batch: {}
  coefficient: Any = 0.0


class Change(NamedTuple):
  """What a method does at some steps: new masks, in most.

  Attributes:
    due: step -> bool: whether it happens at this step. It must not depend on
      anything but the step.
    update: (Event, state) -> (phi, opt, state), after the optimiser's update.
    replaces_step: whether `update` runs instead of the optimiser's update.
  """

  due: Callable[[jax.Array], jax.Array]
  update: Callable[[Event, Any], tuple[Params, Any, Any]]
  replaces_step: bool = False


class Penalty(NamedTuple):
  """What is added to the loss, times the training's coefficient.

  Attributes:
    value: (params, state) -> scalar.
    space: 'theta' or 'phi': which parameters it is of.
    per_example: whether the value is divided by `Tasks.num_train`, as the loss
      is a mean. Where tasks differ in size, a training multiplies it by that
      over the number of its task's own.
  """

  value: Callable[[Params, Any], jax.Array]
  space: str = 'theta'
  per_example: bool = False


class Rehearsal(NamedTuple):
  """What earlier tasks' examples do to the gradient.

  Attributes:
    draw: (state, key) -> a batch of the memory.
    combine: (dense, remembered, state) -> dense, from the gradients on the
      batch and on what was drawn.
  """

  draw: Callable[[Any, jax.Array], Any]
  combine: Callable[[Updates, Updates, Any], Updates]


class Trial(NamedTuple):
  """Several ways to learn a task: the one that learns fastest is taken.

  Before a task every way is tried on the task's first batches, from the same
  net; the one with the lowest mean loss is how the task is learned.

  Attributes:
    steps: of training for each, ≥ 1.
    ways: how many there are, ≥ 2; of equal losses the first is taken.
    state: (state, int32 in [0, ways)) -> the method's state for that way.
  """

  steps: int
  ways: int
  state: Callable[[Any, jax.Array], Any]


class Draws(NamedTuple):
  """Several draws of the weights in a step, which learns from their mean.

  The batch is the same for all; what the loss itself draws is not. Gradients
  are those of `weights` itself: `Method.gradients` is not asked. The net's
  state goes from draw to draw.

  Attributes:
    number: of draws, ≥ 2: a step costs as many.
    state: (state, int32 in [0, number)) -> the method's state for that draw.
  """

  number: int
  state: Callable[[Any, jax.Array], Any]


class Continual(NamedTuple):
  """What a method for several tasks adds; by default nothing.

  `powerprop.methods.continual.sequential.method` takes all by their names.

  Attributes:
    penalty: on the distance to earlier tasks; None is none.
    rehearsal: of earlier tasks' examples; None is none.
    track: (plain, before, after, state) -> state, with the gradient of the
      task's loss alone (`Event.plain`) and θ before and after the optimiser's
      update; None looks away.
    expected: (theta, state) -> w to evaluate in mid-training, where `weights`
      are drawn at random; None is `weights`.
    draws: several of the weights in each step; None is one.
    joint: whether batches come from all tasks so far.
    shares: by task, how much of every such batch is of it, relative to the
      others so far; () is that each batch is of one task. Needs `Problem.at`.
    remembers: whether `end_task` learns from examples of earlier tasks.
    anew: whether each task has a net of its own, with which the optimiser and
      the net's state start again; `archive` draws it.
    trial: of several ways to learn a task; None where there is but one.
    end_task: (Ending, phi, state) -> (phi, state, report), after the last step
      of a task; the report is a dict of arrays of the same shapes every time.
    retraining: how to train on, under the new mask, before `archive`: a
      `Method` with this one's state; None is not at all.
    archive: (Ending, phi, state) -> (phi, state, record): makes ready for the
      next task, and gives what is kept of this one: arrays of the same shapes
      for all tasks.
    predict: (theta, record) -> w of the task whose record it is.
    needs_identity: whether `predict` must be told which task an input is of.
    zero_forgetting: whether what `predict` gives for a task that has ended
      stays the same, bit for bit.
    average_examples: training examples from which averages in the net's own
      state are made anew for what `predict` gives of a task; 0 keeps them as
      training left them.
    freeze: (net state, the task's own, state) -> net state: what training goes
      on with, as it is frozen in what the task keeps. Before the first task
      both are the net's as it starts. None leaves it alone.
    layers: by path, the sizes of the layers that a task's mask is of, in the
      order in which the report counts by layer; {} where tasks have no masks.
    needed: one of these without which no task can be learned when it is full;
      '' is that they are all full.
  """

  penalty: Penalty | None = None
  rehearsal: Rehearsal | None = None
  track: Callable[[Updates, Params, Params, Any], Any] | None = None
  expected: Callable[[Params, Any], Params] | None = None
  draws: Draws | None = None
  joint: bool = False
  shares: tuple[float, ...] = ()
  remembers: bool = False
  anew: bool = False
  trial: Trial | None = None
  end_task: Callable[[Ending, Params, Any], tuple[Params, Any, Any]] = (
    lambda ending, phi, state: (phi, state, {})
  )
  retraining: Any = None
  archive: Callable[[Ending, Params, Any], tuple[Params, Any, Any]] = (
    lambda ending, phi, state: (phi, state, ())
  )
  predict: Callable[[Params, Any], Params] = lambda theta, record: theta
  needs_identity: bool = False
  zero_forgetting: bool = False
  average_examples: int = 0
  freeze: Callable[[Any, Any, Any], Any] | None = None
  layers: Mapping[str, int] = {}
  needed: str = ''


class Method(NamedTuple):
  """A way to train a net on one task or on several, as pure functions.

  A sparse method says what is here; `powerprop.methods.masked.method` fills in
  what it does not care for, all but `init`. What several tasks need is in
  `continual`.

  Attributes:
    init: (key, phi, psi, gradient) -> (phi, state). `psi` is the `Psi` that φ
      is to be read with, and `gradient(theta)` is ∂L/∂θ on a training batch.
    masks: state -> Masks.
    weights: (theta, state) -> w, what the forward pass sees.
    gradients: (dense, theta, state) -> ∂L/∂θ, what the optimiser sees.
    constrain: (tree, state) -> the tree with zeros for all that is not to
      move. It is called with updates, and with φ: what the optimiser sees as
      its params.
    observe: (dense, state) -> state, at every step, before all else.
    change: what happens at some steps alone; None is nothing.
    progress: step -> (forward, backward), the shares in [0, 1] of the way
      from dense to the target that both masks have gone when the step begins.
    cost: (forward, backward, due) -> training FLOPs of an example. `forward`
      and `backward` are the FLOPs of a forward pass over A and over B; both
      relative to the dense forward pass, as is what comes out: 3 when dense.
    clock: step -> step for the learning rate's schedule.
    constant_alpha: whether φ must stand for the same θ at all times, so that α
      may neither follow a schedule nor adapt: where weights are masked, frozen
      or compared with earlier φ.
    continual: what a method for several tasks adds.
  """

  init: Callable[..., tuple[Params, Any]]
  masks: Callable[[Any], Masks]
  weights: Callable[[Params, Any], Params]
  gradients: Callable[[Updates, Params, Any], Updates]
  constrain: Callable[[Updates, Any], Updates]
  observe: Callable[[Updates, Any], Any]
  change: Change | None
  progress: Callable[[jax.Array], tuple[Any, Any]]
  cost: Callable[[Any, Any, Any], Any]
  clock: Callable[[jax.Array], jax.Array]
  constant_alpha: bool
  continual: Continual = Continual()
