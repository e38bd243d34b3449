"""Several hosts on one machine, out of network namespaces, each running the real daemons.

`command` is the door (`shoal sandbox ...`), `lifecycle` the verbs, and under them one module
per thing of the kernel: `network`, `boot`, `processes`, `cgroups`, `mounts`. What a sandbox
consists of is decided by `plan` and kept on disk by `registry`. Its design:
docs/design/sandbox.md.
"""
