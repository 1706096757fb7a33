"""Residual nets, as those of `networks`."""

import functools
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine.convolution import INIT
from experiments.engine.convolution import SlicedConv2D
from powerprop import modules

_HE = hk.initializers.VarianceScaling(2.0, 'fan_in', 'truncated_normal')
# What all batch normalisation here is made with.
_NORM: dict[str, Any] = {
  'create_scale': True,
  'create_offset': True,
  'decay_rate': 0.9,
  'eps': 1e-5,
}


def _haikus_init(shape: Any, dtype: Any) -> jax.Array:
  """As `hk.Conv2D` draws kernels."""
  std = 1 / np.sqrt(np.prod(shape[:-1]))
  return hk.initializers.TruncatedNormal(std)(shape, dtype)


def _conv(
  channels: int, kernel: int, stride: int, name: str, sliced: bool
) -> Any:
  """A convolution without biases: XLA's, or slices and a matrix product."""
  if not sliced:
    return hk.Conv2D(channels, kernel, stride, with_bias=False, name=name)
  return SlicedConv2D(
    channels, kernel, stride, name, with_bias=False, w_init=_haikus_init
  )


def norm_relu(
  x: jax.Array, is_training: bool, name: str, groups: int = 1
) -> jax.Array:
  """ReLU of batch normalisation, over groups of the batch."""
  norm = modules.BatchNorm(name=name, groups=groups, **_NORM)
  return jax.nn.relu(norm(x, is_training))


def wide_resnet(
  num_classes: int,
  depth: int = 22,
  width: int = 2,
  dropout: float = 0.3,
  batch_norm_groups: int = 1,
) -> hk.TransformedWithState:
  """A wide residual net for CIFAR; by default WRN-22-2, as in RigL's protocol.

  A 3x3 convolution, three groups of (depth − 4)/6 blocks of 16, 32 and 64 times
  `width` channels, and a mean over the picture. A block is twice batch
  normalisation, ReLU and a 3x3 convolution; a 1x1 convolution takes the input
  past it where the number of channels changes. Kernels have no biases and He's
  initialisation.

  Args:
    num_classes: width of the output layer.
    depth: number of layers, 6n + 4.
    width: factor on the channels.
    dropout: rate of dropout between a block's convolutions, in [0, 1); RigL's
      code has 0.3.
    batch_norm_groups: as of `resnet`.

  Returns:
    The transformed net; WRN-22-2 has 1,076,912 weights for 10 classes.

  Raises:
    ValueError: if no net has this depth.

  Reference: Zagoruyko and Komodakis, Wide residual networks (2016); RigL's
    public code (rigl/cifar_resnet), whose kernels are Glorot's.
  """
  blocks, rest = divmod(depth - 4, 6)
  if rest or blocks < 1:
    raise ValueError(
      f'depth is {depth} but must be 6n + 4: 10, 16, 22, 28 and so on'
    )

  normed = functools.partial(norm_relu, groups=batch_norm_groups)

  def conv(x: jax.Array, channels: int, kernel: int, stride: int, name: str):
    return hk.Conv2D(
      channels, kernel, stride, with_bias=False, w_init=_HE, name=name
    )(x)

  def block(
    x: jax.Array, channels: int, stride: int, is_training: bool, name: str
  ) -> jax.Array:
    y = normed(x, is_training, f'{name}_norm_0')
    if x.shape[-1] != channels:
      x = conv(y, channels, 1, stride, f'{name}_shortcut')
    y = conv(y, channels, 3, stride, f'{name}_conv_0')
    y = normed(y, is_training, f'{name}_norm_1')
    if is_training and dropout:
      y = hk.dropout(hk.next_rng_key(), dropout, y)
    return x + conv(y, channels, 3, 1, f'{name}_conv_1')

  def net(image: jax.Array, is_training: bool) -> jax.Array:
    x = conv(image, 16, 3, 1, 'conv')
    for group in range(3):
      for i in range(blocks):
        stride = 2 if group and not i else 1
        name = f'group_{group}_block_{i}'
        x = block(x, 2**group * 16 * width, stride, is_training, name)
    x = normed(x, is_training, 'norm')
    x = jnp.mean(x, axis=(1, 2))
    return hk.Linear(num_classes, w_init=INIT, name='output')(x)

  return hk.transform_with_state(net)


class _Block(hk.Module):
  """`hk.nets.ResNet.BlockV1` under the same names, with our normalisation."""

  def __init__(
    self,
    channels: int,
    stride: int,
    bottleneck: bool,
    project: bool,
    groups: int,
    sliced: bool,
    name: str,
  ):
    super().__init__(name)

    def layer(size, kernel, step, names, **start):
      conv, norm = names
      return (
        _conv(size, kernel, step, conv, sliced),
        modules.BatchNorm(name=norm, groups=groups, **start, **_NORM),
      )

    self._shortcut = None
    if project:
      names = 'shortcut_conv', 'shortcut_batchnorm'
      self._shortcut = layer(channels, 1, stride, names)
    sizes = [(channels, 3, stride), (channels, 3, 1)]
    if bottleneck:
      few = channels // 4
      sizes = [(few, 1, 1), (few, 3, stride), (channels, 1, 1)]
    self._layers = []
    for i, size in enumerate(sizes):
      # So that the block starts as an identity.
      start = {'scale_init': jnp.zeros} if i == 2 else {}
      names = f'conv_{i}', f'batchnorm_{i}'
      self._layers.append(layer(*size, names, **start))

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    shortcut = x
    if self._shortcut is not None:
      conv, norm = self._shortcut
      shortcut = norm(conv(x), is_training)
    for i, (conv, norm) in enumerate(self._layers):
      x = norm(conv(jax.nn.relu(x) if i else x), is_training)
    return jax.nn.relu(x + shortcut)


class _Group(hk.Module):
  """`hk.nets.ResNet.BlockGroup` of such blocks."""

  def __init__(
    self, number: int, stride: int, project: bool, name: str, **options: Any
  ):
    super().__init__(name)
    self._blocks = [
      _Block(
        stride=1 if i else stride,
        project=project and not i,
        name=f'block_{i}',
        **options,
      )
      for i in range(number)
    ]

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    for block in self._blocks:
      x = block(x, is_training)
    return x


def resnet(
  num_classes: int,
  blocks: tuple[int, ...] = (1, 1, 1, 1),
  width: int = 16,
  bottleneck: bool = True,
  large: bool = True,
  batch_norm_groups: int = 1,
  sliced: bool = False,
) -> hk.TransformedWithState:
  """A residual net of any size; by default a small ResNet-50, for trials.

  Its strides are in 3x3 convolutions (v1.5), and kernels are truncated normal
  with fan-in scale 1.

  Args:
    num_classes: width of the output layer.
    blocks: how many in each group; the first of a group, but for the first
      group, halves the picture and doubles the channels.
    width: channels of the first convolution, a multiple of 4 with bottlenecks.
    bottleneck: whether blocks are 1x1, 3x3 and 1x1 convolutions with four times
      the channels, and start as identities; else two 3x3 convolutions.
    large: whether the net begins with a 7x7 convolution of stride 2 and a max
      pool, as for ImageNet, or with a 3x3 convolution.
    batch_norm_groups: G, of `powerprop.BatchNorm`: a step's examples are
      normalised in G parts, as where each of G devices has its own, of a
      published net. Of a batch that goes through the net in parts
      (`accumulate`), each part is divided so.
    sliced: whether convolutions are slices and a matrix product each, to the
      same values: on a CPU, where XLA's own are slow inside a scan.

  Returns:
    The transformed net; by default it has 506,672 weights for 10 classes.
  """

  def net(image: jax.Array, is_training: bool) -> jax.Array:
    kernel, stride = (7, 2) if large else (3, 1)
    x = _conv(width, kernel, stride, 'conv', sliced)(image)
    x = norm_relu(x, is_training, 'conv_norm', batch_norm_groups)
    if large:
      x = hk.max_pool(x, (1, 3, 3, 1), (1, 2, 2, 1), 'SAME')
    for i, number in enumerate(blocks):
      group = _Group(
        number,
        stride=2 if i else 1,
        project=bottleneck or i > 0,
        name=f'group_{i}',
        channels=2**i * width * (4 if bottleneck else 1),
        bottleneck=bottleneck,
        groups=batch_norm_groups,
        sliced=sliced,
      )
      x = group(x, is_training)
    x = jnp.mean(x, axis=(1, 2))
    return hk.Linear(num_classes, w_init=INIT, name='output')(x)

  return hk.transform_with_state(net)


def resnet18(
  num_classes: int, batch_norm_groups: int = 1
) -> hk.TransformedWithState:
  """ResNet-18 for small pictures: a 3x3 convolution first, and no max pool.

  Args:
    num_classes: width of the output layer.
    batch_norm_groups: as of `resnet`.

  Returns:
    The transformed net; it has 11,164,352 weights for 10 classes.

  Reference: He et al., Deep residual learning for image recognition (2016).
  """
  groups = batch_norm_groups
  return resnet(num_classes, (2, 2, 2, 2), 64, False, False, groups)


def resnet50(
  num_classes: int, batch_norm_groups: int = 1
) -> hk.TransformedWithState:
  """ResNet-50 v1.5 for ImageNet: its strides are in the 3x3 convolutions.

  Haiku's, but for the names and for the output layer: that one starts at zero
  there, and a weight at zero never moves under Ψ. The last scale of each block
  starts at zero, so that the blocks start as identities.

  Args:
    num_classes: width of the output layer.
    batch_norm_groups: as of `resnet`.

  Returns:
    The transformed net; it has 25,502,912 weights for 1,000 classes.

  Reference: He et al. (2016); Goyal et al., Accurate, large minibatch SGD
    (2017), section 5.1.
  """
  groups = batch_norm_groups
  return resnet(num_classes, (3, 4, 6, 3), 64, True, True, groups)
