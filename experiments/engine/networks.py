"""Plain Haiku nets: image [B, H, W, C] -> logits [B, classes].

They know nothing of Ψ. Every function takes the number of classes and returns a
`hk.TransformedWithState` whose apply is called with (params, state, rng,
images, is_training). The last layer is always called `output`; nets without
short cuts publish their hidden units.
"""

from collections.abc import Callable
import functools
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from experiments.engine.convolution import INIT
from experiments.engine.convolution import SlicedConv2D
from experiments.engine.residual import norm_relu
from experiments.engine.residual import resnet
from experiments.engine.residual import resnet18
from experiments.engine.residual import resnet50
from experiments.engine.residual import wide_resnet
from powerprop import costs
from powerprop import units
from powerprop.types import Params


def mlp(
  num_classes: int,
  hidden: tuple[int, ...] = (300, 100),
  init_scale: float = 1.0,
  with_bias: bool = True,
) -> hk.TransformedWithState:
  """A ReLU perceptron on flattened pixels; by default LeNet-300-100.

  Args:
    num_classes: width of the output layer.
    hidden: widths of the hidden layers.
    init_scale: s > 0; weights start with variance s/fan_in.
    with_bias: whether units have biases, which start at 0.

  Returns:
    The transformed net; on 28x28 pictures LeNet-300-100 has 266,200 weights.

  Reference: the Powerpropagation release (deepmind-research,
    powerpropagation.ipynb): layers, initialisation, zero biases.
  """
  if not init_scale > 0:
    raise ValueError(f'init_scale is {init_scale} but must be above 0')
  init = hk.initializers.VarianceScaling(
    init_scale, 'fan_in', 'truncated_normal'
  )
  linear = functools.partial(hk.Linear, with_bias=with_bias, w_init=init)

  def net(image: jax.Array, is_training: bool) -> jax.Array:
    del is_training
    x = image.reshape(image.shape[0], -1)
    for i, size in enumerate(hidden):
      name = f'hidden_{i}'
      x = units.publish(name, jax.nn.relu(linear(size, name=name)(x)))
    return linear(num_classes, name='output')(x)

  return hk.transform_with_state(net)


def _conv_net(
  num_classes: int,
  channels: tuple[int, ...],
  hidden: tuple[int, ...],
  kernel: int = 5,
  pool: bool = False,
  norm: bool = False,
) -> hk.TransformedWithState:
  """Convolutions with ReLU that halve the picture, then a ReLU perceptron.

  Args:
    num_classes: width of the output layer.
    channels: of the convolutions.
    hidden: widths of the hidden layers.
    kernel: side of the kernels.
    pool: whether a 3x3 max pool halves the picture, or the convolution itself.
    norm: whether batch normalisation comes before every ReLU.

  Returns:
    The transformed net.
  """

  def net(image: jax.Array, is_training: bool) -> jax.Array:
    def active(x, name):
      if norm:
        x = norm_relu(x, is_training, f'{name}_norm')
      return units.publish(name, x if norm else jax.nn.relu(x))

    x = image
    for i, size in enumerate(channels):
      stride = 1 if pool else 2
      name = f'conv_{i}'
      x = active(SlicedConv2D(size, kernel, stride, name=name)(x), name)
      if pool:
        x = hk.max_pool(x, (1, 3, 3, 1), (1, 2, 2, 1), 'SAME')
    x = jnp.reshape(x, (x.shape[0], -1))
    for i, size in enumerate(hidden):
      name = f'hidden_{i}'
      x = active(hk.Linear(size, w_init=INIT, name=name)(x), name)
    return hk.Linear(num_classes, w_init=INIT, name='output')(x)

  return hk.transform_with_state(net)


def mnist_conv(num_classes: int) -> hk.TransformedWithState:
  """Three layers: conv 16, conv 32, linear.

  The report shows histograms of three layers and says no more: the sizes are a
  default of ours.

  Args:
    num_classes: width of the output layer.

  Returns:
    The transformed net; on 28x28x1 pictures it has 28,880 weights.

  Reference: Jain, Raj and Asgaonkar (report, 2022), section 3.2.
  """
  return _conv_net(num_classes, channels=(16, 32), hidden=())


def cifar10_conv(num_classes: int) -> hk.TransformedWithState:
  """Five layers: conv 6, conv 16, linear 120, 84, and the output.

  The report shows histograms of five layers and says no more: the widths are
  LeNet-5's, a default of ours.

  Args:
    num_classes: width of the output layer.

  Returns:
    The transformed net; on 32x32x3 pictures it has 136,650 weights.

  Reference: Jain, Raj and Asgaonkar (report, 2022), section 3.3.
  """
  return _conv_net(num_classes, channels=(6, 16), hidden=(120, 84))


def small_conv(
  num_classes: int,
  channels: tuple[int, ...] = (16, 32, 64),
  hidden: tuple[int, ...] = (128,),
  norm: bool = True,
) -> hk.TransformedWithState:
  """3x3 convolutions of stride 2 and a hidden layer: for trials on a CPU.

  Without normalisation, a net that is very sparse from the start hardly learns:
  what its few weights let through shrinks from layer to layer.

  Args:
    num_classes: width of the output layer.
    channels: of the convolutions.
    hidden: widths of the hidden layers.
    norm: whether batch normalisation comes before every ReLU.

  Returns:
    The transformed net; on 32x32x3 pictures it has 155,824 weights.
  """
  return _conv_net(num_classes, channels, hidden, kernel=3, norm=norm)


def small_alexnet(num_classes: int) -> hk.TransformedWithState:
  """Two 5x5 convolutions of 64 channels with max pools, then 384, 192, output.

  The paper says "a smaller version of AlexNet" and no more. This one is a
  default of ours: the small AlexNet of Zhang et al., without its local response
  normalisation.

  Args:
    num_classes: width of the output layer.

  Returns:
    The transformed net; on 32x32x3 pictures it has 1,755,712 weights.

  Reference: Zhang et al., Understanding deep learning requires rethinking
    generalization (2017), appendix A.
  """
  return _conv_net(num_classes, channels=(64, 64), hidden=(384, 192), pool=True)


def block_conv(
  num_classes: int,
  channels: tuple[int, ...] = (32, 32, 64, 64),
  hidden: tuple[int, ...] = (512,),
  kernel: int = 3,
  pool_every: int = 2,
  dropout: tuple[float, float] = (0.25, 0.5),
) -> hk.TransformedWithState:
  """Blocks of convolutions that end with a max pool, then a ReLU perceptron.

  By default the narrow net of CLNP's split CIFAR, which is that of synaptic
  intelligence. Convolutions keep the picture's size; the 3x3 pools halve it.

  Args:
    num_classes: width of the output layer.
    channels: of the convolutions, each with ReLU.
    hidden: widths of the hidden layers.
    kernel: side of the kernels.
    pool_every: convolutions in a block, ≥ 1.
    dropout: rates in [0, 1) after each block and after each hidden layer, in
      training alone. Units are published before it.

  Returns:
    The transformed net; on 32x32x3 pictures it has 2,167,648 weights.

  Raises:
    ValueError: if an option is out of range.

  Reference: Golkar et al., Continual learning via neural pruning (2019), table
    2, whose paddings and strides it has; it does not say how weights start.
  """
  if pool_every < 1:
    raise ValueError(f'pool_every is {pool_every} but must be at least 1')
  after_block, after_hidden = dropout
  if not all(0 <= rate < 1 for rate in dropout):
    raise ValueError(f'dropout is {dropout} but must be rates in [0, 1)')

  def net(image: jax.Array, is_training: bool) -> jax.Array:
    def thinned(x, rate):
      if is_training and rate:
        return hk.dropout(hk.next_rng_key(), rate, x)
      return x

    x = image
    for i, size in enumerate(channels):
      name = f'conv_{i}'
      x = jax.nn.relu(SlicedConv2D(size, kernel, 1, name=name)(x))
      x = units.publish(name, x)
      if (i + 1) % pool_every == 0:
        # Where all are ≥ 0, zeros around them change no maximum.
        x = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
        x = hk.max_pool(x, (1, 3, 3, 1), (1, 2, 2, 1), 'VALID')
        x = thinned(x, after_block)
    x = jnp.reshape(x, (x.shape[0], -1))
    for i, size in enumerate(hidden):
      name = f'hidden_{i}'
      x = jax.nn.relu(hk.Linear(size, w_init=INIT, name=name)(x))
      x = thinned(units.publish(name, x), after_hidden)
    return hk.Linear(num_classes, w_init=INIT, name='output')(x)

  return hk.transform_with_state(net)


def fully_conv(
  num_classes: int,
  channels: tuple[int, ...] = (128, 256, 512, 1024, 2048),
  strides: tuple[int, ...] = (1, 2, 1, 2, 1),
  paddings: tuple[int, ...] = (1, 0, 0, 1, 0),
  kernel: int = 3,
  norm: bool = True,
) -> hk.TransformedWithState:
  """Convolutions alone: the output layer is one, and a mean over its picture.

  By default the wide net of CLNP's split CIFAR.

  Args:
    num_classes: channels of the last convolution, which has stride 1 and no
      padding.
    channels: of the others, each with ReLU.
    strides: theirs.
    paddings: theirs, pixels on every side.
    kernel: side of the kernels.
    norm: whether batch normalisation comes before every ReLU.

  Returns:
    The transformed net; it has 25,255,296 weights for 10 classes.

  Raises:
    ValueError: if there are not as many strides and paddings as channels.

  Reference: Golkar et al., Continual learning via neural pruning (2019), table
    3; it does not say how weights start.
  """
  if not len(channels) == len(strides) == len(paddings):
    raise ValueError(
      f'there are {len(channels)} channels, {len(strides)} strides and'
      f' {len(paddings)} paddings, but each layer needs one of each'
    )

  def net(image: jax.Array, is_training: bool) -> jax.Array:
    x = image
    for i, (size, stride, padding) in enumerate(
      zip(channels, strides, paddings, strict=True)
    ):
      name = f'conv_{i}'
      x = SlicedConv2D(size, kernel, stride, name, padding=padding)(x)
      if norm:
        x = norm_relu(x, is_training, f'{name}_norm')
      x = units.publish(name, x if norm else jax.nn.relu(x))
    x = SlicedConv2D(num_classes, kernel, 1, 'output', padding=0)(x)
    return jnp.mean(x, axis=(1, 2))

  return hk.transform_with_state(net)


NETWORKS: dict[str, Callable[..., hk.TransformedWithState]] = {
  f.__name__: f
  for f in (
    mlp,
    mnist_conv,
    cifar10_conv,
    small_conv,
    small_alexnet,
    block_conv,
    fully_conv,
    wide_resnet,
    resnet,
    resnet18,
    resnet50,
  )
}


def layer_flops(
  net: hk.TransformedWithState,
  shapes: Params,
  net_state: Any,
  image_shape: tuple[int, ...],
) -> dict[str, float]:
  """FLOPs of a dense forward pass of one picture, by parameter path.

  Args:
    net: one of these, or one like them.
    shapes: of its parameters.
    net_state: its state, or the shapes of that.
    image_shape: (H, W, C).

  Returns:
    What `powerprop.flops` returns.
  """
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  return costs.flops(
    lambda params, state, x: net.apply(
      params, state, None, x, is_training=False
    )[0],
    shapes,
    net_state,
    image,
  )
