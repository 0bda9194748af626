"""Run directories: metrics, TensorBoard, stores, and checkpoints read back."""
