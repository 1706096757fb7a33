"""Table 3, MNIST: ten digits drawn in turn by one variational autoencoder.

The protocol of VCL, which the paper follows: per task an encoder 784-500-500
and a head 50-500-500, one shared decoder 500-500-784, 200 epochs a task, Adam
1e-4, batches of 50, importance sampling with 5,000 samples. Coefficients, γ and
α are ours: neither the paper nor VCL prints them. Every method chooses among
nine candidates, for each α, on validation data of the first three tasks: three
learning rates, the protocol's among them, with three coefficients or γ; or, of
those that have neither, nine rates. Laplace is online EWC here, as in the
paper. The Fisher information is of the gradients of single pictures, of one
batch as in the protocol; `ewc_1000` has more of them. The two `…_phi` hold φ
instead of θ, which is the same at α = 1. MNIST's validation set is its last
5,000 training pictures, a twelfth and not a tenth.

Table 3 has, in nats: fine-tuning -258.40, Laplace -108.06, EWC -105.78, SI
-111.47, VCL -94.27, EfficientPackNet -94.50; with Powerprop Laplace -96.72, EWC
-95.79, EfficientPackNet -92.15.

For a GPU; not run.

  python -m experiments.generative --config=configs/table3_mnist.py
"""

import ml_collections

_HELD = ('online_ewc', 'online_ewc_phi', 'ewc', 'ewc_phi', 'ewc_1000')
IN_PHI = ('ewc_phi', 'online_ewc_phi')
ALONE = ('naive', 'vcl', 'single')  # with nothing to choose but the rate
# The first is the protocol's.
_RATES = (1e-4, 3e-4, 1e-3)
_RATES_ALONE = (1e-4, 3e-5, 6e-5, 2e-4, 3e-4, 6e-4, 1e-3, 2e-3, 3e-3)
_FISHER = {
  'labels': 'true',
  'fisher': 'example',
  'fisher_examples': 50,
  'coefficient': (100.0, 10.0, 1000.0),
}


def get_config() -> ml_collections.ConfigDict:
  """Every field of the experiment."""
  return ml_collections.ConfigDict(
    {
      'dataset': 'mnist',
      'num_tasks': 10,
      'encoder': (500, 500),
      'latent': 50,
      'head': (500, 500),
      'decoder': (500,),
      'powerprop_on': 'shared',
      'epochs': 200.0,
      'retrain_epochs': 0.0,
      'optimizer': 'adam',
      'optimizer_kwargs': {},
      'learning_rate': _RATES,
      'learning_rate_schedule': {'kind': 'constant'},
      'l2': 0.0,
      'clip_norm': 0.0,
      'reset_optimizer': True,
      'transforms': ('powerprop',),
      'transform_kwargs': {},
      'alphas': (1.0, 1.5, 2.0),
      'seeds': 3,
      'batch_size': 50,
      'methods': (*ALONE, *_HELD, 'si', 'efficient_packnet'),
      'method_kwargs': {
        'online_ewc': dict(_FISHER),
        'online_ewc_phi': {'method': 'online_ewc', 'space': 'phi', **_FISHER},
        'ewc': dict(_FISHER),
        'ewc_phi': {'method': 'ewc', 'space': 'phi', **_FISHER},
        'ewc_1000': {'method': 'ewc', **_FISHER, 'fisher_examples': 1_000},
        'si': {'coefficient': (1.0, 0.1, 10.0)},
        # As VCL's public code: ten samples a step, σ from exp(−6) in each task.
        'vcl': {'samples': 10, 'initial_std': 0.00248, 'reset_std': True},
        # The coefficient is γ.
        'efficient_packnet': {'gamma': None, 'coefficient': (0.98, 0.95, 0.99)},
      },
      'method_training': {
        **{name: {'learning_rate': _RATES_ALONE} for name in ALONE},
        **{name: {'alphas': (1.5, 2.0)} for name in IN_PHI},
        'efficient_packnet': {'retrain_epochs': 100.0},
      },
      'labels': {
        'online_ewc': 'online EWC (Laplace)',
        'online_ewc_phi': 'online EWC in φ',
        'ewc_phi': 'EWC in φ',
        'ewc_1000': 'EWC, F of 1,000',
        'efficient_packnet': 'EfficientPackNet (by γ)',
      },
      'choose_learning_rate': True,
      'search_tasks': 3,
      'search_seeds': 1,
      'retries': 2,
      'retry_factor': 0.3,
      'likelihood_samples': 5_000,
      'likelihood_pictures': 0,
      'matrix_samples': 100,
      'executor': 'auto',
      'chunk_steps': 2_000,
      'checkpoint_seconds': 60.0,
    }
  )
