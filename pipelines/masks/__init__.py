"""Edit masks: drawn shapes, boxes, maps from the model with a threshold, and regions."""
