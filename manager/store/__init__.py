"""The replicated store: etcd behind a byte-level seam, and what is built on that seam.

`kv` is the seam. Nothing above `manager.store` knows etcd, leases or transactions by name.
Design: docs/design/store.md.
"""
