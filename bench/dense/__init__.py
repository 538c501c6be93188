"""Dense prediction: UperNet, Mask R-CNN and Cascade Mask R-CNN on any backbone that gives four maps.

Parameter names are those of the released checkpoints. Needs the extra `dense` (torchvision, pycocotools) for detection.
Nothing is imported here, so that a command's `--help` stays quick.
"""
