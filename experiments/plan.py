"""The plan and the FLOPs of a net, for every method and distribution.

  python -m experiments.plan --config=configs/plan_resnet50.py

Traces the net and computes nothing, so it needs no data and no accelerator.
Writes plan.md and plan.json to --workdir.

Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, Tables 1 and 2.
"""

import pathlib

import ml_collections

from experiments.engine import cli


def write_plan(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path | None,
  unused_data_dir: str | None,
) -> None:
  """Plans what `config` says."""
  # Not above: the command line is checked before JAX is loaded.
  from experiments.engine import runs
  from experiments.report import files
  from experiments.sparse_training import plan as sparse_plan

  plans = sparse_plan.of_config(config)
  if workdir is None:
    print(sparse_plan.markdown(plans, most=len(plans)))
    return
  with runs.disk_errors(workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    text = sparse_plan.markdown(plans, most=len(plans))
    files.write_atomically(workdir / 'plan.md', text.encode())
    # The tables are in plan.md, once each.
    costs = [{k: v for k, v in p.items() if k != 'table'} for p in plans]
    files.write_atomically(workdir / 'plan.json', files.to_json(costs))
  print(sparse_plan.markdown(plans, rest=str(workdir / 'plan.md')))


if __name__ == '__main__':
  cli.main('plan', __doc__, write_plan)
