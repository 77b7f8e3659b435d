"""The embedded store: LMDB under the ports Journal, Broadcasts, Receipts and Directory; nothing above may know that it
is LMDB.
"""

from gateway.store.environment import backup_folder
from gateway.store.keys import ServerKeys
from gateway.store.store import Store

__all__ = ["ServerKeys", "Store", "backup_folder"]
