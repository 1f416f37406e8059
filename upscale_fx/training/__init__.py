"""Training what is left: fine-tuning, distillation, optimizer state carried over."""
