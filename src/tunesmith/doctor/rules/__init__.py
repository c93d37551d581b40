"""The ailments, one file each. A rule is a module with `TITLE`, `IS_LIVE` and `examine(signs)`.

`IS_LIVE` says whether it may speak while the run goes on. Adding an ailment is a file and a line here.
"""

from types import MappingProxyType, ModuleType

RULES: MappingProxyType[str, ModuleType] = MappingProxyType({})
