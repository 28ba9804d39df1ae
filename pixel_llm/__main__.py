"""`python -m pixel_llm` is the command `pixel-llm`."""

import sys

from pixel_llm.cli import main

sys.exit(main())
