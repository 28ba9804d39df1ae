"""The networks: one file for each component of the paper, `pixel_llm.py` puts them together."""
