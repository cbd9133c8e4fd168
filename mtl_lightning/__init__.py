"""Multi-task learning for PyTorch Lightning."""
