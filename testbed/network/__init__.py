"""Link state in the kernel: nftables for loss, cuts and counts, HTB for rates, netem for delay; one agent sets it all.

`agent`, `session` and `kernel` run with NET_ADMIN in the host's network namespace; `client` is how a supervisor speaks
to them, and needs the standard library only. What a link should do is decided in core (links.py, faults.py).
"""
