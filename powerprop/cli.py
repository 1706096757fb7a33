"""What every experiment binary shares: flags, errors in a sentence, caches."""

from collections.abc import Callable, Sequence
import os
import pathlib
import signal
import sys
from typing import Any, NoReturn

from absl import app
from absl import flags
from absl import logging
import jax
from ml_collections import config_flags

from powerprop import data
from powerprop import runs
from powerprop import settings

_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  "the run's folder (config, metrics, checkpoints, results, figures); start"
  ' the same command again to resume. Default: runs/ and the name of the'
  ' config file.',
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir',
  None,
  'where tensorflow-datasets has or puts its prepared data. Default:'
  ' $TFDS_DATA_DIR, else ~/tensorflow_datasets.',
)
_CACHE = flags.DEFINE_bool(
  'compilation_cache',
  True,
  "keep compiled programs in the user's cache folder, so that a second start"
  ' is faster.',
)

_CONFIG_HELP = (
  'an experiment: a Python file with get_config(). Override its fields with'
  ' --config.FIELD=VALUE, for instance --config.steps=100 or'
  ' --config.alphas="(1,3)" or --config.optimizer_kwargs="{\'momentum\':0.9}";'
  ' docs/experiments.md says what each field means.'
)


def cache_folder() -> pathlib.Path:
  """$XDG_CACHE_HOME/powerprop, else ~/.cache/powerprop."""
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(base) / 'powerprop'


def main(
  default_config: str,
  experiment: Callable[[Any, pathlib.Path, str | None], None],
) -> None:
  """Parses flags and runs an experiment; every known fault is one sentence.

  Args:
    default_config: path of the config file when --config is not given.
    experiment: called with (config, workdir, data_dir).
  """

  def parse(argv: Sequence[str]) -> list[str]:
    given = [a for a in argv if a.startswith('--config=')] or [default_config]
    path = given[-1].removeprefix('--config=')
    if not pathlib.Path(path).is_file():
      fail(f'the config file {path} does not exist; see configs/.', 2)
    try:
      # Reads the default file and, in it, the overrides: errors start here.
      config_flags.DEFINE_config_file('config', default_config, _CONFIG_HELP)
      for name in ('config', 'workdir', 'data_dir', 'compilation_cache'):
        flags.FLAGS.register_key_flag_for_module(argv[0], flags.FLAGS[name])
      rest = flags.FLAGS(list(argv))
      flags.FLAGS.config.to_dict()
      return rest
    except (
      flags.Error,
      AttributeError,
      ImportError,
      KeyError,
      OSError,
      SyntaxError,
      TypeError,
      ValueError,
    ) as e:
      fail(f'{_one_line(e)} ({path}; --help shows the flags).', 2)

  def start(argv: Sequence[str]) -> None:
    if len(argv) > 1:
      fail(f'{argv[1]!r} is not a flag; run with --help.', 2)
    if _CACHE.value:
      folder = cache_folder() / 'jax'
      jax.config.update('jax_compilation_cache_dir', str(folder))
      jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS['config']))
    workdir = pathlib.Path(_WORKDIR.value or pathlib.Path('runs') / name.stem)
    workdir = workdir.expanduser()
    try:
      experiment(flags.FLAGS.config, workdir, _DATA_DIR.value)
      sys.stdout.flush()
    except (settings.ConfigError, data.DataError, runs.RunError) as e:
      fail(str(e), 1)
    except runs.Interrupted as e:
      print(
        f'\nStopped by {e}; everything is saved in {workdir}: start the same'
        ' command again to go on.',
        file=sys.stderr,
      )
      sys.exit(128 + e.signum)
    except BrokenPipeError:  # as with `| head`; the rest is not for reading
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
      sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
      fail(f'stopped; what was saved in {workdir} is kept.', 130)

  signal.signal(signal.SIGTERM, signal.default_int_handler)
  logging.set_verbosity(logging.WARNING)
  app.run(start, flags_parser=parse)


def fail(message: str, status: int) -> NoReturn:
  """Prints one sentence and exits."""
  print(f'Error: {message}', file=sys.stderr)
  sys.exit(status)


def _one_line(e: BaseException) -> str:
  text = str(e.args[0] if e.args else e).replace('\\n', '\n').strip()
  if 'Traceback (most recent call last)' in text:  # of the config file
    text = text.splitlines()[-1]
  name = text.strip('\'"')
  if isinstance(e, AttributeError | KeyError) and name.isidentifier():
    return (
      f'the config has no field {name} to override; to add to a dict of it,'
      ' give the dict as a whole'
    )
  text = text.replace('\\', '')
  return ' '.join(text.replace('"', '').replace("'", '').split())
