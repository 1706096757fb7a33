"""Every method on Hsu et al.'s 10 tasks of permuted MNIST, domain-incremental.

Each method with a coefficient is run with the protocol's and with the one of
five that is best on validation data (first three tasks, one seed): equal
budgets. Penalties with a Fisher information also on φ.

  python -m experiments.continual --config=configs/permuted_mnist_10.py

On a CPU: permuted_mnist_10_fair, which searches learning rates as well.
"""

import ml_collections

from configs import fig4_permuted_mnist

_FACTORS = (1.0, 0.01, 0.1, 10.0, 100.0)


def _candidates(protocol: float) -> tuple[float, ...]:
  """The protocol's coefficient, then the others."""
  return tuple(protocol * factor for factor in _FACTORS)


def get_config() -> ml_collections.ConfigDict:
  """Hsu et al. 2018: net, batch, epochs, Adam 1e-4, the coefficients.

  The packing methods have the recipe of fig4_permuted_mnist. The rest of the
  candidates, the memory of 4,000 pictures for all tasks together and VCL's
  settings are defaults of ours.
  """
  return ml_collections.ConfigDict(
    {
      'dataset': 'mnist',
      'sequence': 'permuted',
      'scenario': 'domain',
      'num_tasks': 10,
      'epochs': 10.0,
      'retrain_epochs': 0.0,
      'network': 'mlp',
      'network_kwargs': {'hidden': (1000, 1000)},
      'optimizer': 'adam',
      'optimizer_kwargs': {},
      'learning_rate': (1e-4,),
      'learning_rate_schedule': {'kind': 'constant'},
      'l2': 0.0,
      'label_smoothing': 0.0,
      'augment': 'none',
      'clip_norm': 0.0,
      'reset_optimizer': False,
      'transforms': ('powerprop',),
      'transform_kwargs': {},
      'alphas': (1.0, 2.0),
      'seeds': 10,
      'batch_size': 128,
      'methods': (
        'naive',
        'l2',
        'ewc',
        'ewc_phi',
        'online_ewc',
        'online_ewc_phi',
        'online_laplace',
        'si',
        'si_phi',
        'mas',
        'mas_phi',
        'vcl',
        'vcl_coreset',
        'experience_replay',
        'a_gem',
        'packnet',
        'efficient_packnet',
        'epn_retrained',
        'single',
        'joint',
      ),
      'method_kwargs': {
        'l2': {'coefficient': _candidates(0.02)},
        'ewc': {'coefficient': _candidates(150.0)},
        'ewc_phi': {
          'method': 'ewc',
          'space': 'phi',
          'coefficient': _candidates(150.0),
        },
        'online_ewc': {'coefficient': _candidates(250.0)},
        'online_ewc_phi': {
          'method': 'online_ewc',
          'space': 'phi',
          'coefficient': _candidates(250.0),
        },
        'online_laplace': {'coefficient': _candidates(1.0)},
        'si': {'coefficient': _candidates(10.0)},
        'si_phi': {
          'method': 'si',
          'space': 'phi',
          'coefficient': _candidates(10.0),
        },
        'mas': {'coefficient': _candidates(0.1)},
        'mas_phi': {
          'method': 'mas',
          'space': 'phi',
          'coefficient': _candidates(0.1),
        },
        'vcl': {'coefficient': _candidates(1.0)},
        'vcl_coreset': {
          'method': 'vcl',
          'coreset': 200,
          'coefficient': _candidates(1.0),
        },
        'experience_replay': {'memory_size': 4_000},
        'a_gem': {'memory_size': 4_000},
        'efficient_packnet': {
          'gamma': 0.9,
          'search': 'binary',
          'rates': fig4_permuted_mnist.RATES,
        },
        'epn_retrained': fig4_permuted_mnist.RETRAINED,
      },
      'method_training': {
        # At α = 1 they are the penalties on θ.
        **{
          name: {'alphas': (2.0,)}
          for name in ('ewc_phi', 'online_ewc_phi', 'si_phi', 'mas_phi')
        },
        'packnet': fig4_permuted_mnist.RECIPE | {'retrain_epochs': 1.0},
        'efficient_packnet': fig4_permuted_mnist.RECIPE,
        'epn_retrained': fig4_permuted_mnist.RETRAINED_RECIPE
        | {'retrain_epochs': 1.0},
      },
      'labels': {
        'ewc_phi': 'EWC on φ',
        'online_ewc_phi': 'online EWC on φ',
        'si_phi': 'SI on φ',
        'mas_phi': 'MAS on φ',
        'vcl_coreset': 'VCL, coreset',
        'epn_retrained': 'EfficientPackNet, retrained',
      },
      'search_tasks': 3,
      'search_seeds': 1,
      'evaluate_every': 1,
      'forward_transfer': True,
      'retries': 2,
      'retry_factor': 0.3,
      'failure_accuracy': 0.2,
      'executor': 'auto',
      'chunk_steps': 429,
      'checkpoint_seconds': 60.0,
    }
  )
