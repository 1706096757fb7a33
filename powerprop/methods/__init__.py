"""Ways to make a net sparse, one per file.

Each is a function of a `Brief` and of options of its own that returns a
`powerprop.types.Method`.
"""

from powerprop.methods.ac_dc import ac_dc
from powerprop.methods.dense import dense
from powerprop.methods.dsr import dsr
from powerprop.methods.iterative import fine_tune
from powerprop.methods.iterative import iterative
from powerprop.methods.lottery import lottery
from powerprop.methods.masked import Brief
from powerprop.methods.rigl import rigl
from powerprop.methods.set import set
from powerprop.methods.snfs import snfs
from powerprop.methods.snip import snip
from powerprop.methods.static import static
from powerprop.methods.targets import make_target
from powerprop.methods.targets import select
from powerprop.methods.targets import Target
from powerprop.methods.top_kast import top_kast

__all__ = (
  'Brief',
  'Target',
  'ac_dc',
  'dense',
  'dsr',
  'fine_tune',
  'iterative',
  'lottery',
  'make_target',
  'rigl',
  'select',
  'set',
  'snfs',
  'snip',
  'static',
  'top_kast',
)
