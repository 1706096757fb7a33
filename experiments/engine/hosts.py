"""Several hosts that run one training, each with devices of its own.

All run the same program on the same command and share a file system. The first
of them writes the run's files and speaks; what they decide, they decide
together. All else is JAX's.
"""

from collections.abc import Mapping
import contextlib
import hashlib
import json
import os
import sys
import time
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from experiments.engine import runs
from powerprop import trees

# So long after a host was last heard of, the others give up, in seconds.
_HEARTBEAT = 60
_LINGER = 2.0  # seconds


class Place(NamedTuple):
  """Which of several hosts this one is.

  Attributes:
    coordinator_address: of the first, 'host:port'; None where JAX can find out
      by itself, as under SLURM and on TPU pods.
    num_processes: how many there are, likewise.
    process_id: from 0, likewise.
  """

  coordinator_address: str | None = None
  num_processes: int | None = None
  process_id: int | None = None


def join(place: Place) -> None:
  """Waits for all hosts; to be called before anything asks for devices.

  Args:
    place: of this host.

  Raises:
    RunError: if they do not come together.
  """
  # Signals are heeded by `runs.stop_signals`, and nothing else.
  with contextlib.suppress(AttributeError):  # a JAX without it
    jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(*place, heartbeat_timeout_seconds=_HEARTBEAT)
    several()
  except (RuntimeError, ValueError) as e:
    why = ' '.join(str(e).split())[:200]
    raise runs.RunError(
      f'the hosts did not come together ({why}): start the same command on each'
      ' of them, with --coordinator_address, --num_processes and --process_id'
      ' where neither SLURM nor a TPU pod says which is which.'
    ) from None
  if not first():
    # What is wrong is still said: see `end`.
    sys.stdout = sys.stderr = open(os.devnull, 'w')  # noqa: SIM115


def several() -> bool:
  """Whether there are others."""
  return jax.process_count() > 1


def first() -> bool:
  """Whether this is the host that writes and speaks."""
  return jax.process_index() == 0


def meet() -> None:
  """Waits until all are here."""
  if several():
    multihost_utils.sync_global_devices('powerprop')


def any_of(asked: bool) -> bool:
  """Whether any host asks for something; all hosts call it at the same time."""
  if not several():
    return asked
  return bool(np.any(multihost_utils.process_allgather(np.array([asked]))))


def require_same(facts: Mapping[str, Any]) -> None:
  """Refuses hosts that would not compute the same.

  Args:
    facts: by name what must be the same on all of them, as JSON has it.

  Raises:
    RunError: with the first of them that differs, on every host.
  """
  if not several():
    return
  texts = [json.dumps(x, sort_keys=True, default=str) for x in facts.values()]
  digests = [hashlib.sha256(text.encode()).digest() for text in texts]
  mine = np.array([list(d) for d in digests], np.uint8)
  every = np.asarray(multihost_utils.process_allgather(mine))
  for i, (name, text) in enumerate(zip(facts, texts, strict=True)):
    others = [
      k for k in range(len(every)) if (every[k, i] != every[0, i]).any()
    ]
    if others:
      raise runs.RunError(
        f'the {name} of host {others[0]} is not that of host 0: here, on host'
        f' {jax.process_index()}, it is {text[:200]}; start the same command'
        ' with the same code on all hosts (or, where they are not to train'
        ' together, with --nodistributed).'
      )


def check_replicas(tree: Any) -> None:
  """Compares what several devices hold of the same arrays, bit by bit.

  Whatever makes replicas differ, such as masks drawn with different keys, would
  go on unseen: each device goes on with its own.

  Args:
    tree: of arrays on the devices. Of arrays that are spread over them, devices
      with the same part are compared.

  Raises:
    RunError: naming the first array that differs.
  """
  named = [
    (jax.tree_util.keystr(path), x)
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
    if isinstance(x, jax.Array) and x.sharding.num_devices > 1
  ]
  if not named:
    return
  by_device: dict[Any, list[Any]] = {}
  parts: dict[Any, tuple[str, ...]] = {}
  for _, x in named:
    for shard in x.addressable_shards:
      by_device.setdefault(shard.device, []).append(shard.data)
      where = parts.get(shard.device, ())
      parts[shard.device] = (*where, str(shard.index))
  digests = {d: _digests(tuple(data)) for d, data in by_device.items()}
  found: dict[tuple[str, ...], np.ndarray] = {}
  for device, digest in digests.items():
    mine = np.asarray(digest)
    wanted = found.setdefault(parts[device], mine)
    _refuse(named, wanted, mine, f'device {device.id}')
  if several():
    # In one order on all hosts, each of which has every part.
    mine = np.stack([found[key] for key in sorted(found)])
    for k, theirs in enumerate(multihost_utils.process_allgather(mine)):
      for one, other in zip(mine, theirs, strict=True):
        _refuse(named, one, other, f'host {k}')


def _refuse(named, wanted, found, who) -> None:
  differs = np.flatnonzero((wanted != found).any(-1))
  if differs.size:
    raise runs.RunError(
      f'{who} holds other values of {named[differs[0]][0]} than the others,'
      ' which compute the same: the hardware is at fault, or a function of your'
      ' own is not the same everywhere. Start the same command again, without'
      ' that device: it goes on from the last checkpoint.'
    )


@jax.jit
def _digests(arrays: tuple[jax.Array, ...]) -> jax.Array:
  """Their hashes, uint32 [arrays, 2]."""
  return jnp.stack([_digest(x) for x in arrays])


def _digest(x: jax.Array) -> jax.Array:
  if x.dtype == bool:
    bits = x.astype(jnp.uint32)
  else:
    size = min(32, 8 * x.dtype.itemsize)
    bits = jax.lax.bitcast_convert_type(x, f'uint{size}').astype(jnp.uint32)
  bits = bits.ravel()
  return trees.hashed(bits, jnp.arange(bits.size, dtype=jnp.uint32))


def was_left(error: BaseException) -> bool:
  """Whether an error says that another host has gone."""
  text = f'{type(error).__name__}: {error}'
  return several() and any(
    word in text
    for word in ('Gloo', 'NCCL', 'UNAVAILABLE', 'DEADLINE_EXCEEDED', 'peer')
  )


def end(message: str, status: int) -> None:
  """Where there are several hosts: says it, and ends this one at once.

  At an exit in order, JAX would wait for the others, which may wait for this
  one.
  """
  if several():
    line = f'Error on host {jax.process_index()}: {message}\n'
    os.write(2, line.encode('utf-8', 'replace'))  # sys.stderr may be closed
    linger()
    os._exit(status)


def linger() -> None:
  """Lets the others go first: without the first host, JAX aborts them."""
  if several() and first():
    time.sleep(_LINGER)
