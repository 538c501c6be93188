"""Top-1 on ImageNet and its variants: images, recipes, evaluation with predictions kept, paired comparison."""
