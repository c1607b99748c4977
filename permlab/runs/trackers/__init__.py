"""Mirrors of a run: Weights & Biases, TensorBoard, MLflow, several at once; nothing is ever read back.

permlab tracker=none
permlab 'tracker=[wandb,tensorboard]' tracker.artifacts=true
"""
