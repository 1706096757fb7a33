"""README and docs/: their code runs, their links resolve."""

import contextlib
import importlib
import inspect
import json
import pathlib
import re
import shlex
import textwrap
import types
from typing import Any
import urllib.parse

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.nudged import nudged
from configs import digits
from configs import digits_continual
from experiments import data
from experiments.continual import cells as continual_cells
from experiments.continual import log as continual_log
from experiments.continual import run as continual_training
from experiments.continual import settings as continual_settings
from experiments.engine import cli
from experiments.engine import folder
from experiments.engine import runs
from experiments.engine import settings
from experiments.export import __main__ as export
from experiments.one_shot import run as one_shot
from experiments.report import files
from experiments.sparse_training import settings as sparse_settings
from experiments.stream import settings as stream_settings
import powerprop
from powerprop import methods
from powerprop import units
from powerprop.methods.continual import packing
from powerprop.psi import Psi
from powerprop.types import Method, Score
from tests import continual_run_tiny
from tests import endings
from tests import sparse_tiny
from tests import tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / 'docs' / 'quickstart.ipynb'
README = ROOT / 'README.md'
EXPERIMENTS = ROOT / 'docs' / 'experiments.md'
SPARSE = ROOT / 'docs' / 'sparse_training.md'
CONTINUAL = ROOT / 'docs' / 'continual_learning.md'
NEW_METHOD = ROOT / 'docs' / 'new_method.md'
ARCHITECTURE = ROOT / 'docs' / 'architecture.md'

# The package has the function under the module's name.
_PACKNET = importlib.import_module(
  'powerprop.methods.continual.efficient_packnet'
)
_NUMBERS = {13: 'thirteen', 14: 'fourteen', 15: 'fifteen', 16: 'sixteen'}
_ENDS = 'mean', 'std'


def _pages() -> list[pathlib.Path]:
  return [README, *sorted((ROOT / 'docs').rglob('*.md')), NOTEBOOK]


def _text(page: pathlib.Path) -> str:
  """A page's Markdown; of a notebook, that of its text cells."""
  text = page.read_text(encoding='utf-8')
  if page.suffix != '.ipynb':
    return text
  cells = json.loads(text)['cells']
  return '\n\n'.join(
    ''.join(c['source']) for c in cells if c['cell_type'] == 'markdown'
  )


def _blocks(page: pathlib.Path, language: str) -> list[str]:
  pattern = rf'^```{language}\n(.*?)^```$'
  return re.findall(pattern, _text(page), re.M | re.S)


def _prose(page: pathlib.Path) -> str:
  return re.sub(r'^```.*?^```$', '', _text(page), flags=re.M | re.S)


def _table(page: pathlib.Path, head: str) -> list[str]:
  """The bodies of a page's tables whose first column is called `head`."""
  pattern = rf'^\| {head} \|.*\n\|[-|]+\n((?:\|.*\n)+)'
  return re.findall(pattern, _text(page), re.M)


def _first_column(table: str) -> set[str]:
  """The names in code, `like_this`, in a table's first column."""
  first = [row.split('|')[1] for row in table.splitlines()]
  return set(re.findall(r'`(\w+)`', ' '.join(first)))


def _anchors(page: pathlib.Path) -> set[str]:
  """The anchors of a page's headings, as GitHub makes them."""
  return {
    re.sub(r'[^\w -]', '', heading.strip().lower()).replace(' ', '-')
    for heading in re.findall(r'^#+ (.*)$', _prose(page), re.M)
  }


# README.md.


def test_readme_example_runs_as_it_stands(capsys):
  (example,) = _blocks(README, 'python')
  names: dict[str, Any] = {}
  exec(compile(example, README, 'exec'), names)
  printed, _ = capsys.readouterr()
  losses = [float(x) for x in re.findall(r'loss ([\d.]+)', printed)]
  assert len(losses) == 4 and losses[-1] < losses[0] / 2
  theta = names['theta']['mlp/~/linear_0']['w']
  phi = names['params']['mlp/~/linear_0']['w']
  np.testing.assert_allclose(theta, np.asarray(phi) ** 3, rtol=1e-5)


def test_readme_lists_every_config_and_only_those():
  named = set(re.findall(r'configs/(\w+)\.py', _text(README)))
  there = {p.stem for p in (ROOT / 'configs').glob('[!_]*.py')}
  rows = re.findall(r'^\| `configs/(\w+)\.py`', _text(README), re.M)
  assert named == there and sorted(rows) == sorted(there)


@pytest.mark.parametrize('page', _pages(), ids=lambda p: p.name)
def test_page_names_only_configs_and_targets_that_exist(page):
  text = _text(page)
  # Those that docs/experiments.md and docs/own_code.md have you write.
  own = {'digits_adam', 'mine_sparse', 'mine_continual'}
  for name in set(re.findall(r'configs/(\w+)\.py', text)) - own:
    assert (ROOT / 'configs' / f'{name}.py').is_file(), name
  makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
  targets = set(re.findall(r'^([a-z]+):', makefile, re.M))
  commands = re.findall(r'^make ([a-z]+)', text, re.M)
  assert set(commands + re.findall(r'`make ([a-z]+)', text)) <= targets


def test_readme_lists_the_public_names():
  text = re.sub(
    r'(\w+)1D/2D/3D(\w*)', r'\g<1>1D\2 \g<1>2D\2 \g<1>3D\2', _text(README)
  )
  assert set(powerprop.__all__) <= set(re.findall(r'\w+', text))


# All pages.


@pytest.mark.parametrize('page', _pages(), ids=lambda p: p.name)
def test_relative_links_resolve(page):
  results = ROOT / 'docs' / 'results'
  for target in re.findall(r'\]\(([^)\s]+)\)', _prose(page)):
    if re.match(r'[a-z]+:', target):
      continue
    name, _, anchor = urllib.parse.unquote(target).partition('#')
    path = (page.parent / name).resolve() if name else page
    if path.parent.name == 'figures' and results in path.parents:
      continue  # `make figures` draws them
    assert path.is_relative_to(ROOT) and path.exists(), target
    assert not anchor or anchor in _anchors(path), target


def _commands(page: pathlib.Path) -> list[list[str]]:
  """[binary, flags...] of the experiments that a page has you run."""
  blocks = '\n'.join(_blocks(page, 'bash')).replace('\\\n', ' ')
  return [
    shlex.split(line.removeprefix('python -m experiments.'))
    for line in blocks.splitlines()
    if re.match(r'python -m experiments\.(?!report|export|continual\.\w)', line)
  ]


@pytest.mark.parametrize(
  'page', [README, EXPERIMENTS, SPARSE, CONTINUAL], ids=lambda p: p.name
)
def test_commands_are_understood(page):
  check = {
    'one_shot': settings.check,
    'sparse_training': sparse_settings.check,
    'continual': continual_settings.check,
    'stream': stream_settings.check,
    'plan': lambda config: config.to_dict(),
  }
  commands = _commands(page)
  assert commands
  for name, *arguments in commands:
    importlib.import_module(f'experiments.{name}')
    check[name](cli.parse(name, arguments).config)


def test_rounding_decides_nothing_in_the_overridden_run(tmp_path):
  (command,) = [c for c in _commands(EXPERIMENTS) if '--workdir=runs/try' in c]
  config = cli.parse(command[0], command[1:]).config
  config.densities, config.alphas, config.seeds = (1.0,), (2.5,), 3
  losses = []
  for name in ('plain', 'nudged'):
    workdir = tmp_path / name
    folder.open_folder(workdir, config.to_dict(), settings.Rules())
    with contextlib.ExitStack() as stack:
      if name == 'nudged':
        stack.enter_context(nudged())
      results = one_shot.run(settings.check(config), workdir)
    assert not results['diverged']
    assert min(row['test_accuracy'] for row in results['rows']) > 0.9
    losses.append([line['loss'] for line in files.read_metrics(workdir)])
  # With ten times the learning rate all diverge.
  np.testing.assert_allclose(*losses, atol=0.01)


def test_experiments_page_reads_results_and_has_their_keys(
  tmp_path, monkeypatch, capsys
):
  workdir = tmp_path / 'runs' / 'digits'
  tiny.run(workdir, alphas=(1.0, 3.0), steps=4, chunk_steps=2)
  _, reader, *_ = _blocks(EXPERIMENTS, 'python')
  monkeypatch.chdir(tmp_path)
  capsys.readouterr()
  exec(compile(reader, EXPERIMENTS, 'exec'), {})
  lines = capsys.readouterr()[0].splitlines()
  assert len(lines) == 3 and ' 10.00% of the weights: 0.' in lines[-1]

  results = json.loads((workdir / 'results.json').read_text())
  entries = {
    'results': results,
    'row': results['rows'][0],
    'summary': results['summary'][0],
    'analysis': results['analysis'][1],
    'environment': results['environment'],
  }
  tables = _table(EXPERIMENTS, 'key')
  assert len(tables) == len(entries)
  for table, (name, entry) in zip(tables, entries.items(), strict=True):
    assert _first_column(table) == set(entry), name
  text = _text(EXPERIMENTS)
  for key in files.read_metrics(workdir)[0]:
    assert f'`{key}`' in text, key
  with np.load(workdir / 'records.npz') as records:
    keys = {re.sub(r'^g\d+/', '', key) for key in records}
  for key in {re.sub(r'^layer\d+', 'layer0', key) for key in keys}:
    assert f'`{key}`' in text, key


def test_experiments_page_saves_a_net(tmp_path, monkeypatch, capsys):
  workdir = tmp_path / 'runs' / 'digits'
  results = tiny.run(
    workdir,
    alphas=(3.0,),
    seeds=1,
    densities=digits.get_config().densities,
  )
  scripts = '\n'.join(_blocks(EXPERIMENTS, 'bash')).replace('\\\n', ' ')
  monkeypatch.chdir(tmp_path)
  commands = re.findall(r'^python -m experiments.export (.*)$', scripts, re.M)
  assert len(commands) == 3
  for command in commands:
    assert export.main(shlex.split(command)) == 0
  printed = capsys.readouterr()[0].splitlines()
  assert sum('/seed_' in x for x in printed) == 20
  assert 'net.safetensors' in printed
  assert printed[-1].endswith('the same accuracy.')
  reader = _blocks(EXPERIMENTS, 'python')[2]
  found: dict[str, Any] = {}
  exec(
    compile(reader.replace('(300, 100)', '(8,)'), EXPERIMENTS, 'exec'), found
  )
  (row,) = [r for r in results['rows'] if f'{r["density"]:g}' == '0.143845']
  # A picture or two may fall on the other side.
  assert found['accuracy'] == pytest.approx(row['test_accuracy'], abs=2 / 360)
  assert found['kept'] == {'hidden_0/w': 74, 'output/w': 23}


def test_experiments_page_has_the_fields_of_a_config():
  (table,) = _table(EXPERIMENTS, 'field')
  fields = re.findall(r'^\| `(\w+)`', table, re.M)
  assert fields == list(settings.Settings._fields)


def test_experiments_page_has_a_config_and_a_network_that_work():
  config, _, _, network = _blocks(EXPERIMENTS, 'python')

  names: dict[str, Any] = {}
  exec(compile(config, EXPERIMENTS, 'exec'), names)
  checked = settings.check(names['get_config']())
  assert checked.optimizer == 'adam' and checked.alphas == (1.0, 1.5, 3.0)

  exec(compile(network, EXPERIMENTS, 'exec'), names)
  net = names['two_layers'](7)
  image = jnp.ones((2, 8, 8, 1))
  params, state = net.init(jax.random.key(0), image, is_training=True)
  logits, _ = net.apply(params, state, None, image, is_training=False)
  assert logits.shape == (2, 7) and 'output' in params


# docs/sparse_training.md.


def test_sparse_page_has_the_fields_of_a_config():
  (table,) = _table(SPARSE, 'field')
  fields = re.findall(r'^\| `(\w+)`', table, re.M)
  own = [n for n in sparse_settings.SparseSettings._fields if n != 'training']
  shared = [*settings.Settings._field_defaults]
  shared.remove('output_layer')
  assert fields == [*own, *shared]


def test_sparse_page_has_the_methods_and_their_options():
  (table,) = _table(SPARSE, 'method')
  told = {}
  for row in table.splitlines():
    (name,) = re.findall(r'^\| `(\w+)`', row)
    told[name] = re.findall(r'`(\w+=[^`]+)`', row.rsplit('|', 2)[1])
  assert sorted(told) == sparse_settings.method_names()
  for name in set(told) - {'one_shot'}:
    (_, *options) = inspect.signature(
      getattr(methods, name)
    ).parameters.values()
    assert told[name] == [f'{o.name}={o.default!r}' for o in options], name
  assert not told['one_shot']


def test_sparse_page_has_the_keys_of_the_results(tmp_path):
  results = sparse_tiny.run(
    tmp_path,
    alphas=(2.0,),
    seeds=1,
    steps=4,
    chunk_steps=4,
    methods=('one_shot', 'static'),
    method_kwargs={},
    densities=(0.004,),  # two weights, for two layers
  )
  for row in results['rows']:
    assert row['emptied_layers'] == ['hidden_0/w', 'output/w'], row['method']
  entries = {
    'results': results,
    'row': results['rows'][0],
    'summary': results['summary'][0],
    'plans': results['plans'][0],
  }
  tables = _table(SPARSE, 'key')
  assert len(tables) == len(entries)
  for table, (name, entry) in zip(tables, entries.items(), strict=True):
    assert _first_column(table) == set(entry), name
  assert results['selected'][0].keys() - entries['summary'] == {'choice'}
  known = set(re.findall(r'`([\w/]+)`', _text(SPARSE) + _text(EXPERIMENTS)))
  for line in files.read_metrics(tmp_path):
    assert set(line) <= known
  with np.load(tmp_path / 'records.npz') as records:
    assert set(records) == {'smallest/2'} <= known


def test_sparse_page_has_a_loop_that_works(capsys):
  loop, _, _ = _blocks(SPARSE, 'python')
  names: dict[str, Any] = {}
  exec(compile(loop, SPARSE, 'exec'), names)
  printed, _ = capsys.readouterr()
  losses = [float(x) for x in re.findall(r'loss ([\d.]+)', printed)]
  assert len(losses) == 3 and losses[-1] < 0.05
  assert '| mlp/~/linear_1/w | 64×64   |' in printed
  target, w = names['target'], names['w']
  kept = {n: int(jnp.sum(w[n[:-2]]['w'] != 0)) for n in target.shapes}
  assert kept == target.kept and sum(kept.values()) == round(0.2 * 72 * 64)
  assert w['mlp/~/linear_2']['w'].all()
  plan = names['plan']
  masks = names['method'].masks(names['state']).forward
  density = {name: float(jnp.mean(m)) for name, m in masks.items()}
  np.testing.assert_allclose(
    powerprop.costs.relative(names['flops'], density), plan.inference_ratio
  )


def test_sparse_page_leaves_out_what_it_says(capsys):
  loop, *blocks = _blocks(SPARSE, 'python')
  names: dict[str, Any] = {}
  start, _, _ = loop.partition('\nnet =')  # the imports and constants
  for block in (start, *blocks):
    exec(compile(block, SPARSE, 'exec'), names)
  printed = capsys.readouterr()[0].split()
  assert printed == ['linear/w', 'linear_1/w']
  theta, phi, w = names['theta'], names['phi'], names['w']
  for name, leaf in (('embed', 'embeddings'), ('~', 'temperature')):
    assert powerprop.is_weight(f'{name}/{leaf}', theta[name][leaf])
    for tree in (phi, w):
      np.testing.assert_array_equal(tree[name][leaf], theta[name][leaf])
  assert np.any(phi['linear']['w'] != theta['linear']['w'])
  kept = {n: int(np.sum(m)) for n, m in names['masks'].items()}
  assert list(kept) == printed
  assert sum(kept.values()) == round(0.1 * (16 * 32 + 32 * 4))


# docs/continual_learning.md.


def test_continual_page_has_the_fields_of_a_config():
  table, of_streams = _table(CONTINUAL, 'field')
  fields = re.findall(r'^\| `(\w+)`', of_streams, re.M)
  assert {*fields, 'training'} == {*stream_settings.StreamSettings._fields}
  fields = re.findall(r'^\| `(\w+)`', table, re.M)
  own = continual_settings.ContinualSettings
  assert fields == [n for n in own._fields if n != 'training']
  text = _text(CONTINUAL)
  (others,) = re.findall(
    r'^`method_training` may have (.*?)\.\n\n', text, re.M | re.S
  )
  assert set(re.findall(r'`(\w+)`', others)) == {*continual_settings.OVERRIDES}
  (unused,) = re.findall(r'but for (`steps`.*?); and', text, re.S)
  assert re.findall(r'`(\w+)`', unused) == [*continual_settings.UNUSED]
  optional = own._field_defaults
  assert fields[-len(optional) :] == [*optional]
  assert 'Those from\n`method_training` on may be left out' in text


def test_continual_page_has_the_sequences_and_scenarios():
  (table,) = _table(CONTINUAL, 'sequence')
  assert _first_column(table) == {*data.SEQUENCES}
  (table,) = _table(CONTINUAL, 'scenario')
  assert _first_column(table) == {*data.SCENARIOS}
  (row,) = re.findall(r'^\| `class` .*', table, re.M)
  shapes = {'h': jnp.ones((20, 20)), 'w': jnp.ones((20, 50))}
  found = units.Units({'h': units.Layer(20, 'h', (), ())}, 'w')
  example = endings.example((4, 5, 1), 50)
  tasks = methods.Tasks(shapes, 2, example, 9, 3, units=lambda: found)
  need = {
    name
    for name in continual_settings.method_names()
    if getattr(methods, name)(tasks).continual.needs_identity
  }
  assert {*re.findall(r'`(\w+)`', row)[1:]} == need


def test_continual_page_has_the_methods_and_their_options():
  (table,) = _table(CONTINUAL, 'method')
  names = []
  for row in table.splitlines():
    *_, default, told, _ = [cell.strip() for cell in row.split('|')]
    names += re.findall(r'^\| `(\w+)`', row)
    fn = getattr(methods, names[-1])
    (_, *options) = inspect.signature(fn).parameters.values()
    wanted = [
      f'{o.name}=RATES'
      if o.default is _PACKNET.RATES
      else f'{o.name}={o.default!r}'
      for o in options
    ]
    assert re.findall(r'`(\w+=[^`]+)`', told) == wanted, names[-1]
    coefficient = methods.COEFFICIENTS.get(names[-1])
    assert default == ('' if coefficient is None else f'{coefficient:g}')
  assert sorted(names) == continual_settings.method_names()
  assert f'any of {_NUMBERS[len(names)]} methods' in _text(CONTINUAL)
  (table,) = _table(CONTINUAL, '`search`')
  assert _first_column(table) == {*_PACKNET.SEARCHES}
  (table,) = _table(CONTINUAL, '`biases`')
  assert _first_column(table) == {*packing.BIASES}


def test_continual_page_says_which_rates_there_are():
  *rates, last = _PACKNET.RATES
  assert f'from {rates[0]:.1%} to {rates[-1]:.1%} in\nsteps' in _text(CONTINUAL)
  np.testing.assert_allclose(np.divide(rates[1:], rates[:-1]), 1.1, rtol=1e-3)
  assert last == 1


def _live(cell, tasks, world):
  """What a cell leaves, with made-up numbers: nothing is trained."""
  plan, count = cell.plan, len(cell.members)
  log = continual_log.Log(cell, tasks.sequence)
  sizes = np.array(plan.layer_sizes)
  nothing: Any = np.zeros(count)
  bits: Any = np.zeros((count, 2))
  score = Score(nothing, nothing, bits)
  every = np.ones(count)
  log.at_start([every] * cell.plan.num_tasks)
  folder = tasks.folder / cell.name
  folder.mkdir(parents=True)
  metrics = runs.Metrics(folder, 0, 0)
  for t in range(cell.plan.num_tasks):
    log.before(t, every)
    log.loss(every)
    report = {'rate': every, 'reached': every > 0}
    for i, name in enumerate(('used', 'new', 'reused')):
      report[f'{name}_by_layer'] = np.tile(sizes // (i + 2), (count, 1))
    dense = dict.fromkeys(('validation', 'test'), every)
    log.learned(
      t, dict.fromkeys(dense, score), dense, report, every < 1, every, every
    )
    for split in dense:
      log.recalled(t, split, [score] * (t + 1))
    metrics.write({'step': t, **row} for row in log.rows_of(t, 1.0))
  metrics.close()
  masks: Any = np.ones((count, -(-sizes.sum() // 8)), np.uint8)
  records: list[Any] = [(packing.Record(masks, {}), {})] * cell.plan.num_tasks
  return log.lived(cell.name, records, 1.0)


def test_continual_page_has_the_keys_of_the_results(tmp_path, monkeypatch):
  monkeypatch.setattr(continual_training, 'live', _live)
  results = continual_run_tiny.run(tmp_path, methods='efficient_packnet')
  (table, rows, summary) = _table(CONTINUAL, 'key')
  assert _first_column(table) == set(results)
  assert _first_column(rows) == set(results['rows'][0])
  keys = set(results['summary'][0])
  measured = {key.removesuffix('_mean') for key in keys if '_mean' in key}
  ends = {f'{name}_{end}' for name in measured for end in _ENDS}
  assert _first_column(summary) == keys - ends
  assert re.findall(r'`…_(\w+)`', summary) == [*_ENDS] and ends < keys
  (table,) = _table(CONTINUAL, 'measure')
  assert _first_column(table) == measured

  (table,) = _table(EXPERIMENTS, 'key')[-1:]
  more = set(results['environment']) - _first_column(table)
  assert more and all(f'`{key}`' in _text(CONTINUAL) for key in more)
  (line, *_) = files.read_metrics(tmp_path)
  assert set(line) == {'step', *results['rows'][0]}
  (table,) = _table(CONTINUAL, 'record')
  with np.load(tmp_path / 'records.npz') as records:
    names = {f'NAME/{key.rpartition("/")[2]}' for key in records}
  assert set(re.findall(r'`(NAME/\w+)`', table)) == names


def test_continual_page_asks_for_a_net_that_there_is():
  (script,) = [b for b in _blocks(CONTINUAL, 'bash') if '.export' in b]
  flags = shlex.split(script.replace('\\\n', ' '))[3:]
  given = dict(flag.removeprefix('--').split('=', 1) for flag in flags)
  workdir, member, out = given['workdir'], given['net'], given['out']
  s = continual_settings.check(digits_continual.get_config())
  assert workdir == f'runs/{digits_continual.__name__.rpartition(".")[2]}'
  plans: Any = {
    n: types.SimpleNamespace(settings=continual_settings.of_method(s, n))
    for n in s.methods
  }
  keys = dict.fromkeys(continual_cells.keys(s, plans), (0.0,))
  names = [m.name for m in continual_cells.make_members(s, plans, keys, False)]
  assert member in names and out.endswith('.safetensors')
  assert int(given['task']) in range(s.num_tasks)


def test_continual_page_learns_tasks_with_the_library_alone(capsys):
  example, _ = _blocks(CONTINUAL, 'python')
  names: dict[str, Any] = {}
  exec(compile(example, CONTINUAL, 'exec'), names)
  printed = capsys.readouterr()[0]
  packing, penalty = printed.removeprefix('efficient_packnet\n').split('ewc\n')
  rows = [[line.split() for line in x.splitlines()] for x in (packing, penalty)]
  assert all([len(row) for row in some] == [1, 2, 3] for some in rows)
  assert all(row == rows[0][-1][: len(row)] for row in rows[0])  # bit for bit
  assert min(map(float, rows[0][-1])) > 0.7  # chance is 0.2
  assert min(float(row[-1]) for row in rows[1]) > 0.8
  assert float(rows[1][-1][0]) < float(rows[1][0][0])  # EWC forgets
  learned, problem = names['learned'], names['problem']
  for t, task in enumerate(names['tasks']):
    score = problem.score(learned.weights(t), learned.state.net, task, 'test')
    np.testing.assert_allclose(score.value, learned.scores[-1, t], atol=1e-6)


def test_continual_page_has_a_loop_that_works(capsys, monkeypatch):
  *_, loop = _blocks(CONTINUAL, 'python')
  small = digits_continual.get_config()
  small.network_kwargs.hidden = (60,)
  monkeypatch.setattr(digits_continual, 'get_config', lambda: small)
  names: dict[str, Any] = {}
  exec(compile(loop, CONTINUAL, 'exec'), names)
  lines = capsys.readouterr()[0].splitlines()
  table = [re.findall(r'0\.\d+', line) for line in lines]
  assert [len(row) for row in table] == [1, 2, 3]
  # Learned (chance is 0.1), and the same after each further task.
  assert min(map(float, table[-1])) > 0.7
  assert all(row == table[-1][: len(row)] for row in table)


# docs/new_method.md, the section for several tasks; tests/test_docs_method.py
# has the rest.


def test_method_page_has_a_method_for_several_tasks(monkeypatch):
  (code,) = re.findall(
    r'^   ```python\n(.*?)^   ```$', _text(NEW_METHOD), re.M | re.S
  )
  names: dict[str, Any] = {}
  exec(compile(textwrap.dedent(code), NEW_METHOD, 'exec'), names)
  made = names['feature_extraction']
  monkeypatch.setattr(methods, 'feature_extraction', made, raising=False)
  assert 'feature_extraction' in continual_settings.method_names()

  shapes = {
    'hidden': {'w': jnp.ones((2, 3))},
    'output': {'w': jnp.ones((3, 4))},
  }
  tasks = methods.Tasks(shapes, 2, (), 9, 3, heads=('output/w',))
  method = made(tasks)
  assert isinstance(method, Method)
  phi, first = method.init(jax.random.key(0), shapes, Psi(2.0), None)
  moved = method.constrain(shapes, first)
  assert moved['hidden']['w'].all() and moved['output']['w'].all()
  phi, second, record = method.continual.archive(None, phi, first)
  assert phi is shapes and record == ()
  moved = method.constrain(shapes, second)
  assert not moved['hidden']['w'].any() and moved['output']['w'].all()


def test_method_page_says_where_a_method_is_named():
  text = _text(NEW_METHOD).partition('## For several tasks')[2]
  assert '`COEFFICIENTS`' in text
  anchors = importlib.import_module('powerprop.methods.continual.anchors')
  assert anchors.COEFFICIENTS.items() <= methods.COEFFICIENTS.items()
