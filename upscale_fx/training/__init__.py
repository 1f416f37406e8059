"""Training pruned models: fine-tuning, distillation, and transfer of optimizer state."""
