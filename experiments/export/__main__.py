"""The trained weights of a net, as a file.

  python -m experiments.export --workdir=DIR
  python -m experiments.export --workdir=DIR --net=NAME --out=net.safetensors
  python -m experiments.export --workdir=DIR --check=net.safetensors
  python -m experiments.export --check=net.safetensors --onnx=net.onnx

The first lists the nets of a finished run of any experiment. The second writes
one of them: what its masks leave, or, as .npz, all arrays. The third measures a
file on the test set, and compares it with what the run has recorded.
"""

import argparse
from collections.abc import Sequence
import os
import pathlib
import sys

from experiments.export import checking
from experiments.export import narrowing
from experiments.export import nets
from experiments.export import onnx
from experiments.export import tables
from experiments.report import files
from experiments.report import weights
import powerprop
from powerprop.sparse_file import Sparse


def write(given: argparse.Namespace) -> None:
  """Writes the net that the command line names, and prints what it takes."""
  names = weights.names(given.workdir)
  if given.net is None and len(names) > 1:
    raise ValueError(
      f'{given.workdir} has {len(names)} nets: say which by --net; without'
      ' --out they are listed.'
    )
  name = given.net or names[0]
  found, meta = nets.exported(given.workdir, name, given.task, given.data_dir)
  out = pathlib.Path(given.out)
  out.parent.mkdir(parents=True, exist_ok=True)
  if out.suffix == '.npz':
    weights.save(out, found)
    print(out)
    return
  net = Sparse(found.params, found.state, found.masks, meta)
  if given.narrow:
    net = narrowing.narrow(net)
    print(f'Units that are left: {net.meta["network_kwargs"]}.\n')
  powerprop.save_sparse(
    out, net.params, net.masks, state=net.state, meta=net.meta
  )
  kept = powerprop.load_sparse(out)
  print(f'{tables.layers(out)}\n\n{tables.sizes(out, kept, found)}\n\n{out}')


def check(given: argparse.Namespace) -> bool:
  """Measures a file's net and prints the result; whether it is as recorded."""
  found = powerprop.load_sparse(given.check)
  checked = checking.check(found, given.workdir, given.data_dir)
  print(
    f'{given.check}: test accuracy {checked.accuracy!r}, loss'
    f' {checked.loss:.6g}; results.json has {checked.recorded!r} and'
    f' {checked.recorded_loss:.6g}: '
    + ('the same accuracy.' if checked.same else 'NOT the same accuracy.')
  )
  return checked.same


def main(arguments: Sequence[str] | None = None) -> int:
  """Does what the command line says; what is wrong is a sentence.

  Args:
    arguments: of the command line; None for those of the process.

  Returns:
    The exit status, which is 1 where a file is not as recorded.
  """
  files.print_anywhere()
  parser = argparse.ArgumentParser(
    prog='python -m experiments.export',
    description='Lists the nets of a finished run, writes one of them as a'
    ' file, and checks such files.',
  )
  add = parser.add_argument
  add('--workdir', help="a run's folder")
  add('--net', help='a name from the list')
  add('--task', type=int, help='of several, from 0')
  add('--out', help='a .safetensors to write, or an .npz with φ as well')
  add(
    '--narrow',
    action='store_true',
    help='take out units that do nothing, with the weights that read them',
  )
  add('--check', help='a .safetensors to measure')
  add('--onnx', help='an .onnx to write, of the file that --check names')
  add('--data_dir', help='where prepared data lie')
  given = parser.parse_args(arguments)
  if given.workdir is None and not (given.check and given.onnx):
    parser.error("name a run's folder, --workdir=DIR")
  if given.onnx and not given.check:
    parser.error('--onnx is made of a file: name it, --check=FILE')
  try:
    if given.out:
      write(given)
    if given.check and given.workdir and not check(given):
      return 1
    if given.onnx:
      far = onnx.save(given.onnx, powerprop.load_sparse(given.check))
      print(
        f'{given.onnx}: logits as of JAX, to {far:.1g} of the largest one,'
        f' {os.path.getsize(given.onnx):,} bytes.'
      )
    if not (given.out or given.check):
      print(*weights.names(given.workdir), sep='\n')
  except (ImportError, OSError, RuntimeError, ValueError) as error:
    print(error, file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
