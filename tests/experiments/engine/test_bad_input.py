"""Whatever is wrong: one sentence, with the value and what to do about it."""

import os
import pathlib
import subprocess
import textwrap

import pytest

from configs import digits
from experiments import data
from experiments.engine import fitting
from experiments.engine import folder
from experiments.engine import runs
from experiments.engine import settings
from experiments.report import files
from tests import forks
from tests import tiny
from tests.experiments.engine import test_runs


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp('finished')
  return folder, tiny.run(folder)


# Fields of a config: (what is given, what the sentence must have in it).
_FIELDS = [
  ({'network': 'mpl'}, ["network 'mpl'", "did you mean 'mlp'", 'mnist_conv']),
  ({'optimizer': 'sdg'}, ["optimizer 'sdg'", "did you mean 'sgd'"]),
  ({'optimizer': 'lbfgs'}, ["optimizer 'lbfgs'", 'choose one of']),
  ({'transforms': 'powerpop'}, ["transform 'powerpop'", "mean 'powerprop'"]),
  ({'transforms': ('powerprop', 'x')}, ["transform 'x'", 'chain_rule']),
  ({'transforms': ()}, ['transforms is ()', 'a name or']),
  ({'transforms': 3}, ['transforms is 3', 'a name or']),
  ({'dataset': 'mnits'}, ["data set 'mnits'", "did you mean 'mnist'"]),
  ({'executor': 'pmap'}, ["executor 'pmap'", 'choose one of auto, map, vmap']),
  ({'alphas': (1.0, 0.5)}, ['alphas is 0.5', 'at least 1']),
  ({'alphas': float('nan')}, ['alphas is nan', 'finite']),
  ({'alphas': float('inf')}, ['alphas is inf', 'finite']),
  ({'alphas': ()}, ['alphas is empty', 'at least one']),
  ({'alphas': (2.0, 2.0)}, ['alphas is (2.0, 2.0)', 'once']),
  ({'alphas': 'two'}, ["alphas is 'two'", 'a number']),
  ({'alphas': None}, ['alphas is None', 'a number']),
  ({'densities': (0.0,)}, ['densities is 0', '(0, 1]']),
  ({'densities': (1.0, 1.5)}, ['densities is 1.5', '(0, 1]']),
  ({'densities': -1.0}, ['densities is -1', '(0, 1]']),
  ({'densities': float('nan')}, ['densities is nan', '(0, 1]']),
  ({'learning_rate': -0.1}, ['learning_rate is -0.1', 'at least 0']),
  ({'learning_rate': float('inf')}, ['learning_rate is inf', 'finite']),
  ({'steps': -1}, ['steps is -1', 'whole number of at least 0']),
  ({'steps': 10.5}, ['steps is 10.5', 'whole number']),
  ({'seeds': 0}, ['seeds is 0', 'at least 1']),
  ({'batch_size': 0}, ['batch_size is 0', 'at least 1']),
  ({'chunk_steps': 0}, ['chunk_steps is 0', 'at least 1']),
  ({'accumulate': 0}, ['accumulate is 0', 'at least 1']),
  (
    {'batch_size': 50, 'accumulate': 4},
    ['accumulate is 4', 'a divisor of batch_size, 50'],
  ),
  ({'checkpoint_seconds': -1.0}, ['checkpoint_seconds is -1', 'at least 0']),
  ({'checkpoint_seconds': 'x'}, ["checkpoint_seconds is 'x'", 'a number']),
  ({'near_zero': 0.0}, ['near_zero is 0', 'above 0']),
  ({'output_density_factor': -2}, ['output_density_factor is -2', 'above 0']),
  ({'network_kwargs': {'deep': 3}}, ['network_kwargs', "'deep'"]),
  ({'network_kwargs': 3}, ['network_kwargs is 3', 'a dict']),
  ({'optimizer_kwargs': {'x': 3}}, ['optimizer_kwargs', "'x'"]),
  ({'transform_kwargs': {'x': {}}}, ["transform 'x'", 'choose one of']),
  (
    {'transform_kwargs': {'powerprop': {'every': 3}}},
    ['transform_kwargs.powerprop', "'every'"],
  ),
  (
    {
      'transforms': 'adaptive_powerprop',
      'transform_kwargs': {'adaptive_powerprop': {'every': 0}},
    },
    ['transform_kwargs.adaptive_powerprop', 'every is 0', 'at least 1'],
  ),
  (
    {'optimizer': 'rprop', 'learning_rate_schedule': {'kind': 'cosine'}},
    ["{'kind': 'cosine'}", "optimizer 'rprop'", 'leave the schedule out'],
  ),
  (
    {
      'optimizer': 'rprop',
      'learning_rate_schedule': {'kind': 'constant', 'warmup': 9},
    },
    ["'warmup': 9", "optimizer 'rprop'", 'leave the schedule out'],
  ),
  ({'optimiser': 'sgd'}, ["config field 'optimiser'", "mean 'optimizer'"]),
  # What only the data tell.
  ({'batch_size': 1_258}, ['batch_size is 1258', 'at most 1257', 'digits']),
  ({'network_kwargs': {'hidden': (-1,)}}, ['network_kwargs', '-1']),
  ({'network_kwargs': {'hidden': (0,)}}, ['network_kwargs', 'no units']),
  ({'network_kwargs': {'hidden': 7}}, ['network_kwargs', 'int']),
  (
    {
      'network': 'wide_resnet',
      'network_kwargs': {'depth': 10, 'batch_norm_groups': 4},
      'batch_size': 60,
      'accumulate': 6,
    },
    ['wide_resnet', 'over 4 groups', 'these are 10'],
  ),
  ({'optimizer_kwargs': {'momentum': 'a'}}, ['optimizer_kwargs', 'fit']),
]


def _is_one_sentence(text):
  return text.endswith('.') and '\n' not in text and len(text) < 500


@pytest.mark.parametrize('fields, parts', _FIELDS, ids=lambda x: str(x)[:50])
def test_a_config_field_is_wrong(fields, parts):
  with pytest.raises(settings.ConfigError) as error:
    checked = settings.check(tiny.config(**fields))
    fitting.check_data(checked, data.load('digits'))
  text = str(error.value)
  assert all(part in text for part in parts), text
  assert _is_one_sentence(text), text


def test_a_config_field_is_missing():
  config = tiny.config()
  with config.unlocked():
    del config.steps
  with pytest.raises(settings.ConfigError, match="no field 'steps'; add it"):
    settings.check(config)


@pytest.mark.parametrize(
  'fields',
  [
    {'alphas': 1},
    {'alphas': [1, 2.5]},
    {'learning_rate': 0.2},
    {'densities': 0.5},
    {'transforms': 'chain_rule'},
    {'steps': 0},
    {'checkpoint_seconds': 5},
    {'batch_size': 1_257},
  ],
  ids=str,
)
def test_a_number_for_a_tuple_and_other_handy_things_are_right(fields):
  checked = settings.check(tiny.config(**fields))
  fitting.check_data(checked, data.load('digits'))
  for name, value in fields.items():
    if isinstance(value, tuple | list) or isinstance(
      getattr(checked, name), tuple
    ):
      assert isinstance(getattr(checked, name), tuple)


# The binary.

_BINARY = 'experiments.one_shot'


def test_the_binary_says_what_is_wrong(tmp_path):
  (tmp_path / 'short.py').write_text(
    'import ml_collections\n\n\ndef get_config():\n'
    '  return ml_collections.ConfigDict({"dataset": "digits"})\n'
  )
  file_in_the_way = tmp_path / 'file'
  file_in_the_way.write_text('')

  def folder(name, config, log=b''):
    path = tmp_path / name
    path.mkdir()
    (path / 'config.json').write_bytes(config)
    (path / 'metrics.jsonl').write_bytes(log)
    return f'--workdir={path}'

  small = digits.get_config().to_dict() | {'seeds': 7}
  other = folder('other', files.to_json(small))
  torn = folder('torn', b'{"dataset": "dig')
  alien = folder('alien', b'{"name": "my-app", "version": 3}')
  batch = '--config.batch_size=2000'  # stops a run that gets too far
  empty = tmp_path / 'empty'
  empty.mkdir()

  # argv, status, what the sentence must have in it, environment.
  table = [
    ([f'--config={tmp_path}/short.py'], 1, ["no field 'network'"], {}),
    (['--config.alphas=0.5'], 1, ['alphas is 0.5', 'at least 1'], {}),
    (['--config.densities=(1,2)'], 1, ['densities is 2', '(0, 1]'], {}),
    (['--config.steps=-5'], 1, ['steps is -5', 'at least 0'], {}),
    (['--config.dataset=mnits'], 1, ["'mnits'", "'mnist'"], {}),
    ([batch], 1, ['batch_size is 2000', 'at most 1257'], {}),
    ([other], 1, ['another config', 'seeds was 7 and is now 5'], {}),
    ([torn], 1, ['config.json is damaged', 'choose another'], {}),
    ([alien], 1, ['not the config of a run', 'choose another'], {}),
    (
      [f'--workdir={file_in_the_way}'],
      1,
      ['cannot write to the workdir', str(file_in_the_way), 'choose another'],
      {},
    ),
    (
      [f'--workdir={file_in_the_way}/deeper'],
      1,
      ['cannot write to the workdir', 'choose another'],
      {},
    ),
    (
      ['--config.dataset=mnist'],
      1,
      ["'mnist' is not prepared in", 'TFDS_DATA_DIR'],
      {
        'TFDS_DATA_DIR': str(empty),
        'https_proxy': 'http://127.0.0.1:9',
        'http_proxy': 'http://127.0.0.1:9',
      },
    ),
  ]
  default = f'--workdir={tmp_path / "run"}'
  for argv, wanted, parts, variables in table:
    done = forks.run(_BINARY, [default, *argv], **variables)
    status, out, err = done
    what = f'{argv}: {status}\n{out}\n{err}'
    assert status == wanted, what
    assert 'Traceback' not in err, what
    *_, last = err.strip().splitlines()
    assert last.startswith('Error: ') and _is_one_sentence(last), what
    assert all(part in last for part in parts), what


def test_a_start_that_failed_does_not_block_its_folder(tmp_path):
  """A config that is mended may use the folder that the wrong one made."""
  with pytest.raises(settings.ConfigError, match='at most 1257'):
    tiny.run(tmp_path, batch_size=2_000)
  rules = settings.rules(settings.check(tiny.config()))
  folder.open_folder(tmp_path, tiny.config(seeds=1).to_dict(), rules)
  (tmp_path / 'metrics.jsonl').write_bytes(b'')
  with pytest.raises(runs.RunError, match='seeds was 1 and is now 2'):
    folder.open_folder(tmp_path, tiny.config().to_dict(), rules)


def test_a_reader_that_goes_away_is_no_error(finished):
  folder, _ = finished
  gone = """
    import os
    from experiments.one_shot import plots

    plots.draw = lambda workdir: []  # takes a while
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(reader)
  """
  flags = tiny.flags(folder)
  done = forks.run(_BINARY, flags, before=textwrap.dedent(gone))
  assert done.err == ''
  assert done.status == 141  # as any program that SIGPIPE stops


# A full disk.


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 2 MB."""
  disk = tmp_path / 'disk'
  disk.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(disk)]
  try:
    done = subprocess.run(mount, capture_output=True, text=True)
  except FileNotFoundError:
    pytest.skip('needs the program mount')
  if done.returncode:
    pytest.skip(f'needs the right to mount a tmpfs: {done.stderr.strip()}')
  yield disk
  subprocess.run(['umount', '-l', str(disk)], check=True)


def _fill(disk: pathlib.Path, name: str) -> None:
  with open(disk / name, 'wb', buffering=0) as f:
    try:
      while f.write(b'x' * 4096):
        pass
    except OSError:
      pass


@pytest.mark.parametrize('chunk', [1, 3])
def test_a_full_disk_loses_nothing(small_disk, finished, capfd, chunk):
  workdir = small_disk / 'run'
  with test_runs.during_chunk(chunk, lambda: _fill(small_disk, 'ballast')):
    with pytest.raises(runs.RunError) as error:
      tiny.run(workdir)
  assert f'the disk of {workdir} is full' in str(error.value)
  assert 'start the same command again' in str(error.value)
  assert _is_one_sentence(str(error.value))
  assert 'Traceback' not in capfd.readouterr().err
  (small_disk / 'ballast').unlink()
  results = tiny.run(workdir)
  resumed = f'at step {10 * (chunk - 1)} of 40' in capfd.readouterr().out
  assert resumed == (chunk > 1)
  test_runs._assert_same_run(workdir, results, finished)


@pytest.mark.parametrize('when', ['config', 'checkpoint', 'results'])
def test_a_full_disk_without_a_mount(finished, tmp_path, monkeypatch, when):
  """The same, where the system's answer is made up."""
  workdir = tmp_path / 'run'
  real = os.fsync
  patterns = {
    'config': 'config.json',
    'checkpoint': 'files.json',
    'results': 'results.json',
  }

  def fsync(fd):
    if patterns[when] in os.readlink(f'/proc/self/fd/{fd}'):
      raise OSError(28, 'No space left on device')
    real(fd)

  with monkeypatch.context() as patch:
    patch.setattr(os, 'fsync', fsync)
    with pytest.raises(runs.RunError, match='is full; free some space'):
      with runs.disk_errors(workdir):
        tiny.run(workdir)
  results = tiny.run(workdir)
  test_runs._assert_same_run(workdir, results, finished)
