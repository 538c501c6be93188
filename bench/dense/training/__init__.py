"""Fine-tuning of the dense models: augmentation, assignment, losses, and one loop for both tasks."""
