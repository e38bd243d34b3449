"""`shoal doctor`: what is wrong with this host for Shoal, in sentences, and what would help.

A check looks at one thing and returns findings; `checks.CHECKS` lists them all, and a new one
is a function and a row there. Looking (I/O) and judging (pure, tested) are two functions of a
check's module. Nothing is changed on the host: what must be tried out is tried in throwaway
namespaces. `command` is the door.
"""
