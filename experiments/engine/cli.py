"""What every experiment binary shares: its command line, errors, signals.

Nothing here imports JAX before the command line is known to be right: what is
wrong with it is said at once.
"""

import codecs
from collections.abc import Callable, Sequence
import contextlib
import functools
import importlib
import logging
import os
import pathlib
import signal
import sys
import textwrap
import traceback
from typing import Any, NamedTuple, NoReturn
import warnings

from absl import flags
import absl.logging
import ml_collections

from experiments.engine import config_files
from experiments.engine import fields as fields_lib
from experiments.engine import overrides
from experiments.engine.config_files import CommandError

_HELP = ('-h', '-help', '--help', '--helpfull', '--helpshort')
_ERRORS = 'powerprop.plain'
# How to write what a terminal's encoding lacks; all else becomes '?'.
_PLAIN = {
  'α': 'alpha',
  'ε': 'epsilon',
  'θ': 'theta',
  'φ': 'phi',
  'Ψ': 'Psi',
  '±': '+/-',
  '–': '-',
  '−': '-',
  '·': '*',
  '×': 'x',
  '½': '1/2',
  '≤': '<=',
  '≥': '>=',
  '∞': 'inf',
  '…': '...',
}


class Command(NamedTuple):
  """A command line, understood.

  Attributes:
    config: of the file, with the overrides.
    path: of that file.
    workdir: the run's folder.
    data_dir: where prepared data lie; None for the default.
    compilation_cache: whether to keep compiled programs.
    dry_run: whether to say what the run will take, and to run nothing.
    wants_help: whether to show help and to run nothing.
    place: as `hosts.Place`, where several hosts run together; None where this
      is the only one.
  """

  config: ml_collections.ConfigDict
  path: pathlib.Path
  workdir: pathlib.Path
  data_dir: str | None
  compilation_cache: bool
  dry_run: bool
  wants_help: bool
  place: tuple[str | None, int | None, int | None] | None = None


def main(
  binary: str,
  doc: str | None,
  act: Callable[[Any, pathlib.Path | None, str | None], None] | None = None,
) -> None:
  """Parses the command line and runs an experiment; every fault is a sentence.

  Args:
    binary: a name in `fields.BINARIES`.
    doc: what it is for, in a first line.
    act: called with (config, workdir, data_dir), and without a workdir for a
      dry run; it imports what it needs by itself. None is `run_or_show`.
  """
  kept = 'nothing ran'

  def stop(signum: int, unused_frame: Any) -> NoReturn:
    _end(signum, f'{kept}: start the same command again to go on.')

  # They end it at once, without an exception: raised in a callback of the
  # garbage collector (JAX has one) it would be lost. Where there is something
  # to save, `runs.stop_signals` takes over.
  for signum in (signal.SIGTERM, signal.SIGINT):
    signal.signal(signum, stop)
  write_to_any_terminal()
  _tell_people()
  try:
    command = parse(binary, sys.argv[1:])
    kept = f'what was saved in {command.workdir} is kept'
    if command.wants_help:
      print(help_text(binary, command, doc))
    else:
      _run(act or functools.partial(run_or_show, binary), command)
    sys.stdout.flush()
  except CommandError as e:
    fail(str(e), 2)
  except BrokenPipeError:  # as with `| head`; the rest is not for reading
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)


def run_or_show(
  binary: str,
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path | None,
  data_dir: str | None,
) -> None:
  """What an experiment does with a config, in the folder that is its own.

  Its folder has a module `run` with `dry_run` and `run`, and where it has
  settings of its own a module `settings` with `check` and `rules`.

  Args:
    binary: a name in `fields.BINARIES`.
    config: as the command line has it.
    workdir: the run's folder; None only says what the run will take.
    data_dir: where prepared data lie.
  """
  # Not above: the command line is checked before JAX is loaded.
  from experiments.engine import fit
  from experiments.engine import folder
  from experiments.engine import hosts
  from experiments.engine import runs
  from experiments.report import files

  wing = binary if fields_lib.BINARIES[binary].own else 'engine'
  settings = importlib.import_module(f'experiments.{wing}.settings')
  run = importlib.import_module(f'experiments.{binary}.run')
  checked = settings.check(config)
  if workdir is None:
    print(run.dry_run(checked, data_dir))
    return
  rules = settings.rules(checked)
  given = config.to_dict()
  if hosts.several():
    fields = {f'config field {k}': v for k, v in rules.resolve(given).items()}
    hosts.require_same({'code': runs.code(), 'workdir': str(workdir), **fields})
  if hosts.first():
    with runs.disk_errors(workdir):
      folder.open_folder(workdir, given, rules)
  hosts.meet()
  if (results := files.read_results(workdir)) is not None:
    print(f'{workdir} is finished: its tables and figures, drawn again.')
  else:
    results = run.run(checked, workdir, data_dir)
  if not hosts.first():
    return
  with runs.disk_errors(workdir):
    figures, tables = files.redraw(workdir)
  print(tables)
  print(fit.closing_line(results, figures))


def parse(binary: str, arguments: Sequence[str]) -> Command:
  """Understands a command line; needs no JAX.

  Args:
    binary: a name in `fields.BINARIES`.
    arguments: of the command line, without the program.

  Returns:
    A command.

  Raises:
    CommandError: with a sentence on what is wrong.
  """
  values, fields = _flags(), fields_lib.of(binary)
  try:
    arguments = values.read_flags_from_files(list(arguments), force_gnu=True)
    asking = [a for a in arguments if a in _HELP]
    given, rest = overrides.split(
      [a for a in arguments if a not in _HELP], fields
    )
    named, rest = _config_flag(rest)
    others = values([binary, *rest])[1:]
  except flags.Error as e:
    text = str(e).removeprefix('ERROR:: ').replace(' ?', '?').rstrip('.')
    raise CommandError(f'{text} (--help lists the flags).') from None
  if others:
    file = others[0]
    hint = f'; write --config={file}' if file.endswith('.py') else ''
    raise CommandError(f'{file!r} is not a flag{hint}; run with --help.')
  path = config_files.find(named or fields_lib.BINARIES[binary].config)
  config = config_files.read(path)
  fits = fields_lib.fitting(config)
  if fits not in (None, binary):
    raise CommandError(
      f'{path} is for python -m experiments.{fits}, and this is'
      f' experiments.{binary}; run that, or choose another config (--help'
      ' lists them).'
    )
  overrides.apply(config, given, fields)
  workdir = pathlib.Path(values.workdir or pathlib.Path('runs', path.stem))
  try:
    workdir = workdir.expanduser()
  except RuntimeError as e:
    raise CommandError(
      f'--workdir is {workdir}: {str(e).rstrip(".")}; write it without ~.'
    ) from None
  return Command(
    config,
    path,
    workdir,
    values.data_dir,
    values.compilation_cache,
    values.dry_run,
    bool(asking),
    _place(values, binary),
  )


def help_text(binary: str, command: Command, doc: str | None) -> str:
  """What --help prints.

  Args:
    binary: a name in `fields.BINARIES`.
    command: that was given, for the values of its config.
    doc: what the binary is for, in a first line.

  Returns:
    Text of 80 columns.
  """
  fill = lambda text: textwrap.fill(
    text, 80, initial_indent=' ' * 6, subsequent_indent=' ' * 6
  )
  parts = [
    (doc or '').strip().partition('\n')[0],
    f'\nUsage: python -m experiments.{binary} [--config=FILE]\n'
    '       [--config.FIELD=VALUE ...] [--workdir=DIR] [FLAGS]\n\nFlags:',
  ]
  values = _flags()
  for name in values:
    if values[name].help and name not in ('flagfile', 'undefok'):
      parts += [f'  --{name}', fill(values[name].help)]
  parts += ['  --flagfile', fill('a file with more of them, one a line.')]
  parts.append('\nConfigs (a path, or the name alone):')
  for path, summary in config_files.of_binary(binary):
    parts += [f'  {path}', fill(summary)]
  parts.append(f'\nFields of {command.path} (docs/experiments.md has more):')
  for name, field in fields_lib.of(binary).items():
    if name in command.config:
      value = command.config[name]
      if isinstance(value, ml_collections.ConfigDict):
        value = value.to_dict()
      shown = textwrap.shorten(repr(value), 75 - len(name), placeholder=' …')
    else:
      shown = f'{field.default!r} (the default)'
    parts += [f'  {name} = {shown}', fill(field.meaning)]
  return '\n'.join(parts)


def _place(
  values: flags.FlagValues, binary: str
) -> tuple[str | None, int | None, int | None] | None:
  """Which of several hosts this is, if there are several."""
  place = values.coordinator_address, values.num_processes, values.process_id
  given = [x is not None for x in place]
  if any(given) and not all(given):
    raise CommandError(
      '--coordinator_address, --num_processes and --process_id go together:'
      ' give all three on every host, or none.'
    )
  # Of one task there is nobody to wait for; SLURM has it so in a shell, too.
  slurm = int(os.environ.get('SLURM_NTASKS', 1)) > 1
  slurm = slurm and 'SLURM_STEP_ID' in os.environ
  together = values.distributed
  if together is None:
    together = all(given) or slurm
  if not together:
    return None
  if binary != 'sparse_training':
    raise CommandError(
      f'experiments.{binary} runs on one host: leave out --distributed and its'
      ' like (under SLURM, give --nodistributed), or choose'
      ' experiments.sparse_training.'
    )
  return place


def fail(message: str, status: int) -> NoReturn:
  """Prints one sentence and exits."""
  print(f'Error: {message}', file=sys.stderr)
  sys.exit(status)


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  flags.DEFINE_string(
    'workdir',
    None,
    "the run's folder (config, metrics, checkpoints, results, figures); start"
    ' the same command again to resume. Default: runs/ and the name of the'
    ' config file.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'data_dir',
    None,
    'where tensorflow-datasets has or puts its prepared data. Default:'
    ' $TFDS_DATA_DIR, else ~/tensorflow_datasets.',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'compilation_cache',
    True,
    "keep compiled programs in the user's cache folder, so that a second start"
    ' is faster; --nocompilation_cache does not.',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'dry_run',
    False,
    'say what the run will take (trainings, steps, FLOPs, time, memory), train'
    ' nothing and write nothing.',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'distributed',
    None,
    'run on several hosts together, which share the workdir; start the same'
    ' command on each. Default: if SLURM has started several tasks, or the next'
    ' three flags are given. On TPU pods, give it.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'coordinator_address',
    None,
    'host:port of the first host, where neither SLURM nor a TPU pod says it.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'num_processes',
    None,
    'number of hosts, likewise.',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_integer(
    'process_id',
    None,
    'which of the hosts this is, from 0, likewise.',
    lower_bound=0,
    flag_values=values,
  )
  return values


def _config_flag(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
  """The last --config, in one word or two, and the other arguments."""
  named, others, rest = None, [], list(arguments)
  while rest:
    name, equals, value = (argument := rest.pop(0)).partition('=')
    if name not in ('--config', '-config'):
      others.append(argument)
      continue
    if not equals and rest:
      value = rest.pop(0)
    if not value:
      raise CommandError(f'{argument} names no file: --config=FILE.')
    named = value
  return named, others


def _run(experiment: Callable[..., None], command: Command) -> None:
  """Everything from the first import of JAX on."""
  # Figures go into files: a backend for windows plays no part, nor its faults.
  os.environ['MPLBACKEND'] = 'agg'
  import jax

  from experiments import data
  from experiments.data import cache
  from experiments.engine import hosts
  from experiments.engine import runs
  from experiments.engine import settings

  flags.FLAGS.mark_as_parsed()  # libraries may look into theirs
  chosen = os.environ.get('JAX_COMPILATION_CACHE_DIR')  # by the user
  if command.compilation_cache and not (chosen or command.dry_run):
    folder = os.path.join(cache.user_folder(), 'jax')
    jax.config.update('jax_compilation_cache_dir', folder)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  try:
    if command.place is not None:
      hosts.join(hosts.Place(*command.place))
    workdir = None if command.dry_run else command.workdir
    experiment(command.config, workdir, command.data_dir)
  except (settings.ConfigError, data.DataError, runs.RunError) as e:
    hosts.end(str(e), 1)
    fail(str(e), 1)
  except runs.Interrupted as e:
    hosts.linger()
    _end(
      e.signum,
      f'everything is saved in {command.workdir}: start the same command again'
      ' to go on.',
    )
  except Exception as e:
    if hosts.was_left(e):
      hosts.end(
        'another host has ended, so this one cannot go on: start the same'
        f' command on all of them to go on from what is saved in'
        f' {command.workdir}.',
        1,
      )
    if hosts.several():
      hosts.end(traceback.format_exc(), 1)
    raise


def _end(signum: int, message: str) -> NoReturn:
  """Says it and exits, with the status of a program that a signal stopped.

  All files are whole. What Python does at its end is left out: threads of XLA
  and TensorStore may be at work, and do not survive it.
  """
  text = f'\nStopped by {signal.Signals(signum).name}; {message}\n'
  # It may have come in the midst of a print().
  with contextlib.suppress(OSError, RuntimeError, ValueError):
    sys.stdout.flush()
  with contextlib.suppress(OSError):
    os.write(2, text.encode(sys.stderr.encoding or 'utf-8', _ERRORS))
  os._exit(128 + signum)


def write_to_any_terminal() -> None:
  """Printing never fails: what an encoding lacks is written otherwise."""

  def plain(e: UnicodeError) -> tuple[str, int]:
    if not isinstance(e, UnicodeEncodeError):
      raise e
    text = e.object[e.start : e.end]
    return ''.join(_PLAIN.get(c, '?') for c in text), e.end

  codecs.register_error(_ERRORS, plain)
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, 'reconfigure'):
      stream.reconfigure(errors=_ERRORS)


class _Sentences(logging.Handler):
  """What libraries log, as sentences, above a bar if there is one."""

  def emit(self, record: logging.LogRecord) -> None:
    """Prints a record."""
    import tqdm

    with tqdm.tqdm.external_write_mode(file=sys.stderr):
      print(
        f'{record.levelname.capitalize()}: {self.format(record).strip()}',
        file=sys.stderr,
        flush=True,
      )


def _tell_people() -> None:
  """Warnings without the place in the code: they are for who runs it."""
  logging.root.handlers[:] = [_Sentences()]
  absl.logging.set_verbosity(absl.logging.WARNING)
  warnings.formatwarning = lambda message, *_, **__: f'Warning: {message}\n'
