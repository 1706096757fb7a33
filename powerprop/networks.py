"""Plain Haiku nets: image [B, H, W, C] -> logits [B, classes].

They know nothing of Powerprop. Every function takes the number of classes and
returns a `hk.TransformedWithState` whose apply is called with (params, state,
rng, images, is_training). The last layer is always called `output`.
"""

from collections.abc import Callable

import haiku as hk
import jax
import jax.numpy as jnp

# Truncated normal, fan-in, scale 1: Haiku divides by 0.8796, which makes the
# standard deviation after truncation √(1/fan_in).
_INIT = hk.initializers.VarianceScaling(1.0, 'fan_in', 'truncated_normal')


def mlp(
  num_classes: int, hidden: tuple[int, ...] = (300, 100)
) -> hk.TransformedWithState:
  """A ReLU perceptron on flattened pixels; by default LeNet-300-100.

  Args:
    num_classes: width of the output layer.
    hidden: widths of the hidden layers.

  Returns:
    The transformed net; on 28x28 pictures LeNet-300-100 has 266,200 weights.

  Reference: the Powerpropagation release (deepmind-research,
    powerpropagation.ipynb): layers, initialisation, zero biases.
  """

  def net(image: jax.Array, is_training: bool) -> jax.Array:
    del is_training
    x = image.reshape(image.shape[0], -1)
    for i, size in enumerate(hidden):
      x = jax.nn.relu(hk.Linear(size, w_init=_INIT, name=f'hidden_{i}')(x))
    return hk.Linear(num_classes, w_init=_INIT, name='output')(x)

  return hk.transform_with_state(net)


class SlicedConv2D(hk.Module):
  """A convolution as slices and one matrix product; `hk.Conv2D`'s values.

  On CPU, XLA's own convolution took 99 ms a step inside a scan against 8 ms
  outside it, this one 6 ms in both; under vmap it stays a batched product where
  XLA's becomes a slow grouped convolution. Padding is 'SAME'.
  """

  def __init__(self, channels: int, kernel: int, stride: int, name: str):
    """Constructs the module.

    Args:
      channels: number of output channels.
      kernel: side of the square kernel.
      stride: step between output pixels.
      name: the module's name.
    """
    super().__init__(name)
    self._channels, self._kernel, self._stride = channels, kernel, stride

  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, ⌈H/stride⌉, ⌈W/stride⌉, channels]."""
    k, step = self._kernel, self._stride
    shape = (k, k, x.shape[-1], self._channels)
    w = hk.get_parameter('w', shape, x.dtype, _INIT)
    b = hk.get_parameter('b', shape[-1:], x.dtype, jnp.zeros)
    out_h, out_w = -(-x.shape[1] // step), -(-x.shape[2] // step)
    spare = [
      max((out - 1) * step + k - size, 0)
      for out, size in ((out_h, x.shape[1]), (out_w, x.shape[2]))
    ]
    x = jnp.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in spare), (0, 0)])
    patches = jnp.concatenate(
      [
        x[
          :,
          i : i + (out_h - 1) * step + 1 : step,
          j : j + (out_w - 1) * step + 1 : step,
        ]
        for i in range(k)
        for j in range(k)
      ],
      axis=-1,
    )
    return patches @ w.reshape(-1, self._channels) + b


def _conv_net(
  num_classes: int, channels: tuple[int, ...], hidden: tuple[int, ...]
) -> hk.TransformedWithState:
  """5x5 convolutions of stride 2 with ReLU, then a ReLU perceptron."""

  def net(image: jax.Array, is_training: bool) -> jax.Array:
    del is_training
    x = image
    for i, size in enumerate(channels):
      x = jax.nn.relu(SlicedConv2D(size, 5, 2, name=f'conv_{i}')(x))
    x = jnp.reshape(x, (x.shape[0], -1))
    for i, size in enumerate(hidden):
      x = jax.nn.relu(hk.Linear(size, w_init=_INIT, name=f'hidden_{i}')(x))
    return hk.Linear(num_classes, w_init=_INIT, name='output')(x)

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


NETWORKS: dict[str, Callable[..., hk.TransformedWithState]] = {
  f.__name__: f for f in (mlp, mnist_conv, cifar10_conv)
}
