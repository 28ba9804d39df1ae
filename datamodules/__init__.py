"""Data for pixel-aligned language models: raw formats, shards, and the LightningDataModules over them."""
