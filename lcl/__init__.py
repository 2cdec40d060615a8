"""Early visual cortex learned from natural images, layer by layer."""
