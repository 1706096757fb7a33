"""Steps of Table 3's autoencoder: by method, and beside PyTorch's."""

from collections.abc import Callable, Sequence
import functools
import importlib.util
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import continual
from benchmarks import timing
from configs import table3_mnist
from experiments.continual import run as continual_run
from experiments.engine import autoencoder
from experiments.engine.autoencoder import Autoencoder
from experiments.generative import run as generative_run
from experiments.generative import settings as generative_settings

_RATE = 1e-4


class Size(NamedTuple):
  """What is trained; the defaults are the protocol's net and batches.

  Attributes:
    hidden: width of all hidden layers.
    latent: number of latents.
    num_train: training pictures, a tenth of them of each task.
    steps: of a program call.
    batch_size: pictures of a step.
  """

  hidden: int = 500
  latent: int = 50
  num_train: int = 5_500
  steps: int = 50
  batch_size: int = 50


PROTOCOL = Size()


def make_learners(
  size: Size, methods: Sequence[str] = ()
) -> tuple[list[continual.Learner], Autoencoder]:
  """Members of table3_mnist at α = 1, on made-up pictures.

  Args:
    size: of net, data and steps.
    methods: names in the config; () is all.

  Returns:
    One for each method, and the net of all.
  """
  config = table3_mnist.get_config()
  width = size.hidden
  config.update(
    {
      'encoder': (width, width),
      'latent': size.latent,
      'head': (width, width),
      'decoder': (width,),
      'num_tasks': 2,
      'batch_size': size.batch_size,
      'learning_rate': (_RATE,),
      'alphas': (1.0,),
      'seeds': 1,
    }
  )
  for fields in config.method_training.values():
    for name in ('learning_rate', 'alphas'):
      if name in fields:
        del fields[name]
  if methods:
    config.methods = tuple(methods)
  s = generative_settings.check(config)
  it = continual_run.prepared(
    s.training,
    continual.make_dataset(size.num_train),
    functools.partial(generative_run._recipe, s),
  )
  net = generative_run._net(s, it.sequence)
  return continual.learners_of(s.training, it), net


def method_step(
  say: timing.Say,
  size: Size = PROTOCOL,
  rounds: int = 10,
  names: Sequence[str] = (),
) -> timing.Table:
  """Each method's step against fine-tuning's, in the second task.

  Args:
    say: told what is going on.
    size: of net, data and steps.
    rounds: see `timing.compare`.
    names: of methods in table3_mnist; all where there are none.

  Returns:
    One row per method.
  """
  config = table3_mnist.get_config()
  names = tuple(dict.fromkeys(('naive', *(names or config.methods))))
  learners, _ = make_learners(size, names)
  limits = {
    'efficient_packnet': 1.05,
    'vcl': float(config.method_kwargs.vcl.samples),
  }
  return timing.Table(
    "Table 3's autoencoder: a step of the second task against fine-tuning",
    (
      _what(size, rounds),
      f'α = 1, {size.steps} steps per scan; ends of tasks are not in it. Every'
      ' method was timed in turn with fine-tuning; the row of fine-tuning, with'
      ' itself, tells the noise. VCL draws the shared weights'
      f' {limits["vcl"]:g} times a step.',
    ),
    continual.second_task(
      say, dict(zip(names, learners, strict=True)), size.steps, rounds, limits
    ),
  )


def beside_torch(
  say: timing.Say, size: Size = PROTOCOL, rounds: int = 10
) -> timing.Table:
  """The same training in PyTorch, where that is installed, on the same cores.

  Args:
    say: told what is going on.
    size: of net, data and steps.
    rounds: see `timing.compare`.

  Returns:
    Two rows, or none without PyTorch.
  """
  title = "Table 3's autoencoder: a step beside PyTorch's"
  if importlib.util.find_spec('torch') is None:
    return timing.Table(title, ('Not run: PyTorch is not installed.',), [])
  (learner,), net = make_learners(size, ('naive',))
  state = jax.block_until_ready(learner.start())
  ours = 'powerprop, fine-tuning'
  programs: dict[str, Callable[[], Any]] = {
    ours: functools.partial(learner.train, state, 0, size.steps),
    'PyTorch': _torch_program(size, net),
  }
  times = timing.compare(programs, ours, rounds, say)
  return timing.Table(
    title,
    (
      _what(size, rounds),
      'PyTorch runs eagerly, with its own Adam and threads; its batches are'
      ' drawn from pictures that are numbers in [0, 1] already. The ratio is of'
      ' seconds: above 1 PyTorch is slower.',
    ),
    [
      {
        'program': name,
        'steps/s': size.steps / t.seconds,
        **timing.ratio_cells(t),
      }
      for name, t in times.items()
    ],
  )


def _torch_program(size: Size, it: Autoencoder) -> Callable[[], None]:
  """So many steps of the same net, from the same weights, in PyTorch."""
  import torch  # an option

  theta, _ = autoencoder.init(it, jax.random.key(0))
  theta = jax.tree.map(np.array, theta)
  net = {
    name: [torch.tensor(x, requires_grad=True) for x in (w['w'], w['b'])]
    for name, w in theta.items()
  }
  dataset = it.sequence.dataset
  own = dataset.train.image[dataset.train.label == 0].astype(np.float32)
  pictures = torch.tensor(own.reshape(len(own), -1) * dataset.scale)
  adam = torch.optim.Adam([x for both in net.values() for x in both], lr=_RATE)

  def layers(name, number, x):
    for i in range(number):
      w, b = net[f'{name}_{i}']
      x = torch.addmm(b, torch.relu(x) if i else x, w)
    return x

  def step():
    x = pictures[torch.randint(len(pictures), (size.batch_size,))]
    found = layers('encoder', len(it.encoder) + 1, x)
    mean, log_std = torch.chunk(found, 2, -1)
    z = mean + torch.exp(log_std) * torch.randn_like(mean)
    hidden = torch.relu(layers('head', len(it.head), z))
    logits = layers('shared', len(it.decoder) + 1, hidden)
    fit = -torch.nn.functional.binary_cross_entropy_with_logits(
      logits, x, reduction='sum'
    )
    divergence = 0.5 * (mean**2 + torch.expm1(2 * log_std)) - log_std
    loss = (divergence.sum() - fit) / len(x)
    adam.zero_grad()
    loss.backward()
    adam.step()

  def program():
    for _ in range(size.steps):
      step()

  return program


def _what(size: Size, rounds: int) -> str:
  width = size.hidden
  return (
    f'Encoder 784-{width}-{width}-2·{size.latent} and head'
    f' {size.latent}-{width}-{width} of each task, shared decoder'
    f' {width}-{width}-784, batch {size.batch_size}, Adam, made-up data'
    f' ({size.num_train // 10:,} pictures of a task),'
    f' {rounds} rounds.'
  )
