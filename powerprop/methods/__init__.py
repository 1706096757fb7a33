"""Ways to train a net, one per file: sparsely, or on several tasks in turn.

Each is a function of a `Brief` (sparse training) or of `Tasks` (continual
learning), and of options of its own, that returns a `powerprop.types.Method`.
"""

from powerprop.methods import anchors
from powerprop.methods.ac_dc import ac_dc
from powerprop.methods.bounds import joint
from powerprop.methods.bounds import naive
from powerprop.methods.bounds import single
from powerprop.methods.dense import dense
from powerprop.methods.dsr import dsr
from powerprop.methods.efficient_packnet import efficient_packnet
from powerprop.methods.ewc import ewc
from powerprop.methods.ewc import online_ewc
from powerprop.methods.ewc import online_laplace
from powerprop.methods.iterative import fine_tune
from powerprop.methods.iterative import iterative
from powerprop.methods.l2 import l2
from powerprop.methods.lottery import lottery
from powerprop.methods.mas import mas
from powerprop.methods.masked import Brief
from powerprop.methods.packnet import packnet
from powerprop.methods.replay import a_gem
from powerprop.methods.replay import experience_replay
from powerprop.methods.rigl import rigl
from powerprop.methods.sequential import Tasks
from powerprop.methods.set import set
from powerprop.methods.si import si
from powerprop.methods.snfs import snfs
from powerprop.methods.snip import snip
from powerprop.methods.static import static
from powerprop.methods.targets import make_target
from powerprop.methods.targets import select
from powerprop.methods.targets import Target
from powerprop.methods.top_kast import top_kast
from powerprop.methods.vcl import vcl

# What penalties are multiplied by where a config does not say otherwise; of
# VCL, KL / N: the bound itself.
COEFFICIENTS = {**anchors.COEFFICIENTS, 'vcl': 1.0}

__all__ = (
  'COEFFICIENTS',
  'Brief',
  'Target',
  'Tasks',
  'a_gem',
  'ac_dc',
  'dense',
  'dsr',
  'efficient_packnet',
  'ewc',
  'experience_replay',
  'fine_tune',
  'iterative',
  'joint',
  'l2',
  'lottery',
  'make_target',
  'mas',
  'naive',
  'online_ewc',
  'online_laplace',
  'packnet',
  'rigl',
  'select',
  'set',
  'si',
  'single',
  'snfs',
  'snip',
  'static',
  'top_kast',
  'vcl',
)
