"""Windows, engines, prediction: one image, end to end."""
