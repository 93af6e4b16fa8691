"""The configs that ship: in a wheel this folder is `pipeline.shipped.configs`."""
