"""Ways to train a net, one per file: sparsely, or on several tasks in turn.

Each is a function of a `Brief` (sparse training) or of `Tasks` (continual
learning), and of options of its own, that returns a `powerprop.types.Method`.
"""

from powerprop.methods.continual import anchors
from powerprop.methods.continual.bounds import joint
from powerprop.methods.continual.bounds import naive
from powerprop.methods.continual.bounds import single
from powerprop.methods.continual.clnp import clnp
from powerprop.methods.continual.efficient_packnet import efficient_packnet
from powerprop.methods.continual.ewc import ewc
from powerprop.methods.continual.ewc import online_ewc
from powerprop.methods.continual.ewc import online_laplace
from powerprop.methods.continual.l2 import l2
from powerprop.methods.continual.mas import mas
from powerprop.methods.continual.packnet import packnet
from powerprop.methods.continual.replay import a_gem
from powerprop.methods.continual.replay import experience_replay
from powerprop.methods.continual.sequential import Tasks
from powerprop.methods.continual.si import si
from powerprop.methods.continual.vcl import vcl
from powerprop.methods.dense import dense
from powerprop.methods.masked import Brief
from powerprop.methods.sparse.ac_dc import ac_dc
from powerprop.methods.sparse.dsr import dsr
from powerprop.methods.sparse.iterative import fine_tune
from powerprop.methods.sparse.iterative import iterative
from powerprop.methods.sparse.lottery import lottery
from powerprop.methods.sparse.rigl import rigl
from powerprop.methods.sparse.set import set
from powerprop.methods.sparse.snfs import snfs
from powerprop.methods.sparse.snip import snip
from powerprop.methods.sparse.static import static
from powerprop.methods.sparse.top_kast import top_kast
from powerprop.methods.targets import make_target
from powerprop.methods.targets import select
from powerprop.methods.targets import Target

# What penalties are multiplied by where a config does not say otherwise; of
# VCL, KL / N: the bound itself; of CLNP, L1 as its paper has it in the second
# layer on permuted MNIST.
COEFFICIENTS = {**anchors.COEFFICIENTS, 'vcl': 1.0, 'clnp': 1e-5}

__all__ = (
  'COEFFICIENTS',
  'Brief',
  'Target',
  'Tasks',
  'a_gem',
  'ac_dc',
  'clnp',
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
