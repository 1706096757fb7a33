"""The command line without JAX: configs found, faults in a sentence, help."""

import importlib
import pathlib
import subprocess
import sys
import textwrap

import pytest

from configs import digits
from experiments.engine import cli
from experiments.engine import config_files
from experiments.engine import fields

ROOT = pathlib.Path(__file__).resolve().parents[3]
_BINARIES = sorted(fields.BINARIES)


def _module(binary):
  name = f'experiments.{binary}'
  return name if binary == 'plan' else f'{name}.__main__'


def _parse(*arguments, binary='one_shot'):
  return cli.parse(binary, arguments)


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


def test_a_value_that_a_file_computes_from_another(wrong_files):
  file = f'--config={wrong_files}/computed.py'
  assert _parse(file, '--config.steps=1000').config.seeds == 8
  with pytest.raises(cli.CommandError, match="'seeds' cannot be computed"):
    _parse(file, '--config.steps=0')


def test_a_value_that_a_file_leaves_to_the_command_line(wrong_files):
  command = _parse(f'--config={wrong_files}/open.py', '--config.steps=7')
  assert command.config.steps == 7


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
  module = importlib.import_module(_module(binary))
  command = _parse('--help', binary=binary)
  text = cli.help_text(binary, command, module.__doc__)
  assert all(f'  --{name}\n' in text for name in ('workdir', 'data_dir'))
  for path, summary in config_files.of_binary(binary):
    assert f'  {path}\n' in text and summary[:40] in text
  for name, field in fields.of(binary).items():
    assert f'\n  {name} = ' in text
    assert field.meaning.split()[0] in text
  assert all(len(line) <= 80 for line in text.splitlines()), text


def test_help_has_the_values_of_the_config_that_is_given():
  command = _parse('--help', '--config=fashion_mnist', '--config.seeds=17')
  module = importlib.import_module('experiments.one_shot.__main__')
  text = cli.help_text('one_shot', command, module.__doc__)
  assert "  dataset = 'fashion_mnist'\n" in text and '  seeds = 17\n' in text
  assert '  l2 = 0.0 (the default)\n' in text


# What is said before JAX is loaded; in a process that has not loaded it.


def test_no_error_of_the_command_line_waits_for_jax(wrong_files):
  program = """
    import io, sys
    from experiments.engine import cli
    from experiments.continual import __main__ as continual
    from experiments.generative import __main__ as generative
    from experiments.one_shot import __main__ as one_shot
    from experiments import plan
    from experiments.sparse_training import __main__ as sparse_training
    from experiments.stream import __main__ as stream

    modules = [continual, generative, one_shot, plan, sparse_training, stream]
    named = zip(sys.argv[1].split(), modules, strict=True)
    for binary, module in named:
      for argument in sys.argv[2:]:
        out, err = sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        arguments, sys.argv = sys.argv, [binary, argument]
        try:
          cli.main(binary, module.__doc__)
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
