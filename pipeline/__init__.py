"""The product: from a folder of images to labels, numbers and a report. Knows no Prefect."""

from pipeline.malloc import share_arena

share_arena()
