"""A small world of coloured shapes, written in the official raw formats, so that everything runs on a fresh machine."""
