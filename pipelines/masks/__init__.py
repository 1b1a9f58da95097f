"""Edit masks: drawn shapes, boxes, maps of the model cut in two, and masks on the latent grid."""
