"""Released weights (SAM, EVA-02, T5, the published PixelLLM) read into the components of `core`."""
