"""Node files on this machine's disk.

<root>/store/<wheel sha256>-<cache tag>/   each wheel once: unpacked, compiled, read-only
<root>/prefixes/<lock digest>/             environments: hard links into the store
<root>/work/<work id>/                     working folders of attempts and revisions
<root>/tmp/, <root>/locks/                 what is being made, and who makes it
"""

from cloche_shared.adapters.local_node_files.node import LocalNodeFiles

__all__ = ["LocalNodeFiles"]
