"""What several balancers share: solvers, draws, private optimizers, masks; each file knows no balancer.

>>> import torch
>>> from mtl_lightning.balancing.tools.simplex import project_to_simplex
>>> project_to_simplex(torch.tensor([0.9, 0.5]))
tensor([0.7000, 0.3000])
"""
