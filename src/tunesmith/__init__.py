"""Fine-tune large language models on an ordinary machine, and prove the result."""

import sys
from typing import Any

__version__ = "0.1.0"

# Where the package `kernels` is installed, transformers and bitsandbytes fetch compiled code from the hub
# with it and run it, some of it as soon as they are imported. So it counts as not installed here, unless the
# program that imports Tunesmith uses it itself.
_modules: Any = sys.modules
_modules.setdefault("kernels", None)
