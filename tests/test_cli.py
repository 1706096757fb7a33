"""The command line of all binaries: what it understands, what it says."""

import gc
import importlib
import io
import logging
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import textwrap
import warnings

import absl.logging
import jax
import ml_collections
import pytest

from configs import digits
from experiments import cli
from experiments import config_files
from experiments import fields
from experiments import overrides
from powerprop import continual_settings
from powerprop import redraw
from powerprop import runs
from powerprop import settings
from powerprop import sparse_plan
from powerprop import sparse_settings
from powerprop.data import cache

ROOT = pathlib.Path(__file__).resolve().parents[1]
_BINARIES = sorted(fields.BINARIES)
_CHECKS = {
  'one_shot': settings.check,
  'sparse_training': sparse_settings.check,
  'continual': continual_settings.check,
  'plan': sparse_plan.of_config,
}


def _parse(*arguments, binary='one_shot'):
  return cli.parse(binary, arguments)


def _small(binary):
  """A config of a binary; one whose plan takes no time."""
  config = config_files.read(config_files.find(fields.BINARIES[binary].config))
  if binary == 'plan':
    config.update(network='mlp', methods=('dense',), image_shape=(2, 2, 1))
  return config


# Fields.


@pytest.mark.parametrize('binary', _BINARIES)
def test_fields_are_those_that_the_check_takes(binary):
  found, config = fields.of(binary), _small(binary)
  assert all(f.meaning for f in found.values())
  for name, field in found.items():
    if name not in config:
      assert not field.required
      config[name] = field.default
  _CHECKS[binary](config)  # all of them together are right
  every = {
    name
    for c in (
      settings.Settings,
      sparse_settings.SparseSettings,
      continual_settings.ContinualSettings,
      sparse_plan.Net,
    )
    for name in c._fields
  }
  for name in every - {*found}:
    with pytest.raises(settings.ConfigError, match=f'{name!r} is unknown'):
      _CHECKS[binary](ml_collections.ConfigDict({**_small(binary), name: 0}))
  for name, field in found.items():
    if field.required:
      config = _small(binary)
      del config[name]
      with pytest.raises(settings.ConfigError, match=f'no field {name!r}'):
        _CHECKS[binary](config)


def test_every_config_is_listed_by_the_binary_that_it_is_for():
  listed = {p: b for b in _BINARIES for p, _ in config_files.of_binary(b)}
  there = sorted((ROOT / 'configs').glob('[!_]*.py'))
  assert listed == {
    f'configs/{p.name}': fields.fitting(config_files.read(p)) for p in there
  }


# Overrides: (binary, argument, path, value).
_OVERRIDES = [
  # A number or several, whatever the file has.
  ('one_shot', '--config.alphas=2', 'alphas', (2,)),
  ('one_shot', '--config.alphas=(1,2.5)', 'alphas', (1, 2.5)),
  ('one_shot', '--config.alphas=[1,3]', 'alphas', (1, 3)),
  ('one_shot', '-config.learning_rate=0.1', 'learning_rate', (0.1,)),
  ('one_shot', '--config.transforms=chain_rule', 'transforms', ('chain_rule',)),
  ('sparse_training', '--config.methods=set,rigl', 'methods', ('set', 'rigl')),
  ('sparse_training', "--config.methods=('set',)", 'methods', ('set',)),
  # Types are those of the documentation.
  ('one_shot', '--config.checkpoint_seconds=5', 'checkpoint_seconds', 5.0),
  ('one_shot', '--config.dataset=mnist', 'dataset', 'mnist'),
  ('one_shot', "--config.dataset='mnist'", 'dataset', 'mnist'),
  ('one_shot', '--config.steps=1_000', 'steps', 1000),
  ('continual', '--config.reset_optimizer', 'reset_optimizer', True),
  ('continual', '--noconfig.reset_optimizer', 'reset_optimizer', False),
  ('continual', '--config.reset_optimizer=true', 'reset_optimizer', True),
  # Fields that the file leaves out.
  ('one_shot', '--config.l2=1e-4', 'l2', 1e-4),
  ('one_shot', '--config.l2=0', 'l2', 0.0),
  ('one_shot', '--config.l2=inf', 'l2', math.inf),
  ('one_shot', '--config.l2=1' + 400 * '0', 'l2', math.inf),
  ('one_shot', '--config.augment=crop_flip', 'augment', 'crop_flip'),
  (
    'one_shot',
    '--config.learning_rate_schedule.kind=cosine',
    'learning_rate_schedule',
    {'kind': 'cosine'},
  ),
  # Within dicts, also what is not there.
  (
    'one_shot',
    '--config.network_kwargs.hidden=7',
    'network_kwargs',
    {'hidden': (7,)},
  ),
  (
    'one_shot',
    '--config.optimizer_kwargs.momentum=0.9',
    'optimizer_kwargs',
    {'momentum': 0.9},
  ),
  (
    'one_shot',
    "--config.optimizer_kwargs={'nesterov':True}",
    'optimizer_kwargs',
    {'nesterov': True},
  ),
  (
    'sparse_training',
    '--config.method_kwargs.ac_dc.begin=10',
    'method_kwargs.ac_dc',
    {'begin': 10},
  ),
  (
    'continual',
    '--config.method_kwargs.ewc.coefficient=(1,2)',
    'method_kwargs.ewc',
    {'coefficient': (1, 2)},
  ),
  (
    'sparse_training',
    "--config.layer_densities=(('hidden_.*',0.1),)",
    'layer_densities',
    (('hidden_.*', 0.1),),
  ),
]


@pytest.mark.parametrize('binary, argument, path, value', _OVERRIDES)
def test_a_field_is_overridden(binary, argument, path, value):
  config = _parse(argument, binary=binary).config
  for name in path.split('.'):
    got = config = config[name]
  if isinstance(got, ml_collections.ConfigDict):
    got = got.to_dict()
  assert got == value and type(got) is type(value)


def test_overrides_add_up_and_change_no_other_field():
  command = _parse('--config.alphas=1', '--config.alphas', '3', '--config.l2=1')
  wanted = digits.get_config().to_dict() | {'alphas': (1, 3), 'l2': 1.0}
  assert command.config.to_dict() == wanted
  assert command.config.is_locked
  with pytest.raises(AttributeError):
    command.config.steeps = 3
  settings.check(command.config)


def test_fields_with_several_types_are_open_in_every_file():
  config = digits.get_config()
  with config.ignore_type():
    config.alphas = 1.0  # a scalar in this file
  given, _ = overrides.split(['--config.alphas=(1,2)'], fields.of('one_shot'))
  overrides.apply(config, given, fields.of('one_shot'))
  assert config.alphas == (1, 2)


def test_a_value_that_a_file_computes_from_another(wrong_files):
  file = f'--config={wrong_files}/computed.py'
  assert _parse(file, '--config.steps=1000').config.seeds == 8
  with pytest.raises(cli.CommandError, match="'seeds' cannot be computed"):
    _parse(file, '--config.steps=0')


def test_a_value_that_a_file_leaves_to_the_command_line(wrong_files):
  command = _parse(f'--config={wrong_files}/open.py', '--config.steps=7')
  assert command.config.steps == 7


# Finding a config.


@pytest.mark.parametrize(
  'arguments',
  [
    [],
    ['--config=configs/digits.py'],
    ['--config', 'configs/digits.py'],
    ['-config=configs/digits.py'],
    ['-config', 'configs/digits.py'],
    ['--config=digits'],
    ['--config=digits.py'],
    [f'--config={ROOT}/configs/digits.py'],
    ['--config=configs/no.py', '--config=digits'],  # the last counts
    ['--flagfile={folder}/flags'],
    ['--flagfile', '{folder}/flags'],
    ['--flagfile=flags'],
  ],
  ids=' '.join,
)
@pytest.mark.parametrize('here', [True, False], ids=['here', 'elsewhere'])
def test_a_config_is_found(arguments, here, tmp_path, monkeypatch):
  text = '--config=digits\n--config.seeds=4\n--workdir=runs/x\n# words\n'
  for folder in (tmp_path, tmp_path / 'other'):
    folder.mkdir(exist_ok=True)
    (folder / 'flags').write_text(text)
  monkeypatch.chdir(ROOT if here else tmp_path / 'other')
  if here and arguments == ['--flagfile=flags']:
    arguments = [f'--flagfile={tmp_path}/flags']
  arguments = [a.format(folder=tmp_path) for a in arguments]
  command = _parse(*arguments)
  assert command.path.name == 'digits.py'
  by_file = any('flagfile' in a for a in arguments)
  wanted = digits.get_config().to_dict() | ({'seeds': 4} if by_file else {})
  assert command.config.to_dict() == wanted
  name = 'x' if by_file else 'digits'
  assert command.workdir == pathlib.Path('runs', name)


def test_a_config_of_ones_own_has_a_name_too(tmp_path, monkeypatch):
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'mine.py').write_text('from configs.digits import *')
  monkeypatch.chdir(tmp_path)
  assert _parse('--config=mine').path.name == 'mine.py'


# What is wrong: (arguments, what the sentence must have in it).
_FILES = {
  'syntax.py': 'x = 3\ndef get_config(:\n',
  'nothing.py': 'x = 3\n',
  'imports.py': '\nimport no_such_module\n',
  'value.py': 'def get_config():\n  raise ValueError("half\\n a config")\n',
  'runtime.py': 'def get_config():\n  raise RuntimeError("no")\n',
  'zero.py': 'def get_config():\n  return 1 / 0\n',
  'assert.py': 'def get_config():\n  assert False\n',
  'recursion.py': 'def get_config():\n  return get_config()\n',
  'exit.py': 'raise SystemExit(3)\n',
  'dict.py': 'def get_config():\n  return {}\n',
  'null.py': 'x = "\0"\n',
  'latin.py': b'x = "\xe4"\n',
  'computed.py': (
    'from configs import digits\n'
    'def get_config():\n  config = digits.get_config()\n'
    '  config.seeds = 8000 // config.get_ref("steps")\n'
    '  return config\n'
  ),
  'open.py': (
    'from configs import digits\nfrom ml_collections import config_dict\n'
    'def get_config():\n  config = digits.get_config()\n'
    '  config.steps = config_dict.required_placeholder(int)\n'
    '  return config\n'
  ),
}
_WRONG = [
  ('--config={0}/syntax.py', ['syntax.py, line 2', "in 'def get_config(:'"]),
  ('--config={0}/nothing.py', ['nothing.py has no function get_config()']),
  ('--config={0}/imports.py', ['imports.py, line 2', "'no_such_module'"]),
  ('--config={0}/value.py', ['value.py, line 2: ValueError: half a config']),
  ('--config={0}/runtime.py', ['runtime.py, line 2: RuntimeError: no']),
  ('--config={0}/zero.py', ['zero.py, line 2: ZeroDivisionError: division']),
  ('--config={0}/assert.py', ['assert.py, line 2: AssertionError']),
  ('--config={0}/recursion.py', ['recursion.py, line 2: RecursionError']),
  ('--config={0}/exit.py', ['exit.py, line 1: SystemExit: 3']),
  ('--config={0}/dict.py', ['dict.py returns dict but must return']),
  ('--config={0}/null.py', ['null.py', 'null bytes']),
  ('--config={0}/latin.py', ['latin.py', 'utf-8']),
  ('--config={0}/open.py', ["'steps' has no value; give --config.steps=V"]),
  ('--config={0}', ['is a folder and no config file']),
  ('--config={0}/sintax.py', ['not exist (did you mean', 'syntax.py?)']),
  ('--config=' + 300 * 'x', ['xxx', 'cannot be read', 'too long']),
  ('--config=configs/digit.py', ["'configs/digit.py'", 'configs/digits.py?']),
  ('--config=fig1_mnst', ["'fig1_mnst'", 'mean configs/fig1_mnist.py?']),
  ('--config=zzzzzz', ["'zzzzzz' does not exist; --help lists"]),
  ('--config', ['--config names no file']),
  ('--config=', ['--config= names no file']),
  ('--config.steps', ['--config.steps has no value']),
  ('--config.optimiser=sgd', ["'optimiser' is unknown", "mean 'optimizer'"]),
  ('--config.zzz=3', ["'zzz' is unknown; --help lists the fields"]),
  ('--config.label_smothing=3', ["did you mean 'label_smoothing'?"]),
  ('--config.seeds=2.5', ['seeds is 2.5 but must be a whole number']),
  ('--config.seeds=True', ['seeds is True but must be a whole number']),
  ('--config.steps=many', ['steps is many but must be a whole number']),
  ('--config.near_zero=()', ['near_zero is () but must be a number']),
  ('--config.l2=x', ['l2 is x but must be a number']),
  ('--config.steps.x=3', ['steps.x cannot be set: steps is 4000 and no dict']),
  ("--config.network_kwargs={{'a.b':1}}", ['network_kwargs', 'a.b']),
  ("--config.network_kwargs.b={{'a.b':1}}", ['network_kwargs.b', 'a.b']),
  ('--wrokdir=x', ["'wrokdir'", 'mean: workdir?']),
  ('--compilation_cache=maybe', ['compilation_cache', 'maybe']),
  ('configs/digits.py', ['is not a flag; write --config=configs/digits.py']),
  ('digits', ["'digits' is not a flag; run with --help"]),
  ('--flagfile={0}/none', ['none', 'No such file']),
  ('--flagfile', ['flagfile']),
]


def _is_one_sentence(text):
  return text.endswith('.') and '\n' not in text and len(text) < 500


@pytest.fixture(scope='module')
def wrong_files(tmp_path_factory):
  folder = tmp_path_factory.mktemp('wrong')
  for name, text in _FILES.items():
    content = text if isinstance(text, bytes) else text.encode()
    (folder / name).write_bytes(content)
  return folder


@pytest.mark.parametrize('argument, parts', _WRONG)
def test_what_is_wrong_is_one_sentence(argument, parts, wrong_files):
  with pytest.raises(cli.CommandError) as error:
    _parse(argument.format(wrong_files))
  text = str(error.value)
  assert all(part in text for part in parts), text
  assert _is_one_sentence(text), text


def test_a_home_that_is_not_there(monkeypatch):
  def expand(path):
    raise RuntimeError('Could not determine home directory.')

  monkeypatch.setattr(pathlib.Path, 'expanduser', expand)
  with pytest.raises(cli.CommandError, match='determine home') as error:
    _parse('--workdir=~/x')
  assert _is_one_sentence(str(error.value))


@pytest.mark.parametrize('binary', _BINARIES)
def test_a_config_of_another_binary_is_named_with_it(binary):
  for other in sorted({*_BINARIES} - {binary}):
    name = fields.BINARIES[other].config
    with pytest.raises(cli.CommandError) as error:
      _parse(f'--config=configs/{name}.py', binary=binary)
    text = str(error.value)
    assert f'{name}.py is for python -m experiments.{other}' in text
    assert _is_one_sentence(text)


# Help.


@pytest.mark.parametrize('flag', ['--help', '-help', '-h', '--helpfull'])
def test_help_may_stand_anywhere(flag):
  assert _parse('--config.seeds=3', flag, '--workdir=x').wants_help
  assert not _parse('--workdir', 'help').wants_help


@pytest.mark.parametrize('binary', _BINARIES)
def test_help_lists_configs_and_fields(binary):
  module = importlib.import_module(f'experiments.{binary}')
  command = _parse('--help', binary=binary)
  text = cli.help_text(binary, command, module.experiment)
  assert all(f'  --{name}\n' in text for name in ('workdir', 'data_dir'))
  for path, summary in config_files.of_binary(binary):
    assert f'  {path}\n' in text and summary[:40] in text
  for name, field in fields.of(binary).items():
    assert f'\n  {name} = ' in text
    assert field.meaning.split()[0] in text
  assert all(len(line) <= 80 for line in text.splitlines()), text


def test_help_has_the_values_of_the_config_that_is_given():
  command = _parse('--help', '--config=fashion_mnist', '--config.seeds=17')
  module = importlib.import_module('experiments.one_shot')
  text = cli.help_text('one_shot', command, module.experiment)
  assert "  dataset = 'fashion_mnist'\n" in text and '  seeds = 17\n' in text
  assert '  l2 = 0.0 (the default)\n' in text


# What is said before JAX is loaded; in a process that has not loaded it.


def test_no_error_of_the_command_line_waits_for_jax(wrong_files):
  program = """
    import io, sys
    from experiments import cli, continual, one_shot, plan, sparse_training

    modules = [continual, one_shot, plan, sparse_training]
    for binary, module in zip(sys.argv[1].split(), modules):
      for argument in sys.argv[2:]:
        out, err = sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        arguments, sys.argv = sys.argv, [binary, argument]
        try:
          cli.main(binary, module.experiment)
          status = 0
        except SystemExit as e:
          status = e.code
        sys.argv = arguments
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        last = (err.getvalue() or out.getvalue()).splitlines()[-1]
        print(binary, argument, status, 'jax' in sys.modules, last, sep='|')
  """
  wrong = [
    '--config=zzzzzz',
    f'--config={wrong_files}/syntax.py',
    f'--config={wrong_files}/zero.py',
    '--config.zzz=3',
    '--config.methods.x.y=3',
    '--wrokdir=x',
    'word',
    '--flagfile=/none',
  ]
  done = subprocess.run(
    [
      sys.executable,
      '-c',
      textwrap.dedent(program),
      ' '.join(_BINARIES),
      *wrong,
      '--help',
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert len(lines) == len(_BINARIES) * (len(wrong) + 1)
  for line in lines:
    _, argument, status, loaded, last = line.split('|')
    assert loaded == 'False', line
    if argument == '--help':
      assert status == '0' and not last.startswith('Error'), line
    else:
      assert status == '2' and last.startswith('Error: '), line


# The whole of `main`, in this process.


@pytest.fixture
def main(monkeypatch, tmp_path):
  """Calls `cli.main` with an experiment; what it sets is put back."""
  signals = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
  handlers = logging.root.handlers[:]
  monkeypatch.setattr(warnings, 'formatwarning', warnings.formatwarning)

  def call(experiment, *flags):
    argv = ['one_shot', '--nocompilation_cache', f'--workdir={tmp_path}/run']
    monkeypatch.setattr(sys, 'argv', [*argv, *flags])
    cli.main('one_shot', experiment)

  yield call
  for signum, handler in signals.items():
    signal.signal(signum, handler)
  logging.root.handlers[:] = handlers


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_where_nothing_waits_for_one(
  main, monkeypatch, capfd, tmp_path, signum
):
  """As after training, while figures are drawn; JAX calls back like that."""
  statuses = []
  monkeypatch.setattr(os, '_exit', statuses.append)
  # An exception would be lost here.
  main(lambda *_: _in_a_callback(lambda: os.kill(os.getpid(), signum)))
  assert statuses == [128 + signum]
  assert capfd.readouterr().err.strip() == (
    f'Stopped by {signum.name}; what was saved in {tmp_path}/run is kept: start'
    ' the same command again to go on.'
  )


def _in_a_callback(act):
  def callback(phase, info):
    gc.callbacks.remove(callback)
    act()

  gc.callbacks.append(callback)
  gc.collect()


def test_a_signal_in_training_says_so_at_once(capfd):
  with runs.stop_signals() as signals:
    os.kill(os.getpid(), signal.SIGINT)
    assert signals == [signal.SIGINT]
    assert capfd.readouterr().err.strip().startswith('Stopping')


def test_warnings_are_sentences_for_people(main, capsys):
  def experiment(*_):
    absl.logging.warning('%s is odd.', 'This')
    absl.logging.info('Not for people.')
    logging.getLogger('a.library').error('That is wrong.')

  main(experiment)
  assert capsys.readouterr().err.splitlines() == [
    'Warning: This is odd.',
    'Error: That is wrong.',
  ]
  told = warnings.formatwarning(UserWarning('Here too.'), UserWarning, 'f', 3)
  assert told == 'Warning: Here too.\n'


def test_printing_fails_on_no_terminal(main, monkeypatch):
  streams = {}
  for name in ('stdout', 'stderr'):
    streams[name] = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
    monkeypatch.setattr(sys, name, streams[name])

  def experiment(*_):
    print('α = 1: 98.2 ± 0.1 …')
    print('a folder called 漢\udcff')
    absl.logging.warning('θ ≥ 0')

  main(experiment)
  out, err = (
    streams[name].detach().getvalue().decode().splitlines() for name in streams
  )
  assert out == ['alpha = 1: 98.2 +/- 0.1 ...', 'a folder called ??']
  assert err == ['Warning: theta >= 0']


def test_the_command_that_redraws_prints_to_any_terminal(monkeypatch):
  stream = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
  with monkeypatch.context() as patch:
    patch.setattr(sys, 'stdout', stream)
    redraw.command('plots', lambda workdir: [pathlib.Path('α.png')], ['run'])
  assert stream.detach().getvalue() == b'?.png\n'


def test_a_backend_for_windows_plays_no_part(main, monkeypatch):
  monkeypatch.setenv('MPLBACKEND', 'no such backend')
  found = []
  main(lambda *_: found.append(os.environ['MPLBACKEND']))
  assert found == ['agg']


def test_a_cache_that_the_user_has_chosen_stays(main, monkeypatch, tmp_path):
  set_to = []
  monkeypatch.setattr(jax.config, 'update', lambda *what: set_to.append(what))
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path))
  main(lambda *_: None, '--compilation_cache')
  assert set_to == []
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  main(lambda *_: None, '--compilation_cache')
  folder = tmp_path / 'powerprop' / 'jax'
  assert ('jax_compilation_cache_dir', str(folder)) in set_to


def test_a_user_without_a_home_has_a_cache(monkeypatch, tmp_path):
  monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
  monkeypatch.setattr(os.path, 'expanduser', lambda path: path)
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  folder = pathlib.Path(cache.user_folder())
  assert folder == tmp_path / f'powerprop-{os.getuid()}'
  assert folder.stat().st_mode & 0o777 == 0o700
  assert cache.user_folder() == str(folder)
  # Programs are loaded from it: that of another user is not taken.
  folder.rmdir()
  folder.symlink_to(tmp_path)
  assert pathlib.Path(cache.user_folder()).parent == tmp_path
  assert cache.user_folder() != str(folder)
