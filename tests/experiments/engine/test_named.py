"""What a config names of the user's own, 'package.module:function'."""

import sys

import jax
import ml_collections
import pytest

from experiments import data
from experiments.continual import settings as continual_settings
from experiments.engine import classification
from experiments.engine import fields as fields_lib
from experiments.engine import making
from experiments.engine import named
from experiments.engine import overrides
from experiments.engine import settings
from experiments.sparse_training import settings as sparse_settings
from tests import continual_run_tiny
from tests import sparse_tiny
from tests import tiny

_CODE = """
import optax
import powerprop
from powerprop import methods


def net(num_classes, width: int = 5):
  from experiments.engine import networks
  return networks.mlp(num_classes, hidden=(width,))


def plain(learning_rate, decay=0.0):
  return optax.sgd(learning_rate)


def halved(inner, alpha, share: float = 0.5):
  return powerprop.powerprop(optax.chain(inner, optax.scale(share)), alpha)


def moving(inner, alpha):
  return powerprop.powerprop(inner, optax.linear_schedule(2.0, 3.0, 10))


def keep(brief, *, every: int = 3):
  return methods.set(brief, every=every)


def rigl(brief):
  return methods.rigl(brief)


def after(tasks, *, memory_size: int = 5):
  return methods.naive(tasks)


def pull(tasks):
  return methods.l2(tasks)


number = 3
"""


@pytest.fixture(scope='module', autouse=True)
def folder(tmp_path_factory):
  """A folder of the user's own, which is the current one."""
  path = tmp_path_factory.mktemp('own')
  (path / 'ownpart').mkdir()
  (path / 'ownpart' / 'things.py').write_text(_CODE)
  for name, text in {
    'raises': 'x = 1\nx / 0\n',
    'leaves': 'import sys\nsys.exit()\n',
    'wrong': 'def f(:\n',
    'needs': 'import there_is_no_such_module\n',
  }.items():
    (path / f'ownpart_{name}.py').write_text(text)
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(path)
    patch.setattr(sys, 'path', list(sys.path))
    yield path


_OWN = 'ownpart.things:'


@pytest.mark.parametrize(
  'value, parts',
  [
    ('nowhere.things:net', ["no module 'nowhere' in ", 'PYTHONPATH']),
    ('ownpart.nothing:net', ["no module 'ownpart.nothing'"]),
    (f'{_OWN}nett', ["has no function 'nett' (did you mean 'net'?)"]),
    (f'{_OWN}number', ["has no function 'number'"]),
    ('ownpart:', ["must be 'package.module:function'"]),
    (':net', ["must be 'package.module:function'"]),
    ('a:b:c', ["must be 'package.module:function'"]),
    ('ownpart_raises:f', ['ZeroDivisionError', 'raises.py, line 2', 'mend']),
    ('ownpart_leaves:f', ['SystemExit', 'mend it']),
    ('ownpart_wrong:f', ['SyntaxError', 'line 1', 'mend it']),
    ('ownpart_needs:f', ['importing ownpart_needs fails', 'no_such_module']),
  ],
)
@pytest.mark.parametrize(
  'field, config',
  [
    ('network', tiny.config),
    ('dataset', tiny.config),
    ('optimizer', tiny.config),
    ('transforms', tiny.config),
    ('methods', sparse_tiny.config),
    ('methods', continual_run_tiny.config),
    ('sequence', continual_run_tiny.config),
  ],
)
def test_what_is_not_there_is_a_sentence(field, config, value, parts):
  check = {
    tiny.config: settings.check,
    sparse_tiny.config: sparse_settings.check,
    continual_run_tiny.config: continual_settings.check,
  }[config]
  kwargs = {'network': 'network_kwargs', 'optimizer': 'optimizer_kwargs'}
  more = {kwargs[field]: {}} if field in kwargs else {}
  with pytest.raises(settings.ConfigError) as error:
    check(config(**{field: value}, **more))
  text = str(error.value)
  assert all(part in text for part in [repr(value), *parts]), text
  assert text.endswith('.') and '\n' not in text and len(text) < 500, text


def test_functions_go_by_their_names():
  given = sparse_tiny.config(
    network=f'{_OWN}net',
    network_kwargs={'width': 4},
    optimizer=f'{_OWN}plain',
    optimizer_kwargs={'decay': 0.1},
    transforms=('powerprop', f'{_OWN}halved'),
    transform_kwargs={'halved': {'share': 0.25}},
    methods=('dense', f'{_OWN}keep', 'twice'),
    method_kwargs={
      'keep': {'every': 4},
      'twice': {'method': f'{_OWN}keep'},
    },
    labels={'halved': 'Half', 'keep': 'Kept'},
  )
  s = sparse_settings.check(given)
  assert s.training.transforms == ('powerprop', 'halved')
  assert s.methods == ('dense', 'keep', 'twice')
  assert s.training.transform_kwargs['halved'] == {
    'share': 0.25,
    'transform': f'{_OWN}halved',
  }
  # With all defaults; that of a resolved config is the same, and checks.
  full = sparse_settings.resolved(given.to_dict())
  assert full['method_kwargs']['twice'] == {
    'every': 3,
    'method': f'{_OWN}keep',
  }
  assert full['network_kwargs'] == {'width': 4}
  assert sparse_settings.resolved(full) == full
  again = sparse_settings.check(ml_collections.ConfigDict(full))
  assert again.methods == s.methods
  assert making.adaptive(s.training.transforms, full['transform_kwargs']) == ()


def test_a_key_may_have_the_module_where_it_has_no_dot():
  out = named.by_short_names(
    {
      'transforms': 'powerprop',
      'methods': ('mine:keep', 'naive'),
      'method_kwargs': {'mine:keep': {'every': 3}, 'keep': {'end': 9}},
      'labels': {'mine:keep': 'Kept'},
      'layer_densities': {'(?:a|b)': 0.1},
    }
  )
  assert out['methods'] == ['keep', 'naive']
  assert out['labels'] == {'keep': 'Kept'}
  assert out['method_kwargs'] == {
    'keep': {'every': 3, 'end': 9, 'method': 'mine:keep'}
  }
  assert out['layer_densities'] == {'(?:a|b)': 0.1}
  same = {'methods': ('naive',), 'method_kwargs': {}, 'transforms': 'powerprop'}
  assert named.by_short_names(same) == same


def test_two_functions_of_one_name_are_told_apart():
  with pytest.raises(settings.ConfigError, match='give one of them another'):
    sparse_settings.check(
      sparse_tiny.config(methods=(f'{_OWN}keep', 'other:keep'))
    )
  with pytest.raises(settings.ConfigError, match='as one of ours does'):
    sparse_settings.check(sparse_tiny.config(methods=f'{_OWN}rigl'))
  s = sparse_settings.check(
    sparse_tiny.config(
      methods=('rigl', 'mine'),
      method_kwargs={'mine': {'method': f'{_OWN}rigl'}},
    )
  )
  assert s.methods == ('rigl', 'mine')


def test_a_method_is_of_the_other_experiment():
  with pytest.raises(settings.ConfigError, match='no argument called brief'):
    sparse_settings.check(sparse_tiny.config(methods=f'{_OWN}after'))
  with pytest.raises(settings.ConfigError, match='no argument called tasks'):
    continual_settings.check(continual_run_tiny.config(methods=f'{_OWN}keep'))
  with pytest.raises(settings.ConfigError, match='no argument called alpha'):
    settings.check(tiny.config(transforms=f'{_OWN}plain'))


def test_options_of_functions_are_checked():
  for kwargs, part in (
    ({'evry': 3}, "did you mean 'every'"),
    ({'every': 'often'}, 'method_kwargs.keep.every'),
  ):
    with pytest.raises(settings.ConfigError) as error:
      sparse_settings.check(
        sparse_tiny.config(
          methods=f'{_OWN}keep', method_kwargs={'keep': kwargs}
        )
      )
    assert part in str(error.value)
  with pytest.raises(settings.ConfigError, match='transform_kwargs.halved'):
    settings.check(
      tiny.config(
        transforms=f'{_OWN}halved',
        transform_kwargs={'halved': {'share': 'all'}},
      )
    )
  with pytest.raises(settings.ConfigError, match='network_kwargs.width'):
    settings.check(
      tiny.config(network=f'{_OWN}net', network_kwargs={'width': 1.5})
    )


def test_a_transform_that_moves_alpha_is_known():
  s = settings.check(tiny.config(transforms=f'{_OWN}moving'))
  assert making.adaptive(s.transforms, s.transform_kwargs) == ('moving',)
  with pytest.raises(settings.ConfigError, match='transforms has moving'):
    continual_settings.check(
      continual_run_tiny.config(transforms=f'{_OWN}moving')
    )
  s = sparse_settings.check(sparse_tiny.config(transforms=f'{_OWN}moving'))
  shapes = {'output': {'w': jax.ShapeDtypeStruct((64, 10), 'float32')}}
  aims = sparse_settings.make_targets(s, shapes, {})
  with pytest.raises(settings.ConfigError, match='transforms has moving'):
    sparse_settings.make_methods(s, aims)


def test_the_current_folder_comes_first(tmp_path, monkeypatch):
  for where, number in (('far', 1), ('here', 2)):
    (tmp_path / where).mkdir()
    (tmp_path / where / 'ownpart_twice.py').write_text(
      f'def f():\n  return {number}\n'
    )
  monkeypatch.setattr(sys, 'path', [str(tmp_path / 'far'), *sys.path])
  monkeypatch.chdir(tmp_path / 'here')
  assert named.function('network', 'ownpart_twice:f', {})() == 2


@pytest.mark.parametrize(
  'path', ['method_kwargs.keep.every', f'method_kwargs.{_OWN}keep.every']
)
def test_overrides_of_functions(path):
  fields = fields_lib.of('sparse_training')
  config = sparse_tiny.config()
  overrides.apply(
    config,
    [
      ('methods', f'({_OWN}keep,dense)'),
      ('transforms', f'{_OWN}halved'),
      ('network', f'{_OWN}net'),
      ('network_kwargs', "{'width': 3}"),
      (path, '7'),
      ('transform_kwargs', f"{{'{_OWN}halved': {{'share': 0.5}}}}"),
      (f'labels.{_OWN}halved', 'Half'),
    ],
    fields,
  )
  s = sparse_settings.check(config)
  assert s.methods == ('keep', 'dense')
  assert s.method_kwargs['keep']['every'] == 7
  assert s.training.transform_kwargs['halved']['share'] == 0.5
  assert s.training.labels == {'halved': 'Half'}


def test_a_penalty_of_ones_own_needs_a_coefficient():
  def made(**kwargs):
    s = continual_settings.check(
      continual_run_tiny.config(
        methods=f'{_OWN}pull', method_kwargs={'pull': kwargs}
      )
    )
    sequence = continual_settings.make_sequence(s, data.load('digits'))
    shapes = {'output': {'w': jax.ShapeDtypeStruct((64, 10), 'float32')}}
    problem = classification.of_settings(s.training, sequence.dataset, sequence)
    return continual_settings.make_method(s, 'pull', sequence, problem, shapes)

  with pytest.raises(settings.ConfigError, match='without a coefficient'):
    made()
  assert made(coefficient=2.0).continual.penalty is not None
