"""The pages of results say what the committed records say."""

import json
import re

import pytest

from experiments.continual import analysis
from experiments.continual import tables as continual_tables
from experiments.generative import tables as generative_tables
from experiments.one_shot import tables
from experiments.report import compare
from experiments.report import files
from experiments.report import overview
from experiments.sparse_training import tables as sparse_tables
from experiments.stream import tables as stream_tables
from tests import tiny

_RESULTS = tiny.ROOT / 'docs' / 'results'
_PAGES = sorted(_RESULTS.glob('*/README.md'))
_RUNS = [page for page in _PAGES if page.with_name('config.json').is_file()]
# A mean, half of its interval, whether that leaves out zero, and the seeds.
_CELL = re.compile(r'[+-]\d+\.\d+(?: ± \d+\.\d+\*?)? \d+/\d+')
# A mean, of nats below zero, and a standard deviation.
_MEAN = re.compile(r'(?<![\d+.-])-?\d+\.\d+ ± \d+\.\d+(?![\d*])')


def _markdown(path):
  """The tables of a run, or '' for a record of something else."""
  results = json.loads(path.read_text(encoding='utf-8'))
  if 'rows' not in results:
    return ''
  results = files.labelled(results, path.parent)
  if 'plans' in results:
    return sparse_tables.markdown(results)
  if results.get('experiment') == 'continual':
    return continual_tables.markdown(results)
  if results.get('experiment') == 'stream':
    return stream_tables.markdown(results)
  if results.get('experiment') == 'generative':
    return generative_tables.markdown(results)
  return tables.markdown(results)


def _rows(text):
  """The lines of a page's tables."""
  return '\n'.join(x for x in text.splitlines() if x.startswith('|'))


def test_committed_tables_are_those_of_their_records():
  paths = sorted(_RESULTS.glob('*/tables.md'))
  old = [
    path.parent.name
    for path in paths
    if path.read_text('utf-8') != _markdown(path.with_name('results.json'))
  ]
  assert len(paths) > 15 and not old, f'run make figures: {old} are old'


def test_records_name_no_folder_of_the_machine_that_made_them():
  # A command names its --workdir as it was typed.
  found = [
    path.parent.name
    for path in _RESULTS.glob('*/results.json')
    if re.search(
      r'=/|(?<!\S)/',
      json.loads(path.read_bytes()).get('environment', {}).get('command', ''),
    )
  ]
  assert not found


@pytest.mark.parametrize('page', _RUNS, ids=lambda p: p.parent.name)
def test_a_page_has_the_numbers_of_its_record(page):
  text = page.read_text(encoding='utf-8')
  path = page.with_name('results.json')
  shown, record = _rows(text), _markdown(path)
  assert set(_CELL.findall(shown)) == set(_CELL.findall(record))
  assert set(_MEAN.findall(shown)) <= set(_MEAN.findall(record))
  ran = json.loads(path.read_text(encoding='utf-8'))['environment']
  seconds = {f'{ran[f"{name}_seconds"]:,.0f} s' for name in ('train', 'wall')}
  assert seconds & set(re.findall(r'[\d,]+ s\b', text))
  assert ran['processor'] == 'AMD EPYC' or ran['processor'] in text
  (config,) = re.findall(r'--config=(\S+)', ran['command'])
  assert f'--config={config}' in text


def test_inference_page_has_the_numbers_of_its_records():
  folder = _RESULTS / 'task_inference'
  text = (folder / 'README.md').read_text(encoding='utf-8')
  parts = text.split('**Tasks of other classes')
  records = 'results.json', 'digits_split.json'
  shown = r'^(?:One picture|Batches of (\d+)).*?:\n\n(.*?)\n\n'
  for part, record in zip(parts, records, strict=True):
    rows = json.loads((folder / record).read_bytes())['rows']
    tables = re.findall(shown, part, re.M | re.S)
    assert len(tables) == len({row['batch'] for row in rows})
    for size, table in tables:
      lines = [x.strip('|').split('|') for x in table.splitlines()]
      (_, *ways), _, *body = [[c.strip(' `') for c in line] for line in lines]
      for tasks, *cells in body:
        for way, cell in zip(ways, cells, strict=True):
          names = ('identified', 'accuracy')
          if way == 'true task':  # of all pictures, as `moments` are
            way, names = 'moments', ('true_task_accuracy',)
          asked = {'way': way, 'tasks': int(tasks), 'batch': int(size or 1)}
          mine = [row for row in rows if asked.items() <= row.items()]
          means = [sum(row[n] for row in mine) / len(mine) for n in names]
          assert cell == ', '.join(f'{100 * mean:.1f}' for mean in means)


def test_every_page_names_the_commit_of_its_record():
  records = [p.with_name('results.json') for p in _PAGES]
  there = [path for path in records if path.is_file()]
  assert len(there) > len(_RUNS)
  for path in there:
    ran = json.loads(path.read_text(encoding='utf-8'))['environment']
    text = path.with_name('README.md').read_text(encoding='utf-8')
    assert f'`{ran["commit"][:7]}`' in text, path


def test_the_first_page_has_the_table_of_all_records():
  text = (_RESULTS / 'README.md').read_text(encoding='utf-8')
  assert overview.page(text, _RESULTS) == text, 'run make figures'
  assert text.count('\n') < 250


def test_the_first_page_says_in_short_what_its_table_says():
  text = (_RESULTS / 'README.md').read_text(encoding='utf-8')
  short, _, rest = text.partition('\n## ')
  numbers = re.findall(r'\d+\.\d+', short)
  assert len(numbers) > 15
  assert not set(numbers) - set(re.findall(r'\d+\.\d+', _rows(rest)))


def test_every_record_has_a_page_and_the_first_page_leads_to_all():
  text = (_RESULTS / 'README.md').read_text(encoding='utf-8')
  linked = set(re.findall(r'\]\((\w+)/README\.md\)', text))
  assert linked == {page.parent.name for page in _PAGES}
  # The pages of other runs have these.
  within = {'bench_continual', 'bench_export', 'bench_parts', 'bench_sparse'}
  within |= {'bench_clnp', 'bench_resnet50', 'nudged'}
  folders = {path.name for path in _RESULTS.iterdir() if path.is_dir()}
  assert folders - within == linked


def _differences(folder, baseline, other):
  """Means, without their signs, and halves of intervals, to two digits.

  Of the nets of a folder, or of several with spaces between.
  """
  nets = compare.nets_of([str(_RESULTS / name) for name in folder.split()])
  text = compare.table(nets, baseline, other)
  found = re.findall(r'[+-]([\d.]+) ± ([\d.]+)', text)
  return [tuple(map(float, pair)) for pair in found]


@pytest.mark.parametrize(
  ('folder', 'baseline', 'other', 'says'),
  [
    (
      'epn_ablation',
      'method=epn',
      'method=per_task_biases',
      'not told apart by the interval, −{} at α = 1, though all three seeds are'
      ' lower there, and +{} at α = 2',
    ),
    (
      'epn_ablation',
      'method=epn',
      'method=free_biases',
      'Free biases cost {} and {} points',
    ),
    (
      'epn_ablation',
      'method=epn',
      'method=taylor',
      'it costs {} points at α = 1, and is not told apart at α = 2 (−{}, no',
    ),
    (
      'packnet_limit',
      'method=packnet_300,alpha=1',
      'method=packnet_300_global,alpha=1',
      'the same number of weights has {} (α = 1)',
    ),
    (
      'packnet_limit',
      'method=efficient_packnet,alpha=1',
      'method=packnet_100,alpha=1',
      'for 100 it is {} and 15 ± 10 points behind',
    ),
    (
      'report_epn',
      'alpha=1',
      'alpha=1.5',
      'here it is {} points worse, and {} before pruning',
    ),
    (
      'epn_recipe',
      'method=recipe',
      'method=no_clipping',
      'without clipping −{}, all three',
    ),
    (
      'fig2_cifar10_small',
      'alpha=1,learning_rate=0.4',
      'alpha=1.5,learning_rate=0.4',
      'not told apart at 20%, and {} and {} points less at 10 and 5%',
    ),
    (
      'fig2_cifar10_small',
      'alpha=1,learning_rate=0.4',
      'alpha=2,learning_rate=0.4',
      'not told apart at 20%, and {} and {} less (all three seeds',
    ),
    (
      'fig2_cifar10_small_dense',
      'alpha=1,learning_rate=0.05',
      'alpha=2,learning_rate=0.2',
      "against α = 2's, by {} points at 10%",
    ),
    (
      'fig2_cifar10_small_10_dense',
      'alpha=1,learning_rate=0.1',
      'alpha=1.5,learning_rate=0.2',
      'α = 1.5 has {} and {} points more at 20 and 10% of',
    ),
    (
      'fig2_cifar10_small_10_dense',
      'alpha=1,learning_rate=0.1',
      'alpha=2,learning_rate=0.2',
      'and α = 2 {} and {} more at 10 and 5%',
    ),
    (
      'table1_cifar10_small',
      'method=top_kast,alpha=1,learning_rate=0.1',
      'method=iterative,alpha=1,learning_rate=0.2',
      'iterative pruning is better than Top-KAST, by {} points',
    ),
    (
      'table1_cifar10_small',
      'method=rigl,alpha=1,learning_rate=0.2',
      'method=top_kast,alpha=1,learning_rate=0.1',
      'that is better than RigL, by {},',
    ),
    (
      'table1_cifar10_small',
      'method=static,alpha=1,learning_rate=0.05',
      'method=rigl,alpha=1,learning_rate=0.2',
      'and RigL than static masks, by {},',
    ),
    (
      'table1_cifar10_small',
      'method=static,alpha=1.25,learning_rate=0.2',
      'method=rigl,alpha=1.25,learning_rate=0.4',
      'and behind static masks with Powerprop as well, by {}.',
    ),
    (
      'table1_cifar10_small',
      'method=top_kast,alpha=1,learning_rate=0.1',
      'method=top_kast,alpha=1.5,learning_rate=0.2',
      'not told apart on test data (−{})',
    ),
    (
      'digits_regrow',
      'method=set_025',
      'method=set_1',
      'SET {} points, five seeds of five',
    ),
    (
      'fig1_mnist_rates',
      'method=one_shot,alpha=1,learning_rate=0.3,sparsity=0.9114133209589917',
      'method=one_shot,alpha=3,learning_rate=0.3,sparsity=0.9114133209589917',
      'is ahead by {} points at 8.86%',
    ),
    (
      'fig1_mnist_rates',
      'method=one_shot,alpha=1,learning_rate=0.3,sparsity=0.9454440521883148',
      'method=one_shot,alpha=3,learning_rate=0.3,sparsity=0.9454440521883148',
      '8.86%, by {} at 5.46%',
    ),
    (
      'fig1_mnist_rates',
      'method=one_shot,alpha=1,learning_rate=0.3,sparsity=0.9664018171371622',
      'method=one_shot,alpha=3,learning_rate=0.3,sparsity=0.9664018171371622',
      '5.46% and by {} at 3.36%',
    ),
    (
      'digits_sparse_rates',
      'method=one_shot,alpha=1,learning_rate=0.1',
      'method=one_shot,alpha=2,learning_rate=0.1',
      'at 0.1 for both {}. But',
    ),
    (
      'digits_sparse_rates',
      'method=one_shot,alpha=1,learning_rate=0.03',
      'method=one_shot,alpha=1,learning_rate=0.3',
      'not 55.8%, by {}',
    ),
    (
      'digits_regrow_rates',
      'method=rigl_05,alpha=1.5,learning_rate=0.1',
      'method=rigl_10,alpha=1.5,learning_rate=0.03',
      '1 minus ½ on test data +{}',
    ),
    (
      'digits_regrow_rates',
      'method=set_05,alpha=1.5,learning_rate=0.1',
      'method=set_10,alpha=1.5,learning_rate=0.1',
      '1 is better than ½**, by {}',
    ),
    (
      'table1_cifar10_small_regrow',
      'method=rigl_05,alpha=1.5,learning_rate=0.1',
      'method=rigl_025,alpha=1.25,learning_rate=0.1',
      '¼ minus ½ +{}',
    ),
    (
      'table1_cifar10_small_regrow table1_cifar10_small',
      'run=table1_cifar10_small,method=rigl,alpha=1.25,learning_rate=0.4',
      'run=table1_cifar10_small_regrow,method=rigl_05,alpha=1.5,learning_rate=0.1',
      '{} points more on test data, {} on validation data',
    ),
    (
      'table1_cifar10_small_regrow table1_cifar10_small',
      'run=table1_cifar10_small,method=rigl,alpha=1,learning_rate=0.2',
      'run=table1_cifar10_small_regrow,method=rigl_05,alpha=1.5,learning_rate=0.1',
      '(55.1%): −{} points on test data',
    ),
    (
      'table1_cifar10_small_regrow table1_cifar10_small',
      'run=table1_cifar10_small,method=rigl,alpha=1,learning_rate=0.2',
      'run=table1_cifar10_small_regrow,method=rigl_01,alpha=1.25,learning_rate=0.1',
      'a tenth (−{})',
    ),
    (
      'digits_sparse_rates',
      'method=one_shot,alpha=1,learning_rate=0.3',
      'method=one_shot,alpha=2,learning_rate=0.1',
      'not told apart from that (+{}, three',
    ),
    (
      'table1_cifar10_small_regrow_others',
      'method=set_10,alpha=1.25,learning_rate=0.2',
      'method=set_05,alpha=1.25,learning_rate=0.1',
      'on test data by {} (SET)',
    ),
    (
      'table1_cifar10_small_regrow_others',
      'method=snfs_10,alpha=1.25,learning_rate=0.2',
      'method=snfs_05,alpha=1.25,learning_rate=0.1',
      '(SET), {} (SNFS)',
    ),
    (
      'table1_cifar10_small_regrow_others',
      'method=dsr_10,alpha=1.25,learning_rate=0.2',
      'method=dsr_05,alpha=1.25,learning_rate=0.2',
      '(SNFS) and {} points (DSR)',
    ),
    (
      'permuted_mnist_10_fair',
      'method=joint,alpha=1,coefficient=0,learning_rate=0.0003',
      'method=online_ewc,alpha=1,coefficient=25,learning_rate=0.001',
      'the last by {}.',
    ),
    (
      'permuted_mnist_10_fair permuted_mnist_10_fair_more',
      'run=permuted_mnist_10_fair_more,method=ewc,alpha=1,learning_rate=0.002,'
      'coefficient=50',
      'run=permuted_mnist_10_fair,method=ewc,alpha=2,learning_rate=0.003,'
      'coefficient=15',
      'lower with EWC, by {}, and as here',
    ),
  ],
)
def test_sentences_have_the_differences_of_their_records(
  folder, baseline, other, says
):
  page = _RESULTS / folder.split()[0] / 'README.md'
  text = page.read_text(encoding='utf-8')
  number = r'(\d[\d.]*) ± (\d[\d.]*)'
  pattern = number.join(map(re.escape, says.split('{}')))
  (found,) = re.findall(pattern, ' '.join(text.split()))
  pairs = _differences(folder, baseline, other)
  for mean, half in zip(found[::2], found[1::2], strict=True):
    assert any(_rounded(mean, a) and _rounded(half, b) for a, b in pairs)


def _rounded(shown, number):
  """Whether a text has the number, of two digits, in its own digits."""
  digits = len(shown.partition('.')[2])
  return abs(float(shown) - number) < 0.5 * 10.0**-digits + 0.005


def test_curves_cross_where_the_page_says():
  results, records = files.load(_RESULTS / 'fig4_small')
  after = {}  # of 5, 10 and 15 tasks, for every method, α and seed
  for (method, _, alpha, *_), group in analysis.settings(
    results['rows']
  ).items():
    for member in group:
      means = analysis.average_accuracy(analysis.matrix_of(member, records))
      key = method, alpha, member[0]['seed']
      after[key] = [means[task - 1] for task in (5, 10, 15)]
  for seed in range(2):
    for alpha, ahead in ((1.0, [1, 1, 0]), (2.0, [1, 0, 0])):
      ewc = after['online_laplace', alpha, seed]
      ours = after['efficient_packnet', alpha, seed]
      assert [a > b for a, b in zip(ewc, ours, strict=True)] == ahead
